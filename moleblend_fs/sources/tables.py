"""A user's own molecules: CSV files and lists of SMILES."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from moleblend_fs.chem.build import BuildOptions, graph_from_smiles
from moleblend_fs.data.graph import Failure, LabelSpec, MolecularGraph
from moleblend_fs.data.splits import Splitter
from moleblend_fs.errors import UserError
from moleblend_fs.sources.base import Source, build_options, column_indices, csv_header, read_blocks, read_csv, read_lines
from moleblend_fs.sources.labels import read_labels

ROWS_WITH_CONFORMERS = 8


class SmilesRow(NamedTuple):
    """A SMILES with the cells of its labels and the split its row prescribes; `problem` where the row itself is bad."""

    smiles: str
    labels: list[str]
    split: str | None = None
    problem: str = ""


class SmilesSource(Source):
    """What all sources of SMILES share. Sub-classes give `files` and `rows` of `SmilesRow`."""

    def __init__(self, labels: Sequence[LabelSpec], build: BuildOptions, splitter: Splitter):
        names = [label.name for label in labels]
        if len(set(names)) < len(names):
            raise UserError(f"a label is named twice: {', '.join(names)}")
        self.labels = tuple(labels)
        self.build = build
        self.splitter = splitter
        if build.conformers.count:
            self.chunk_rows = ROWS_WITH_CONFORMERS

    def options(self) -> dict[str, Any]:
        return build_options(self.build) | {"labels": [asdict(label) for label in self.labels]}

    def parse(self, raw: SmilesRow) -> MolecularGraph | Failure:
        if raw.problem:
            return Failure(input=raw.smiles, reason=raw.problem)
        labels = read_labels(raw.labels, self.labels)
        if isinstance(labels, str):
            return Failure(input=raw.smiles, reason=labels)
        return graph_from_smiles(raw.smiles, labels=labels, options=self.build, split=raw.split)


class CsvSource(SmilesSource):
    """A CSV file with a column of SMILES.

    Args:
        path: CSV file, perhaps packed (.gz, .xz, .bz2).
        smiles_column: name of the column with SMILES.
        labels: label columns; `columns` gives their names in the file where these differ.
        split_column: column with each row's split, or None.
    """

    name = "csv"

    def __init__(
        self,
        path: Path,
        *,
        smiles_column: str,
        labels: Sequence[LabelSpec],
        build: BuildOptions,
        splitter: Splitter,
        columns: Sequence[str] | None = None,
        split_column: str | None = None,
    ):
        super().__init__(labels, build, splitter)
        self.path = path
        wanted = [smiles_column, *(columns or [label.name for label in labels]), *([split_column] if split_column else [])]
        header = csv_header(path)
        self._smiles, *self._cells = column_indices(path, header, wanted)
        self._split = self._cells.pop() if split_column else None
        self._width = len(header)
        self._columns = wanted

    def files(self) -> list[Path]:
        return [self.path]

    def num_rows(self) -> int | None:
        # Line ends within quotes are counted too: good enough for a progress bar.
        return sum(block.count(b"\n") for block in read_blocks(self.path)) - 1

    def options(self) -> dict[str, Any]:
        return super().options() | {"columns": self._columns}

    def rows(self, start: int) -> Iterator[tuple[int, SmilesRow]]:
        # Row 0 is the first after the header.
        return islice(enumerate(map(self._row, islice(read_csv(self.path), 1, None))), start, None)

    def _row(self, line: list[str]) -> SmilesRow:
        if len(line) != self._width:
            return SmilesRow(",".join(line)[:200], [], problem=f"the row has {len(line)} columns, the header {self._width}")
        split = None if self._split is None else line[self._split].strip() or None
        problem = "no split given" if self._split is not None and split is None else ""
        return SmilesRow(line[self._smiles].strip(), [line[c] for c in self._cells], split, problem)


class SmilesFile(SmilesSource):
    """A text file with one "SMILES name" a line; lines that are blank or begin with # are left out."""

    name = "smiles"

    def __init__(self, path: Path, *, build: BuildOptions, splitter: Splitter):
        super().__init__((), build, splitter)
        self.path = path
        first = next(read_lines(path), None)
        if first is None:
            raise UserError(f"{path}: the file is empty")
        if "\x00" in first or "\ufffd" in first:
            raise UserError(f"{path}: not a text file of SMILES")

    def files(self) -> list[Path]:
        return [self.path]

    def rows(self, start: int) -> Iterator[tuple[int, SmilesRow]]:
        for row, line in islice(enumerate(read_lines(self.path)), start, None):
            words = line.split(maxsplit=1)
            if words and not words[0].startswith("#"):
                yield row, SmilesRow(words[0], [])
