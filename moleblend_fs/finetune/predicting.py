"""What the members of each fold say of the molecules that they were not trained on, and the tables of it."""

import csv
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moleblend_fs.checkpoint.read import load
from moleblend_fs.data.split_file import all_labels
from moleblend_fs.data.splits import TEST, VALID
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.files import whole_file
from moleblend_fs.finetune.data import Data
from moleblend_fs.finetune.scoring import OfTarget, calibrate, calibrated, shown
from moleblend_fs.inference.predict import Runner
from moleblend_fs.objectives.metrics import probability
from moleblend_fs.sources.carried import carried_columns

OWN = ("row", "fold", "split", "status")
DIGITS = 7
"""Significant digits of predictions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a fold's members say of some of its molecules, in the order of the store.

    Attributes:
        indices: (n,) molecules. prediction: (n, targets) mean of the members: values, or logits of class 1.
        std: (n, targets) spread of the members' values, or probabilities. labels: (n, targets), NaN where missing.
    """

    indices: np.ndarray
    prediction: np.ndarray
    std: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldResult:
    """A fold after its members were trained.

    Attributes:
        name: of the fold. valid, test: of these splits. calibration: of each target, from the validation molecules alone.
    """

    name: str
    valid: Said
    test: Said
    calibration: list[OfTarget]

    def reported(self) -> np.ndarray:
        """(n, targets) predictions of the test molecules as they are scored."""
        return calibrated(self.test.prediction, self.calibration)


def fold_result(name: str, store: Store, checkpoints: Sequence[Path], data: Data, runner: Runner) -> FoldResult:
    """Run a fold's members over its validation and test molecules."""
    columns = [store.manifest.label_index(label.name) for label in data.targets]
    kind = data.targets[0].kind
    said = {}
    for split in (VALID, TEST):
        indices = np.asarray(store.split(split))
        members = np.stack([_values(path, store, indices, len(columns), runner) for path in checkpoints])
        spread = probability(members) if kind == "classification" else members
        said[split] = Said(
            indices=indices, prediction=members.mean(axis=0), std=spread.std(axis=0), labels=all_labels(store, indices)[:, columns]
        )
    valid = said[VALID]
    of_targets = calibrate(valid.prediction, valid.std, valid.labels, kind, scaled=len(checkpoints) > 1)
    return FoldResult(name=name, valid=valid, test=said[TEST], calibration=of_targets)


def _values(path: Path, store: Store, indices: np.ndarray, targets: int, runner: Runner) -> np.ndarray:
    """(n, targets) a member's predictions; UserError where one is not finite although the model reads the molecule."""
    if not len(indices):
        return np.zeros((0, targets))
    parts = list(runner.properties(load(path), store, indices))
    values = np.concatenate([part.values for part in parts])
    if not np.isfinite(values).any():
        raise UserError(f"{path}: no prediction is finite; train with a smaller --lr")
    return values


def cells_of(data: Data) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """(names, (row, cells) by ascending row) of the input's columns."""
    if data.table is not None:
        return carried_columns(data.table, data.store.manifest)
    return [], iter(())


class Columns:
    """The columns of a table of predictions: those of the input, then ours, named apart where a name is taken."""

    def __init__(self, data: Data, names: Sequence[str], *, members: int):
        self.data, self.kind = data, data.targets[0].kind
        taken = set(names)
        self.names = list(names)
        own = ["smiles"] if data.table is None else []
        for label in data.targets:
            own += [label.name] if data.table is None else []
        self.labelled = data.table is None
        for label in data.targets:
            own.append(f"{label.name} (predicted)")
            own += [f"{label.name} (std)"] if members > 1 else []
            own += [f"{label.name} ({side})" for side in ("low", "high")] if self.kind == "regression" else []
        self.members = members
        self.header = [*names, *(f"{name} (moleblend)" if name in taken else name for name in (*own, *OWN))]

    @property
    def width(self) -> int:
        """Cells between the input's and row, fold, split, status."""
        return len(self.header) - len(self.names) - len(OWN)


