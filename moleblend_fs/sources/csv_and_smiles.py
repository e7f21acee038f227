"""A user's own molecules: CSV files and lists of SMILES."""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from moleblend_fs.chem.parse import EXTENSION
from moleblend_fs.chem.smiles_to_graph import BuildOptions, graph_from_smiles
from moleblend_fs.data.graph import Failure, LabelSpec, MolecularGraph
from moleblend_fs.data.splits import SplitNames, Splitter
from moleblend_fs.errors import UserError
from moleblend_fs.sources.base import Source, build_options
from moleblend_fs.sources.delimited import Row, Table, column_indices, decimal_commas
from moleblend_fs.sources.excel_parquet import TextCopy, named
from moleblend_fs.sources.labels import ColumnSurvey, parse_label, read_labels
from moleblend_fs.sources.registry import SourceCommand
from moleblend_fs.sources.shared_options import (
    add_conformers,
    add_hydrogens,
    add_labels,
    add_max_atoms,
    add_split,
    build_of,
    prescribe,
    splitter_of,
)
from moleblend_fs.sources.smiles_column import SMILES_NAMES, find_smiles_column, spellings
from moleblend_fs.sources.text import TextFile
from moleblend_fs.wording import counted

ROWS_WITH_CONFORMERS = 8
SURVEY_ROWS = 4096
"""Rows that are surveyed at a time."""


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
            self.chunk_rows, self.extra_seconds = ROWS_WITH_CONFORMERS, float(build.conformers.timeout)

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
    """A table with a column of SMILES.

    It is read twice: before any molecule is made, to count its rows and to see what its labels and splits are.

    Args:
        table: text file with cells separated by commas, tabs, semicolons or bars, perhaps packed; or a `Table` made of one.
        smiles_column: name of the column with SMILES.
        labels: label columns; `columns` gives their names in the file where these differ.
        split_column: column with each row's split, or None.
        given: what the table is a copy of as text, or None where it is the file itself.

    Raises:
        UserError: a column is missing or stands there twice, labels need a kind or another coding, a split's name cannot be one.
    """

    name = "csv"

    def __init__(
        self,
        table: Path | Table,
        *,
        smiles_column: str,
        labels: Sequence[LabelSpec],
        build: BuildOptions,
        splitter: Splitter,
        columns: Sequence[str] | None = None,
        split_column: str | None = None,
        given: tuple[Path, TextCopy] | None = None,
    ):
        super().__init__(labels, build, splitter)
        self._given = given
        self._table = table if isinstance(table, Table) else Table(table, [[smiles_column]])
        wanted = [smiles_column, *(columns or [label.name for label in labels]), *([split_column] if split_column else [])]
        self._smiles, *self._cells = column_indices(self._table.path, self._table.header, wanted)
        self._split = self._cells.pop() if split_column else None
        self._columns = wanted
        self._blank = 0
        self._commas = decimal_commas(self._table, self._cells)
        self._count, self.labels, self._splits = self._survey()
        commas = [label.name for label, comma in zip(self.labels, self._commas, strict=True) if comma]
        comma_note = f"{self._table.path}: numbers with decimal commas in {', '.join(commas)}" if commas else ""
        self.notes = tuple(note for note in (self._table.note, comma_note, self._splits.note) if note)

    def _survey(self) -> tuple[int, tuple[LabelSpec, ...], SplitNames]:
        """(rows without the blank ones, labels with their kinds, how splits are named)."""
        width, count = len(self._table.header), 0
        survey, splits = ColumnSurvey(self.labels, self._table.path), Counter[str]()
        rows = (row.cells for row in self._table.rows() if row.cells)
        while chunk := list(islice(rows, SURVEY_ROWS)):
            count += len(chunk)
            whole = [cells for cells in chunk if len(cells) == width]
            if not survey.settled:
                survey.add([self._label_cells(cells) for cells in whole])
            if self._split is not None:
                splits.update(cells[self._split].strip() for cells in whole)
        return count, survey.settle(), SplitNames(f"{self._table.path}: column {self._columns[-1]!r}", splits)

    def files(self) -> list[Path]:
        return [self._table.path if self._given is None else self._given[0]]

    def num_rows(self) -> int | None:
        return self._count

    def options(self) -> dict[str, Any]:
        return super().options() | {"columns": self._columns}

    def left_out(self) -> dict[str, int]:
        return {"blank": self._blank}

    def rows(self, start: int) -> Iterator[tuple[int, SmilesRow]]:
        # Row 0 is the first after the header that is not blank.
        self._blank = row = 0
        for line in self._table.rows():
            if not line.cells:
                self._blank += 1
                continue
            if row >= start:
                yield row, self._row(line)
            row += 1
        if row != self._count:
            raise UserError(
                f"{self._table.path}: {counted(self._count, 'row')} at first, {row} now; it was changed meanwhile: run the command again"
            )

    def _label_cells(self, cells: list[str]) -> list[str]:
        """The cells of the labels, with decimal points."""
        return [cells[c].replace(",", ".") if comma else cells[c] for c, comma in zip(self._cells, self._commas, strict=True)]

    def _row(self, line: Row) -> SmilesRow:
        cells, width = line.cells, len(self._table.header)
        if line.problem or len(cells) != width:
            problem = line.problem or f"the row has {counted(len(cells), 'column')}, the header {width}"
            return SmilesRow(",".join(cells)[:200], [], problem=problem)
        split = None if self._split is None else self._splits(cells[self._split])
        problem = "no split given" if self._split is not None and split is None else ""
        return SmilesRow(cells[self._smiles].strip(), self._label_cells(cells), split, problem)


