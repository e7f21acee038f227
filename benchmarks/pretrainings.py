"""Which pretraining is worth its hours: objectives at equal compute, from several seeds, scored on development sets.

    python -m benchmarks pretrainings --data data/moleculenet --folder runs/pretrainings [--only descriptors]

`examples/pretrain_box/run.sh` trains each on one corpus with structures; the speeds of `benchmarks/objectives.py`, as committed, say how
many updates each may take. Frozen probes and `moleblend finetune` from the 2D graph say what came of it: classes of Tox21, whose molecules
are in the corpus without them, and the HOMO-LUMO gap of QM9, which is not. Random weights are what `moleblend finetune` makes of them by
default, size and epochs. What the folder has is not done again.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness import RESULTS, ROOT, Row, row
from moleblend_fs.finetune.progress import Progress
from moleblend_fs.finetune.run import finetune
from moleblend_fs.finetune.settings import Settings

PAPER = "blend_then_predict"


class Way(NamedTuple):
    """Of pretraining: its objective as `moleblend train` has it, the sidecars of its stores, and the objectives whose time a step takes."""

    objective: str
    sidecars: str
    steps: tuple[str, ...]


WAYS = {
    "blending": Way(PAPER, "", (PAPER,)),
    "noisy nodes": Way("denoise", "", ("denoise",)),
    "descriptors": Way("descriptors", "descriptors", ("descriptors",)),
    "blending + descriptors": Way(f"{PAPER},descriptors", "descriptors", (PAPER, "descriptors")),
    "3D InfoMax": Way("info3d", "", ("info3d",)),
}
SCRATCH = "none"
CORPUS = "tox21 toxcast moses"


class Development(NamedTuple):
    """A table that results are chosen by."""

    path: Path
    targets: tuple[str, ...]
    kind: str
    score: str
    fractions: tuple[float, float, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder with the MoleculeNet files")
    parser.add_argument("--folder", type=Path, required=True, help="where the corpus and the runs are kept")
    parser.add_argument("--moses", default="molsets", help="the package, or its table (default %(default)s)")
    parser.add_argument("--moses-sample", type=int, default=8000, help="of its molecules (default %(default)s)")
    parser.add_argument("--updates", type=int, default=1500, help=f"of {PAPER}; others take as long (default %(default)s)")
    parser.add_argument("--arch", default="small", help="size of the model (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=15, help="of finetuning from weights (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=(*WAYS, SCRATCH), default=[SCRATCH, *WAYS])


def main(args: argparse.Namespace) -> list[Row]:
    folder = args.folder.resolve()
    rows = []
    for name in args.only:
        updates = equal_updates(WAYS[name], args.updates) if name in WAYS else 0
        scores: dict[str, list[float]] = {}
        for seed in range(1, args.seeds + 1):
            weights = SCRATCH
            if name in WAYS:
                run = folder / f"{name.replace(' ', '_')}-{args.arch}-{updates}-seed{seed}"
                weights = str(pretrained(WAYS[name], run, updates, seed, args))
                for each in csv.DictReader((run / "probes.csv").open()):
                    if each["checkpoint"].endswith("checkpoint_last.pt"):
                        scores.setdefault(f"{each['store']}, frozen probe, {each['score']}", []).append(float(each["value"]))
            for table, development in tables(args).items():
                out = folder / "finetuned" / f"{table}-{name.replace(' ', '_')}-{args.arch}-{updates}-seed{seed}"
                epochs = 1 if args.tiny else args.epochs if name in WAYS else 0
                scores.setdefault(f"{table}, finetuned, {development.score}", []).append(finetuned(development, out, weights, seed, epochs))
        how = f"{args.arch}, {updates} updates of 64, {args.epochs} epochs of finetuning" if name in WAYS else "as finetuning's table says"
        case = f"{name if name in WAYS else 'random weights'}, {how}, {args.seeds} seeds"
        rows += [row("pretrainings", case, metric, "", values) for metric, values in scores.items()]
    return rows


def equal_updates(way: Way, updates: int) -> int:
    """As many updates as take as long as so many of blending, by the committed speeds."""
    speeds = {
        line["case"].split(",")[0]: float(line["p50"])
        for line in csv.DictReader(RESULTS.open())
        if line["benchmark"] == "objectives" and line["metric"] == "training step" and not line["commit"].endswith("+")
    }
    return max(1, round(updates / sum(speeds[PAPER] / speeds[name] for name in way.steps)))


def pretrained(way: Way, run: Path, updates: int, seed: int, args: argparse.Namespace) -> Path:
    """Weights of one pretraining."""
    settings = {
        "DATA": str(args.data.resolve()),
        "MOSES": args.moses,
        "MOSES_SAMPLE": str(args.moses_sample),
        "CORPUS": CORPUS,
        "CONFORMERS": "1",
        "STORES": str(args.folder.resolve() / "corpus"),
        "OUT": str(run),
        "OBJECTIVE": way.objective,
        "SIDECARS": way.sidecars,
        "UPDATES": str(updates),
        "COOLDOWN": "0",
        "SEED": str(seed),
        "ARCH": args.arch,
        "WORKERS": "1",
        **({"SCALE": "tiny"} if args.tiny else {}),
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = ROOT / "examples" / "pretrain_box" / "run.sh"
    subprocess.run([script], env=os.environ | settings | {"PATH": path}, stdin=subprocess.DEVNULL, check=True)
    return run / "weights" / "small"


def tables(args: argparse.Namespace) -> dict[str, Development]:
    """Development sets, of which about a thousand molecules are trained on."""
    tox21 = next(path for path in (args.data / "tox21.csv", args.data / "tox21.csv.gz") if path.is_file())
    sample = ROOT / "examples" / "quickstart" / "qm9_sample.csv.xz"
    return {
        "Tox21": Development(tox21, ("*-*",), "classification", "roc_auc", (0.13, 0.03, 0.84)),
        "QM9 gap from 2D": Development(sample, ("HOMO_LUMO_gap_au",), "regression", "rmse", (0.25, 0.1, 0.65)),
    }


def finetuned(table: Development, out: Path, weights: str, seed: int, epochs: int) -> float:
    """Test score of one member; 0 epochs are those of the table in docs/finetune.md."""
    settings = Settings(
        targets=table.targets,
        kind=table.kind,
        split="random",
        fractions=table.fractions,
        ensemble=1,
        seed=seed,
        weights=weights,
        epochs=epochs,
    )
    if not (out / "report.html").is_file():
        finetune(str(table.path), out, settings, jobs=1, progress=Progress())
    found = json.loads((out / "metrics.json").read_text())["models"]["moleblend"]
    return float(found["mean"][table.score]["value"])
