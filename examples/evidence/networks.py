"""Methods that a command trains: ours by `moleblend finetune`, and chemprop; a trial for each set of options."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from cleaning import read_table
from grid_runs import call
from methods import DATA_SETS, METHODS
from peers import Chemprop
from plan import Cell, Plan

from moleblend_fs.comparison.run_folders import test_predictions
from moleblend_fs.errors import UserError

OURS = (
    (),
    ("--lr", "5e-4"),
    ("--lr", "2e-4"),
    ("--dropout", "0.1"),
    ("--lr", "5e-4", "--dropout", "0.1"),
    ("--lr", "1e-4"),
    ("--batch-size", "64"),
    ("--weight-decay", "1e-3"),
)
CHEMPROP = (
    (),
    ("--max-lr", "5e-4"),
    ("--dropout", "0.1"),
    ("--depth", "4"),
    ("--message-hidden-dim", "600"),
    ("--ffn-num-layers", "2"),
    ("--batch-size", "32"),
    ("--max-lr", "2e-3"),
)
"""Options that each may try, the defaults of its command first; as many for both."""
Predictions = dict[str, np.ndarray]
"""Part (valid, test) -> (molecules, targets)."""


def trials_of(plan: Plan, out: Path, cell: Cell, parts: dict[str, np.ndarray]) -> tuple[list[tuple[str, Callable[[], Predictions]]], Path]:
    """((settings in words, what trains with them and predicts) of each trial, the folder of what they leave)."""
    work = out / "trained" / cell.protocol / f"{cell.data}-{cell.version}" / cell.folder / f"{cell.split}-seed{cell.seed}"
    shutil.rmtree(work, ignore_errors=True)  # of a run that was stopped
    count = plan.scale.network_trials
    found: list[tuple[str, Callable[[], Predictions]]] = []
    if METHODS[cell.method].program == "chemprop":
        options, kind = plan.scale.chemprop, DATA_SETS[cell.data].kind
        features = cell.method == "chemprop_rdkit"
        program = Chemprop(cell.table(out), parts, kind, work, options, features=features, seed=cell.seed)
        for number, more in enumerate(CHEMPROP[:count]):
            found.append((" ".join([*options, *more]), lambda n=number, m=more: program.trial(n, m)))
        return found, work
    for number, more in enumerate(OURS[:count]):
        words = [*plan.scale.ours, *(("--ensemble", str(plan.scale.members)) if cell.method == "ensemble" else ()), *more]
        found.append((" ".join(words), lambda n=number, w=words: finetuned(plan, out, cell, parts, work / f"trial{n}", w)))
    return found, work


def finetuned(plan: Plan, out: Path, cell: Cell, parts: dict[str, np.ndarray], run: Path, options: Sequence[str]) -> Predictions:
    """`moleblend finetune` on a split."""
    kind, names = DATA_SETS[cell.data].kind, read_table(cell.table(out))[2]
    given = cell.structures(out) if METHODS[cell.method].reads_structures else cell.table(out)
    words = ["moleblend", "finetune", str(given), str(run), "--split", "file", "--split-file", str(cell.splits(out)), "--jobs", "1"]
    words += ["--weights", str(plan.weights[cell.weights]) if cell.weights else "none", "--seed", str(cell.seed)]
    words += ["--inputs", "2d+3d"] if METHODS[cell.method].reads_structures else []
    words += [word for name in names for word in ("--target", f"{name}:{kind}")]
    call([*words, *options])
    return {part: aligned(run / f"predictions_{said}.csv", names, parts[part]) for part, said in (("valid", "oof"), ("test", "test"))}


def aligned(path: Path, names: Sequence[str], rows: np.ndarray) -> np.ndarray:
    """(rows, targets) predictions of a run for rows of its table; UserError for one that has none."""
    found = {int(row): said for fold in test_predictions(path, names).values() for row, _, said in fold if not np.isnan(said).all()}
    if missing := [row for row in rows.tolist() if row not in found]:
        raise UserError(f"{path}: no predictions for rows {', '.join(map(str, missing[:10]))}")
    return np.array([found[row] for row in rows.tolist()])