class SmilesFile(SmilesSource):
    """A text file with one "SMILES name" a line; lines that are blank or begin with # are left out."""

    name = "smiles"

    def __init__(self, path: Path, *, build: BuildOptions, splitter: Splitter):
        super().__init__((), build, splitter)
        self._text = TextFile(path)
        self._blank = 0
        self.notes = (self._text.note(),) if self._text.notes else ()
        if next(self._text.lines(), None) is None:
            raise UserError(f"{path}: the file is empty")

    def files(self) -> list[Path]:
        return [self._text.path]

    def left_out(self) -> dict[str, int]:
        return {"blank or comment": self._blank}

    def rows(self, start: int) -> Iterator[tuple[int, SmilesRow]]:
        self._blank = 0
        for row, line in enumerate(self._text.lines()):
            words = line.lstrip("\ufeff").split(maxsplit=1)
            if not words or words[0].startswith("#"):
                self._blank += 1
            elif row >= start:
                # What follows a blank is the name, unless it is an extension of CXSMILES.
                extension = EXTENSION.match(words[1]) if len(words) > 1 else None
                yield row, SmilesRow(words[0] + (f" {extension[0]}" if extension else ""), [])


def _add_arguments_csv(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--smiles-column", default="", metavar="NAME", help="column of SMILES (default: found by its name)")
    add_labels(parser, "a column")
    parser.add_argument("--split-column", metavar="NAME", help="column that says train, valid or test")
    add_hydrogens(parser, "none")
    add_max_atoms(parser)
    add_split(parser, None, ("random", "scaffold", "prescribed", "none"))
    add_conformers(parser)


def _open_csv(args: argparse.Namespace) -> Source:
    path = Path(args.input)
    copy = TextCopy(path)
    with named(copy.path, path):
        table = Table(copy.path, [[args.smiles_column] if args.smiles_column else spellings()])
        column = args.smiles_column or find_smiles_column(table.header) or SMILES_NAMES[0]
        prescribe(args)
        source = CsvSource(
            table,
            smiles_column=column,
            labels=[parse_label(text, table.header) for text in args.label],
            build=build_of(args),
            splitter=splitter_of(args),
            split_column=args.split_column,
            given=None if copy.path == path else (path, copy),
        )
    source.notes = tuple(note.replace(str(copy.path), str(path)) for note in (copy.note, *source.notes) if note)
    return source


COMMAND_CSV = SourceCommand(
    name="csv",
    summary="your table with a column of SMILES: text, an Excel workbook or a Parquet file",
    where="table with a header: text with commas, tabs or semicolons between cells, .xlsx or .parquet (extra `tables`); perhaps packed "
    "(.gz, .xz, .bz2, .zip)",
    add_arguments=_add_arguments_csv,
    open=_open_csv,
)


def _add_arguments_smiles(parser: argparse.ArgumentParser) -> None:
    add_hydrogens(parser, "none")
    add_max_atoms(parser)
    add_split(parser, "random", ("random", "scaffold", "none"))
    add_conformers(parser)


def _open_smiles(args: argparse.Namespace) -> Source:
    return SmilesFile(Path(args.input), build=build_of(args), splitter=splitter_of(args))


COMMAND_SMILES = SourceCommand(
    name="smiles",
    summary="your list of SMILES, one a line",
    where='text file with one "SMILES name" a line, perhaps packed (.gz)',
    add_arguments=_add_arguments_smiles,
    open=_open_smiles,
)
