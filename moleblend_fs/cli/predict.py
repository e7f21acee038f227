"""`moleblend predict`: predictions or representations of the molecules of a store."""

import argparse
import csv
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from moleblend_fs.checkpoint.read import Checkpoint, FinetunedFor, load
from moleblend_fs.cli.common import (
    add_comparison_argument,
    add_runner_arguments,
    add_split_arguments,
    check_output,
    compare_with_store,
    molecules_of,
    named_rows,
    runner,
)
from moleblend_fs.data.split_file import open_store
from moleblend_fs.data.store import FailedRow, Store
from moleblend_fs.errors import UserError
from moleblend_fs.files import is_stream, whole_file
from moleblend_fs.inference.predict import Predicted, Runner, loaders_told, property_head
from moleblend_fs.objectives.metrics import probability

ROW, SMILES, STATUS = "row", "smiles", "status"
DIGITS = 7
"""Digits of the spread of a target's values that are written."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.description = (
        "Write one line for every row of the source that the store was made from, in its order: row, SMILES, a column for each target, and "
        "a status. It is 'ok', or says that a model of inputs 2d+3d had no 3D structure to go by, or why there is no prediction."
    )
    parser.add_argument("checkpoint", help="checkpoint: a .pt of fairseq-train, or a folder of `moleblend convert`")
    parser.add_argument("store", help="store made by `moleblend preprocess`, of your own molecules say")
    parser.add_argument("output", type=Path, help="CSV to write; with --embeddings a NumPy file of shape (molecules, width)")
    parser.add_argument(
        "--source",
        type=Path,
        metavar="FILE",
        help="the table, list of SMILES or SD file that the store was made from: its columns (names, titles) stand in each line as well",
    )
    parser.add_argument("--split", help="only this split's molecules, in the store's order; the whole source by default")
    parser.add_argument("--embeddings", choices=("2d", "3d", "2d+3d"), help="write graph-token representations from these inputs instead")
    add_split_arguments(parser)
    add_comparison_argument(parser)
    add_runner_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the file."""
    if arguments.embeddings is not None and arguments.source is not None:
        raise UserError("--source goes with predictions, --embeddings writes an array without text; leave one of them out")
    checkpoint = load(arguments.checkpoint)
    store = open_store(arguments.store, arguments.split_file, arguments.fold)
    check_output(arguments.output, arguments.checkpoint, store.path, *([] if arguments.source is None else [arguments.source]))
    indices = molecules_of(store, arguments.split)
    inputs = arguments.embeddings or property_head(checkpoint).inputs
    compare_with_store(checkpoint, store, arguments, "embed" if arguments.embeddings else "predict", inputs=inputs)
    how = runner(arguments)
    carried = NOTHING_CARRIED if arguments.source is None else read_carried(arguments.source, store)
    with loaders_told():
        if arguments.embeddings is not None:
            said = write_embeddings(arguments.output, how, checkpoint, store, indices, arguments.embeddings)
        else:
            said = write_predictions(arguments.output, how, checkpoint, store, indices, carried, whole=arguments.split is None)
    for line in said:
        print(f"moleblend predict: {line}", file=sys.stderr)
    print(f"{len(indices)} molecules: {arguments.output}", file=sys.stderr if is_stream(arguments.output) else sys.stdout)
    return 0


def write_embeddings(output: Path, how: Runner, checkpoint: Checkpoint, store: Store, indices: np.ndarray, inputs: str) -> list[str]:
    """An array in NumPy's format, written part by part; returns what is to be said of it."""
    order = np.sort(indices)  # the store's
    bad, without_3d = [np.zeros(0, np.int64)], 0
    parts = how.embeddings(checkpoint, store, order, inputs)
    with whole_file(output, "wb") as stream:
        shape = (len(order), checkpoint.config.embed_dim)
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for part in parts:
            stream.write(part.values.astype("<f4").tobytes())
            bad.append(part.rows[part.not_finite()])
            without_3d += int((~part.has_3d).sum())
        rows = np.concatenate(bad)
        check_some_finite(len(rows), len(order), "representation", checkpoint)
    said = [f"the representation is not finite for {named_rows(rows)}"] if len(rows) else []
    if without_3d and inputs == "2d+3d":
        said.append(f"{without_3d} of {len(order)} molecules have no 3D structure: their representations are from 2D alone")
    if store.manifest.failures:
        said.append(
            f"line i of the array is row source_row[i] of the source; rows that gave no molecule are listed in {store.path}/failures.csv"
        )
    return said


class Carried(NamedTuple):
    """Columns of the source: their names, and (source row, cells) by ascending row."""

    names: list[str]
    cells: Iterator[tuple[int, list[str]]]


NOTHING_CARRIED = Carried([], iter(()))


def read_carried(path: Path, store: Store) -> Carried:
    """The columns of the file that a store was made from."""
    try:
        from moleblend_fs.sources.carried import carried_columns
    except ModuleNotFoundError as error:
        raise UserError(f"--source needs the package {error.name}: pip install 'moleblend-fs[chem]'") from error
    return Carried(*carried_columns(path, store.manifest))


def write_predictions(
    output: Path, how: Runner, checkpoint: Checkpoint, store: Store, indices: np.ndarray, carried: Carried = NOTHING_CARRIED, *, whole: bool
) -> list[str]:
    """The table; returns what is to be said of it.

    Args:
        carried: columns of the source that stand in each line as well.
        whole: whether `indices` are all of the store, by source row, so that rows without a molecule have their places between them.
    """
    about = property_head(checkpoint)
    failures = iter(store.failures())
    parts = how.properties(checkpoint, store, indices)
    with whole_file(output) as stream:
        table = Table(stream, about, failures, carried, whole=whole)
        table.write(parts)
        check_some_finite(table.not_finite, len(indices), "prediction", checkpoint)
    left_out = {} if store.manifest.rows is None or not whole else store.manifest.rows.left_out
    return table.said(output) + [f"{count} rows of the source have no line: {why}" for why, count in left_out.items() if count]


