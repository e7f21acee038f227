"""predictions_oof.csv and predictions_test.csv: all columns of the input, what the members say, and what became of every row."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from moleblend_fs.data.conformer_groups import conformer_of
from moleblend_fs.data.finetune_tables import OF_EVERY_ROW, columns_of_target, own_columns
from moleblend_fs.data.splits import TEST, VALID
from moleblend_fs.files import CsvWriter, whole_file
from moleblend_fs.finetune.data import Data
from moleblend_fs.finetune.folds import smiles_of
from moleblend_fs.finetune.predicting import FoldResult, Said
from moleblend_fs.finetune.scoring import calibrated, half_widths, shown
from moleblend_fs.sources.molecules_to_predict import open_incoming

DIGITS = 7
"""Significant digits of predictions."""


class Tables:
    """The tables of one run.

    Args:
        data: what the run reads. trained: numbers of the molecules that a member was trained on.
        members: of each fold. level: of the intervals.
    """

    def __init__(self, data: Data, trained: np.ndarray, *, members: int, level: float):
        self.data, self.members, self.level = data, members, level
        self.trained = set(data.store.source_row[trained].tolist())
        self.kind = data.targets[0].kind
        self.smiles = dict(zip(data.store.source_row.tolist(), smiles_of(data.store), strict=True))
        self.failed = {line.row: line for line in data.store.failures()}
        self.joined = {row: int(data.store.source_row[molecule]) for row, molecule, _ in data.store.joined_rows.tolist()}
        self.shown = self.smiles | {row: self.smiles[of] for row, of in self.joined.items()}
        self.given, self.place = self._given()
        several, interval = members > 1, self.kind == "regression"
        own = [name for label in data.targets for name in columns_of_target(label.name, several=several, interval=interval)]
        self.width = len(own)
        self.header = [*self.given, *own_columns(self.given, [*own, *OF_EVERY_ROW])]

    def _given(self) -> tuple[list[str], int | None]:
        """(columns of the input, which of them is filled with SMILES)."""
        if self.data.table is None:
            return ["smiles", *(label.name for label in self.data.targets)], None
        incoming = self._incoming()
        return list(incoming.columns), incoming.smiles_place

    def _incoming(self):  # type: ignore[no-untyped-def]
        manifest = self.data.store.manifest
        columns = manifest.options.get("columns")
        assert self.data.table is not None
        return open_incoming(self.data.table, smiles_column=columns[0] if columns else None, kind=manifest.source)

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """(row, cells of the input) of all rows that there are."""
        if self.data.table is not None:
            for row, incoming in enumerate(self._incoming().incoming()):
                yield row, [self.shown.get(row, cell) if i == self.place else cell for i, cell in enumerate(incoming.cells)]
            return
        store = self.data.store
        columns = [store.manifest.label_index(label.name) for label in self.data.targets]
        places = dict(zip(store.source_row.tolist(), range(len(store)), strict=True))
        for row in sorted({*places, *self.joined, *self.failed}):
            if row in places:
                yield row, [self.smiles[row], *map(number, store.labels([places[row]])[0, columns])]
            else:
                yield row, [self.shown[row] if row in self.joined else self.failed[row].input, *[""] * len(columns)]

    def write(self, path: Path, results: Sequence[FoldResult], split: str, *, every_row: bool) -> None:
        """One table.

        Args:
            split: whose predictions, VALID or TEST. every_row: whether rows of other splits stand in it too, without a prediction.
        """
        lines: dict[int, list[list[str]]] = defaultdict(list)
        for result in results:
            said = result.valid if split == VALID else result.test
            for row, cells in self._lines(said, result, split):
                lines[row].append(cells)
        tested = {int(row) for result in results for row in self.data.store.source_row[result.test.indices]}
        with whole_file(path) as stream:
            table = CsvWriter(stream)
            table.writerow(self.header)
            for row, cells in self._rows():
                note = f"; {self.failed[row].reason}" if row in self.failed else ""
                for own in lines.get(row, []):
                    table.writerow([*cells, *own[:-1], own[-1] + note])
                if row in lines or not (every_row or row not in self.smiles):
                    continue
                table.writerow([*cells, *[""] * self.width, row, "", "", self._why(row, tested) + note * (row in self.smiles)])

    def _why(self, row: int, tested: set[int]) -> str:
        """What a row without a prediction is."""
        if row in tested:
            return "tested: see predictions_test.csv"
        if row in self.trained:
            return "trained on: no out-of-fold prediction"
        if row in self.smiles:
            return "in no split: neither trained on nor tested"
        if row in self.joined:
            return self.failed[row].reason if row in self.failed else conformer_of(self.joined[row])
        if row in self.failed:
            return f"no molecule: {self.failed[row].reason}"
        return "a structure of the molecule of another row"  # in stores of former versions, which do not say of which

    def _lines(self, said: Said, result: FoldResult, split: str) -> Iterator[tuple[int, list[str]]]:
        """(row, our cells) of each molecule."""
        final = shown(calibrated(said.prediction, result.calibration), self.kind)
        widths = half_widths(said.std, result.calibration, self.level, members=len(result.members))
        for i, row in enumerate(self.data.store.source_row[said.indices].tolist()):
            cells: list[str] = []
            for target in range(final.shape[1]):
                cells.append(number(final[i, target]))
                cells += [number(said.std[i, target]) if len(result.members) > 1 else ""] if self.members > 1 else []
                if self.kind == "regression":
                    cells += [number(final[i, target] - widths[i, target]), number(final[i, target] + widths[i, target])]
            status = "ok" if np.isfinite(final[i]).all() else "no prediction: the model's output is not finite"
            yield row, [*cells, str(row), result.name, split, status]


def write_tables(
    out: Path, data: Data, results: Sequence[FoldResult], trained: np.ndarray, *, members: int, level: float, cross: bool
) -> None:
    """Both tables.

    Args:
        trained: numbers of the molecules that a member was trained on.
        cross: whether out-of-fold predictions are those of the folds' test molecules; otherwise of their validation molecules.
    """
    tables = Tables(data, trained, members=members, level=level)
    tables.write(out / "predictions_oof.csv", results, TEST if cross else VALID, every_row=True)
    tables.write(out / "predictions_test.csv", results, TEST, every_row=False)


def number(value: float) -> str:
    """A cell."""
    return f"{value:.{DIGITS}g}" if math.isfinite(value) else ""
