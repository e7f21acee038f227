"""Of repeated splits of a table: what share of test labels the 90 % intervals of `moleblend finetune` hold, and whether its flag of the
domain tells where errors are large.

    python -m benchmarks coverage --table ESOL esol.csv.gz logSolubility --table Lipophilicity lipo.csv.gz exp --folder runs/coverage

All is as `moleblend finetune TABLE OUT --target TARGET --split random --repeats R` does it, from the weights that it takes; intervals are
calibrated on validation molecules. What the folder has already is not trained again.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np

from benchmarks.harness import Row, row
from moleblend_fs.finetune.progress import Progress
from moleblend_fs.finetune.run import finetune
from moleblend_fs.finetune.settings import Settings
from moleblend_fs.predictions.domain import Domain

COLUMNS = ("predicted", "low", "high")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--table", nargs=3, action="append", required=True, metavar=("NAME", "PATH", "TARGET"))
    parser.add_argument("--folder", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--split", default="random", choices=("random", "scaffold-balanced", "butina"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=0, help="members trained at a time (default: as many as there are cores)")


def main(args: argparse.Namespace) -> list[Row]:
    rows = []
    for name, path, target in args.table:
        settings = Settings(targets=(target,), split=args.split, repeats=args.repeats)
        out = args.folder / f"{name}-{args.split}"
        if not (out / "report.html").is_file():
            finetune(path, out, settings, jobs=args.jobs, progress=Progress())
        rows += measured(out, target, f"{name}, {args.repeats} {args.split} splits, default settings")
    return rows


def measured(out: Path, target: str, case: str) -> list[Row]:
    """The rows of a finished run."""
    with open(out / "predictions_test.csv", newline="") as stream:
        tested = [line for line in csv.DictReader(stream) if line["status"].startswith("ok") and line[target]]
    smiles = next(name for name in tested[0] if name.lower() == "smiles")
    with open(out / "training_molecules.csv", newline="") as stream:
        known = {int(line["row"]): line["smiles"] for line in csv.DictReader(stream)}
    held, flagged, ratios, inside_all = [], [], [], []
    for fold, parts in json.loads((out / "splits.json").read_text())["folds"].items():
        mine = [line for line in tested if line["fold"] == fold]
        label = np.array([float(line[target]) for line in mine])
        predicted, low, high = (np.array([float(line[f"{target} ({column})"]) for line in mine]) for column in COLUMNS)
        inside = (low <= label) & (label <= high)
        domain = Domain(known[i] for i in parts["train"])
        outside = domain.outside(domain.similarity([line[smiles] for line in mine]))
        error = np.abs(predicted - label)
        held.append(100 * inside.mean())
        flagged.append(100 * outside.mean())
        inside_all.append(inside)
        if outside.any():
            ratios.append(error[outside].mean() / error[~outside].mean())
    whole = 100 * np.concatenate(inside_all).mean()
    return [
        row("coverage", case, "test labels in the 90 % interval", "%", [whole], target="85 to 95"),
        row("coverage", case, "test labels in the 90 % interval, each split", "%", held),
        row("coverage", case, "test molecules outside of the domain", "%", flagged),
        *([row("coverage", case, "error outside of the domain, of that inside", "x", ratios)] if ratios else []),
    ]
