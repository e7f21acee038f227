"""One run of the grid: settings chosen on validation molecules, test molecules predicted once, and a row with all that is known of it."""

import csv
import json
import math
import resource
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from cleaning import hash_of, split_hash
from grid_runs import call, commit
from learners import drawn, features, fitted, predicted
from plan import OURS, Cell, Plan

from moleblend_fs.comparison.run_folders import test_predictions
from moleblend_fs.comparison.score_lines import is_higher_better
from moleblend_fs.comparison.score_of_predictions import PRIMARY, scores_of
from moleblend_fs.errors import UserError
from moleblend_fs.files import write_atomically
from moleblend_fs.sources.moleculenet import SETS

TRIALS = (
    (),
    ("--lr", "5e-4"),
    ("--lr", "2e-4"),
    ("--dropout", "0.1"),
    ("--lr", "5e-4", "--dropout", "0.1"),
    ("--lr", "1e-4"),
    ("--batch-size", "64"),
    ("--weight-decay", "1e-3"),
)
"""Settings that ours may try, the defaults of `moleblend finetune` first."""


def run_cell(plan: Plan, out: Path, cell: Cell) -> None:
    """Do it, unless its row is there."""
    path = cell.row(out)
    if path.is_file():
        return
    kind = SETS[cell.data].kind
    smiles, labels, names = read_table(cell.table(out))
    parts = {name: np.array(rows, dtype=int) for name, rows in json.loads(cell.splits(out).read_text())["folds"]["fold0"].items()}
    found = (ours if cell.method in OURS else classical)(plan, out, cell, kind, smiles, labels, parts, names)
    scores = {split: scores_of(found.pop(split), labels[parts[split]], kind) for split in ("valid", "test")}
    metric = PRIMARY[kind]
    if metric not in scores["test"]:
        raise UserError(f"{cell.dataset}, {cell.split}: {metric} is not defined on its test molecules")
    units = {"esol": "log mol/L", "freesolv": "kcal/mol", "lipo": "logD"}
    row = {
        **asdict(cell),
        "dataset": cell.dataset,
        "metric": metric,
        "value": scores["test"][metric],
        "valid": scores["valid"].get(metric),
        "unit": units.get(cell.data, ""),
        "others": scores["test"],
        "n_train": len(parts["train"]),
        "n_valid": len(parts["valid"]),
        "n_test": len(parts["test"]),
        **found,
        "memory_mb": peak_memory(),
        "commit": commit(),
        "split_hash": split_hash(cell.splits(out)),
        "data_hash": hash_of(cell.table(out)),
    }
    write_atomically(path, json.dumps(row, indent=1) + "\n")


def peak_memory() -> float:
    """Of this process or the largest of those that it ran, MB."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def read_table(path: Path) -> tuple[list[str], np.ndarray, list[str]]:
    """(SMILES, labels (molecules, targets), names of the targets)."""
    with path.open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    labels = [[float(text) if text else math.nan for text in row[1:]] for row in rows]
    return [row[0] for row in rows], np.array(labels, dtype=np.float64).reshape(len(rows), len(header) - 1), header[1:]


def is_better(metric: str, value: float | None, than: float | None) -> bool:
    """Of two validation scores; one that is not defined is worse than any."""
    if value is None or than is None:
        return value is not None
    return value > than if is_higher_better(metric) else value < than


def classical(
    plan: Plan, out: Path, cell: Cell, kind: str, smiles: list[str], labels: np.ndarray, parts: dict[str, Any], names: list[str]
) -> dict[str, Any]:
    """A scikit-learn method: trained with each trial's settings on the training molecules, the best on validation molecules kept."""
    began = time.perf_counter()
    x = embedded(plan, out, cell) if cell.method == "probe" else features(cell.method, smiles)
    best: dict[str, Any] = {}
    trials = 1 if cell.method == "constant" else plan.scale.trials
    for trial in range(trials):
        settings = drawn(cell.method, trial, cell.seed)
        models = fitted(cell.method, kind, settings, cell.seed, x[parts["train"]], labels[parts["train"]])
        valid = predicted(models, kind, x[parts["valid"]])
        score = scores_of(valid, labels[parts["valid"]], kind).get(PRIMARY[kind])
        if not best or is_better(PRIMARY[kind], score, best["score"]):
            best = {"score": score, "models": models, "valid": valid, "trial": trial, "settings": json.dumps(settings)}
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    test = predicted(best["models"], kind, x[parts["test"]])
    told = {name: best[name] for name in ("valid", "trial", "settings")}
    return told | {"test": test, "trials": trials, "seconds": seconds, "predict_seconds": time.perf_counter() - began}


def embedded(plan: Plan, out: Path, cell: Cell) -> np.ndarray:
    """(molecules, width) means of the atoms' representations by the weights, kept for other splits."""
    path = out / "embeddings" / f"{cell.data}-{cell.version}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        own = path.with_name(f"{path.stem}-{cell.protocol}-{cell.split}-{cell.seed}.npy")
        call(["moleblend", "embed", plan.weights, str(cell.table(out)), str(own), "--level", "mean", "--no-progress"])
        own.replace(path)
    return np.load(path)


def ours(
    plan: Plan, out: Path, cell: Cell, kind: str, smiles: list[str], labels: np.ndarray, parts: dict[str, Any], names: list[str]
) -> dict[str, Any]:
    """`moleblend finetune` with each trial's options; the best on validation molecules is kept, folders of runs are removed at the end."""
    began = time.perf_counter()
    best: dict[str, Any] = {}
    runs = out / "finetune" / cell.protocol / f"{cell.data}-{cell.version}" / cell.method / f"{cell.split}-seed{cell.seed}"
    members = plan.scale.members if cell.method == "ensemble" else 1
    targets = [word for name in names for word in ("--target", f"{name}:{kind}")]
    weights = ["--weights", "none" if cell.method == "scratch" else plan.weights]
    for trial, options in enumerate(TRIALS[: plan.scale.ours_trials]):
        run = runs / f"trial{trial}"
        words = ["moleblend", "finetune", str(cell.table(out)), str(run), *targets, "--split-file", str(cell.splits(out))]
        call([*words, "--ensemble", str(members), "--seed", str(cell.seed), "--jobs", "1", *weights, *plan.scale.ours, *options])
        valid = aligned(run / "predictions_oof.csv", names, parts["valid"])
        score = scores_of(valid, labels[parts["valid"]], kind).get(PRIMARY[kind])
        if not best or is_better(PRIMARY[kind], score, best["score"]):
            settings = " ".join([*plan.scale.ours, *options])
            test = aligned(run / "predictions_test.csv", names, parts["test"])
            best = {"score": score, "valid": valid, "test": test, "trial": trial, "settings": settings}
    shutil.rmtree(runs)
    best.pop("score")
    return best | {"trials": plan.scale.ours_trials, "seconds": time.perf_counter() - began, "predict_seconds": None}


def aligned(path: Path, names: list[str], rows: np.ndarray) -> np.ndarray:
    """(rows, targets) predictions of a run for rows of its table; UserError for one that has none."""
    found = {int(row): said for fold in test_predictions(path, names).values() for row, _, said in fold if not np.isnan(said).all()}
    if missing := [row for row in rows.tolist() if row not in found]:
        raise UserError(f"{path}: no predictions for rows {', '.join(map(str, missing[:10]))}")
    return np.array([found[row] for row in rows.tolist()])
