"""Rows on their way to predictions: the cells that they go out with, and the molecule that was made of them or why there is none."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from moleblend_fs.chem.parse import silence_rdkit
from moleblend_fs.data.graph import Failure
from moleblend_fs.data.record import decode, smiles_in
from moleblend_fs.data.store import FailedRow, Store
from moleblend_fs.errors import UserError
from moleblend_fs.sources.molecules_to_predict import Incoming, IncomingRow
from moleblend_fs.sources.row_results import Results, encode_row
from moleblend_fs.sources.workers import ROW_TIMEOUT, Chunk, WorkerPool

MOST_WORKERS = 8
STORE_CHUNK = 256
"""Molecules of a store that are read at a time."""


class Made(NamedTuple):
    """A row with its molecule.

    Attributes:
        cells: of the input. smiles: of the molecule, or what stood in its place.
        record: its bytes; None where there is no molecule.
        reason: why there is none. notes: what else is to be said of it.
    """

    cells: list[str]
    smiles: str
    record: bytes | None
    reason: str = ""
    notes: tuple[str, ...] = ()


def default_workers() -> int:
    """Processes that make molecules: as many as there are cores that this process may use, at most `MOST_WORKERS`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_WORKERS, cores)


def made_of(incoming: Incoming, start: int = 0, *, workers: int, row_timeout: float = ROW_TIMEOUT) -> Iterator[list[Made]]:
    """All rows from `start` on, in order, some at a time.

    Args:
        workers: processes that make molecules; rows that kill or hold up theirs cost nothing else. 0: this process makes them.
    """
    rows = incoming.rows(start)
    if workers < 1:
        silence_rdkit()
        for number, row in rows:
            yield [_made(incoming, row, encode_row(incoming, number, row.raw))]
        return
    waiting: deque[list[IncomingRow]] = deque()

    def chunks() -> Iterator[Chunk]:
        while taken := list(islice(rows, incoming.chunk_rows)):
            waiting.append([row for _, row in taken])
            yield Chunk([(number, row.raw) for number, row in taken], next_row=taken[-1][0] + 1, rows_read=0)

    with WorkerPool(incoming, workers, row_timeout) as pool:
        for chunk, results in pool.results(chunks()):
            its_rows = waiting.popleft()
            by_row: list[Results] = [[] for _ in its_rows]
            for result in results:
                by_row[result[0] - chunk.next_row + len(its_rows)].append(result)
            yield [_made(incoming, row, found) for row, found in zip(its_rows, by_row, strict=True)]


def _made(incoming: Incoming, row: IncomingRow, results: Results) -> Made:
    first, *more = (result for _, result in results)
    if isinstance(first, Failure):
        return Made(row.cells, first.input, None, first.reason)
    smiles, cells = smiles_in(first.record), row.cells
    if incoming.smiles_place is not None:
        cells = [smiles if place == incoming.smiles_place else cell for place, cell in enumerate(cells)]
    return Made(cells, smiles, first.record, notes=tuple(note.reason for note in more if isinstance(note, Failure)))


def read_from(store: Store, indices: np.ndarray, carried: Iterator[tuple[int, list[str]]] | None, *, whole: bool) -> Iterator[list[Made]]:
    """A store's molecules; the first cells are their rows in its source and their SMILES.

    Args:
        carried: cells of the source's rows, by ascending row, that stand in each line as well; None for none.
        whole: whether `indices` are all molecules, by source row, so that rows that gave none have their places between them.
    """
    failures = Failures(store.failures() if whole else iter(()))

    def made(row: int, smiles: str, record: bytes | None, reason: str = "", notes: Sequence[str] = ()) -> Made:
        cells = [] if carried is None else _cells(carried, row)
        return Made([str(row), smiles, *cells], smiles, record, reason, tuple(notes))

    for start in range(0, len(indices), STORE_CHUNK):
        rows: list[Made] = []
        for record in store.records(indices[start : start + STORE_CHUNK]):
            row, graph = decode(record)
            notes = []
            for failed in failures.up_to(row):
                if failed.row == row:
                    notes.append(failed.reason)
                else:
                    rows.append(made(failed.row, failed.input, None, failed.reason))
            rows.append(made(row, graph.smiles, record, notes=notes))
        yield rows
    yield [made(failed.row, failed.input, None, failed.reason) for failed in failures.up_to(float("inf"))]


def _cells(carried: Iterator[tuple[int, list[str]]], row: int) -> list[str]:
    """The source's cells of a row, found by reading on to it; asked for by ascending rows."""
    for number, cells in carried:
        if number == row:
            return cells
    raise UserError(f"the source has no row {row}; was it changed while it was read?")


class Failures:
    """failures.csv read alongside molecules that come by ascending source row."""

    def __init__(self, lines: Iterator[FailedRow]):
        self._lines = lines
        self._waiting = next(lines, None)

    def up_to(self, row: float) -> Iterator[FailedRow]:
        """The next lines, as far as they are of this row or an earlier one."""
        while self._waiting is not None and self._waiting.row <= row:
            yield self._waiting
            self._waiting = next(self._lines, None)
