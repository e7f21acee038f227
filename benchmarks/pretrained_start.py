"""What comes of starting from pretrained weights, and what that depends on: a few training molecules, many to test on.

    python -m benchmarks pretrained_start --weights runs/pretrain/checkpoint_last.pt --table Tox21 tox21.csv.gz '*-*' --folder runs/start

All is `moleblend finetune TABLE OUT --split random` with one seed after the other, for splits and members; what the folder has already is
not trained again. Tables are those of development sets: what is learned here chooses defaults.
"""

import argparse
import dataclasses
import json
from pathlib import Path

from benchmarks.harness import Row, row
from moleblend_fs.checkpoint.read import Checkpoint, hidden_of_molecules, load
from moleblend_fs.checkpoint.write import save
from moleblend_fs.comparison.score_of_predictions import PRIMARY
from moleblend_fs.finetune.progress import Progress
from moleblend_fs.finetune.run import finetune
from moleblend_fs.finetune.settings import Settings

ENCODER, WHOLE = "encoder", "whole"
"""Weights without any head, and with the hidden layer that a property head goes on from."""
WAYS = {
    "from random weights": {"weights": "none"},
    "from random weights, of the same size": {"weights": "none", "arch": "small", "lr": 5e-4},
    "from weights, head at random, all at the encoder's steps": {"weights": ENCODER, "output_scale": 1.0},
    "from weights, hidden layer goes on, all at the encoder's steps": {"weights": WHOLE, "output_scale": 1.0},
    "from weights, head at random, last layer ten times as fast": {"weights": ENCODER},
    "from weights, hidden layer goes on, last layer ten times as fast": {"weights": WHOLE},
    "the same with five times the learning rate of all": {"weights": WHOLE, "lr": 1e-3},
    "the same with three times the epochs": {"weights": WHOLE, "epochs": 30},
    "head at random on the graph token, last layer ten times as fast": {"weights": ENCODER, "readout": "token"},
    "head at random on the mean of the atoms, last layer ten times as fast": {"weights": ENCODER, "readout": "mean"},
}
"""What is said of a way -> its settings. The learning rate is that of the table in docs/finetune.md where none is given."""
BASELINES = ("ECFP + random forest", "ECFP + logistic regression", "ECFP + ridge regression")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", type=Path, required=True, help="a checkpoint of pretraining whose head read whole molecules")
    parser.add_argument("--table", nargs=3, action="append", required=True, metavar=("NAME", "PATH", "TARGET"))
    parser.add_argument("--kind", default="classification", choices=sorted(PRIMARY))
    parser.add_argument("--folder", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--fractions", default="0.13,0.03,0.84", help="of train, valid and test (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)


def main(args: argparse.Namespace) -> list[Row]:
    weights = {"none": "none", **prepared(load(args.weights), args.folder)}
    train, valid, test = map(float, args.fractions.split(","))
    shared = Settings(kind=args.kind, split="random", fractions=(train, valid, test), ensemble=1)
    rows = []
    for name, path, target in args.table:
        found: dict[str, list[float]] = {}
        molecules = 0
        for number, (way, changes) in enumerate(WAYS.items()):
            chosen = {"epochs": args.epochs, **changes, "weights": weights[str(changes["weights"])]}
            if changes["weights"] == "none":
                chosen.pop("epochs")  # as long as the table says
            for seed in range(args.seeds):
                settings = dataclasses.replace(shared, targets=(target,), seed=seed, **chosen)
                out = args.folder / f"{name}-way{number}-seed{seed}"
                if not (out / "report.html").is_file():
                    finetune(path, out, settings, jobs=1, progress=Progress())
                metrics = json.loads((out / "metrics.json").read_text())
                molecules = metrics["molecules"]["fold0"]["train"]
                for model, label in (("moleblend", way), *((each, each) for each in BASELINES if number == 0)):
                    if model in metrics["models"]:
                        found.setdefault(label, []).append(metrics["models"][model]["mean"][PRIMARY[args.kind]]["value"])
        case = f"{name}, {molecules} training molecules, {args.seeds} random splits, {args.epochs} epochs from weights"
        rows += [row("pretrained_start", case, f"test {PRIMARY[args.kind]}, {label}", "", values) for label, values in found.items()]
    return rows


def prepared(found: Checkpoint, folder: Path) -> dict[str, str]:
    """Checkpoint folders `ENCODER` and `WHOLE`, as paths."""
    encoder = {name: value for name, value in found.weights.items() if not name.startswith("heads.")}
    bare = dataclasses.replace(found, config=dataclasses.replace(found.config, heads=(), molecule_values=1, sizes={}), card=None)
    paths = {}
    for name, more in ((ENCODER, {}), (WHOLE, hidden_of_molecules(found)[1])):
        paths[name] = str(folder / name)
        if not (folder / name).is_dir():
            save(dataclasses.replace(bare, weights=encoder | more), folder / name)
    return paths