def write_tables(
    out: Path, data: Data, folds: dict[str, Store], results: Sequence[FoldResult], *, members: int, level: float, cross: bool
) -> None:
    """predictions_oof.csv, with a line for every row of the source at least, and predictions_test.csv.

    Args:
        cross: whether out-of-fold predictions are those of the folds' test molecules; otherwise of their validation molecules.
    """
    lines: dict[str, dict[int, list[list[str]]]] = {VALID: defaultdict(list), TEST: defaultdict(list)}
    names, _ = cells_of(data)
    columns = Columns(data, names, members=members)
    for result in results:
        for split, said in ((VALID, result.valid), (TEST, result.test)):
            for row, cells in _lines(said, result, split, data, columns, level):
                lines[split][row].append(cells)
    trained = {int(row) for row in data.store.source_row}
    with whole_file(out / "predictions_oof.csv") as stream:
        _write(stream, data, columns, lines[TEST if cross else VALID], trained)
    with whole_file(out / "predictions_test.csv") as stream:
        _write(stream, data, columns, lines[TEST], set())


def _lines(said: Said, result: FoldResult, split: str, data: Data, columns: Columns, level: float) -> Iterator[tuple[int, list[str]]]:
    """(row, our cells) of each molecule."""
    final = shown(calibrated(said.prediction, result.calibration), columns.kind)
    widths = np.stack([each.half_width(said.std[:, i], level) for i, each in enumerate(result.calibration)], axis=1) if (
        columns.kind == "regression"
    ) else np.zeros_like(final)  # fmt: skip
    rows = data.store.source_row[said.indices].tolist()
    smiles = smiles_column(data, said.indices) if columns.labelled else [""] * len(rows)
    for i, row in enumerate(rows):
        cells = [smiles[i], *(number(x) for x in said.labels[i])] if columns.labelled else []
        for target in range(final.shape[1]):
            cells.append(number(final[i, target]))
            cells += [number(said.std[i, target])] if columns.members > 1 else []
            if columns.kind == "regression":
                cells += [number(final[i, target] - widths[i, target]), number(final[i, target] + widths[i, target])]
        status = "ok" if np.isfinite(final[i]).all() else "no prediction: the model's output is not finite"
        yield row, [*cells, str(row), result.name, split, status]


def smiles_column(data: Data, indices: np.ndarray) -> list[str]:
    """SMILES of some molecules."""
    from moleblend_fs.finetune.folds import smiles_of

    return smiles_of(data.store, indices)


def number(value: float) -> str:
    """A cell."""
    return f"{value:.{DIGITS}g}" if math.isfinite(value) else ""


def _write(stream, data: Data, columns: Columns, lines: dict[int, list[list[str]]], others: set[int]) -> None:  # type: ignore[no-untyped-def]
    """Lines by ascending row: those of molecules, rows without a molecule, and `others`, which have no prediction here."""
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(columns.header)
    failed = {line.row: line for line in data.store.failures()}
    stored = {int(row) for row in data.store.source_row}
    wanted = sorted({*lines, *others, *(row for row in failed if row not in stored)})
    _, cells = cells_of(data)
    found: tuple[int, list[str]] = (-1, [])
    for row in wanted:
        while columns.names and found[0] < row:
            found = next(cells)
        given = found[1] if columns.names else []
        note = f"; {failed[row].reason}" if row in failed else ""
        if row in lines:
            for own in lines[row]:
                table.writerow([*given, *own[:-1], own[-1] + note])
        else:
            why = "trained on: no out-of-fold prediction" + note if row in stored else f"no molecule{note.replace(';', ':', 1)}"
            empty = [""] * columns.width
            if columns.labelled and row in failed:
                empty[0] = failed[row].input
            table.writerow([*given, *empty, str(row), "", "", why])