def check_some_finite(bad: int, molecules: int, what: str, checkpoint: Checkpoint) -> None:
    """UserError where no molecule at all has a finite value: then it is the model that is broken."""
    if bad == molecules:
        raise UserError(f"{checkpoint.about.get('file')}: the {what} is not finite for any of {molecules} molecules; nothing was written")


def digits_of(mean: float, std: float) -> int:
    """Significant digits to write of a target's values: those of their spread, and those by which their mean exceeds it."""
    return DIGITS + (max(0, math.ceil(math.log10(abs(mean) / std))) if mean and std > 0 else 0)


@dataclass(kw_only=True)
class Failures:
    """failures.csv read alongside molecules that come by ascending source row."""

    lines: Iterator[FailedRow]
    waiting: FailedRow | None = field(init=False)

    def __post_init__(self) -> None:
        self.waiting = next(self.lines, None)

    def up_to(self, row: float) -> Iterator[FailedRow]:
        """The next lines, as far as they are of this row or an earlier one."""
        while self.waiting is not None and self.waiting.row <= row:
            yield self.waiting
            self.waiting = next(self.lines, None)


class Table:
    """The CSV of predictions, line by line.

    Args:
        stream: where to. about: the targets. failures: of the store. carried, whole: see `write_predictions`.

    Attributes:
        rows_failed: lines without a molecule. not_finite, no_structure, from_2d: molecules without a finite prediction, without one for
            want of a structure, with one from 2D alone that could have been from 2D and 3D.
    """

    def __init__(self, stream: IO[str], about: FinetunedFor, failures: Iterator[FailedRow], carried: Carried, *, whole: bool):
        self.about, self.whole, self.failures, self.carried = about, whole, failures, carried
        self.rows_failed = self.not_finite = self.no_structure = self.from_2d = 0
        self._write = csv.writer(stream, lineterminator="\n").writerow
        own = (ROW, SMILES, STATUS)
        names = [f"{name} (source)" if name in own else name for name in carried.names]
        targets = [f"{name} (predicted)" if name in (*own, *names) else name for name in about.targets]
        self._write([ROW, SMILES, *names, *targets, STATUS])
        self._is_class = [kind == "classification" for kind in about.kinds]
        self._digits = [digits_of(mean, std) for mean, std in zip(about.mean, about.std, strict=True)]

    def write(self, parts: Iterable[Predicted]) -> None:
        """All molecules, and with `whole` all rows that gave none."""
        failures = Failures(lines=self.failures if self.whole else iter(()))
        for part in parts:
            values = np.where(self._is_class, probability(part.values), part.values)
            bad = part.not_finite().tolist()
            for row, smiles, has_3d, numbers, is_bad in zip(
                part.rows.tolist(), part.smiles, part.has_3d.tolist(), values.tolist(), bad, strict=True
            ):
                notes = self._failed(failures.up_to(row), until=row)
                self._molecule(row, smiles, numbers, has_3d=has_3d, finite=not is_bad, notes=notes)
        self._failed(failures.up_to(math.inf), until=math.inf)
        if not self.whole:
            self.rows_failed = sum(1 for _ in self.failures)

    def _failed(self, lines: Iterator[FailedRow], until: float) -> list[str]:
        """Lines of rows without a molecule; returns what is noted of the row `until`, which has one."""
        notes = []
        for line in lines:
            if line.row == until:
                notes.append(line.reason)
                continue
            self._write([line.row, line.input, *self._cells(line.row), *[""] * len(self._digits), f"no molecule: {line.reason}"])
            self.rows_failed += 1
        return notes

    def _molecule(self, row: int, smiles: str, numbers: list[float], *, has_3d: bool, finite: bool, notes: list[str]) -> None:
        status = "ok"
        if not has_3d and self.about.inputs == "3d":
            status, self.no_structure = "no prediction: no 3D structure", self.no_structure + 1
        elif not finite:
            status, self.not_finite = "no prediction: the model's output is not finite", self.not_finite + 1
        elif not has_3d and self.about.inputs == "2d+3d":
            status, self.from_2d = "from 2D alone: no 3D structure", self.from_2d + 1
        shown = [f"{number:.{digits}g}" if math.isfinite(number) else "" for number, digits in zip(numbers, self._digits, strict=True)]
        self._write([row, smiles, *self._cells(row), *shown, "; ".join([status, *notes])])

    def _cells(self, row: int) -> list[str]:
        """The source's cells of a row, found by reading on to it; asked for by ascending rows."""
        if not self.carried.names:
            return []
        for number, cells in self.carried.cells:
            if number == row:
                return cells
        raise UserError(f"the source has no row {row}; was it changed while it was read?")

    def said(self, output: Path) -> list[str]:
        """What is to be said at the end, a sentence each."""
        where = f"see the column {STATUS} of {output}"
        sentences = [
            (self.rows_failed if self.whole else 0, "rows of the source gave no molecule and have no prediction"),
            (self.no_structure, "molecules have no 3D structure and no prediction from this model of inputs 3d"),
            (self.not_finite, "molecules have no prediction, since the model's output is not finite for them"),
            (self.from_2d, "molecules have no 3D structure: their predictions are from 2D alone"),
        ]
        said = [f"{count} {text}; {where}" for count, text in sentences if count]
        if not self.whole and self.rows_failed:
            said.append("rows of the source that gave no molecule belong to no split; leave --split out to have them in the table")
        return said
