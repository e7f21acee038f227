"""Rows on their way to predictions: the cells that they go out with, and the molecule that was made of them or why there is none."""

import dataclasses
import heapq
import os
from collections import deque
from collections.abc import Iterator
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from moleblend_fs.chem.parse import silence_rdkit
from moleblend_fs.data.conformer_groups import NO_CONFORMER, conformer_of
from moleblend_fs.data.graph import Failure
from moleblend_fs.data.record import decode, encode, smiles_in
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
    """Rows of a store's source; the first cells are their numbers there and the SMILES.

    Args:
        indices: the molecules.
        carried: cells of the source's rows, by ascending row, that stand in each line as well; None for none.
        whole: whether `indices` are all molecules, by source row, so that all rows have their places: those that gave no molecule, and
            those that became conformers of an earlier row's, which is predicted from each row's own structure.
    """
    molecules = ((int(store.source_row[index]), int(index)) for index in indices)
    rows = iter(_among_others(store, molecules) if whole else ((row, [index]) for row, index in molecules))
    while some := list(islice(rows, STORE_CHUNK)):
        yield [_stored(store, row, parts, [] if carried is None else _cells(carried, row)) for row, parts in some]


def _among_others(store: Store, molecules: Iterator[tuple[int, int]]) -> Iterator[tuple[int, list[Any]]]:
    """(row, what there is of it: its molecule's number, its line of `joined_rows`, lines of failures.csv), rows ascending."""
    joined = ((row, (molecule, conformer)) for row, molecule, conformer in store.joined_rows.tolist())
    failed = ((line.row, line) for line in store.failures())
    for row, parts in groupby(heapq.merge(molecules, joined, failed, key=itemgetter(0)), key=itemgetter(0)):
        yield row, [part for _, part in parts]


def _stored(store: Store, row: int, parts: list[Any], cells: list[str]) -> Made:
    first, notes = parts[0], [part.reason for part in parts if isinstance(part, FailedRow)]
    if isinstance(first, FailedRow):
        return Made([str(row), first.input, *cells], first.input, None, "; ".join(notes))
    if isinstance(first, tuple):
        smiles, record, of = _conformer(store, *first)
        notes = notes if any(note.startswith(of) for note in notes) else [of, *notes]
    else:
        record = store.record(first)
        smiles = smiles_in(record)
    return Made([str(row), smiles, *cells], smiles, record, notes=tuple(notes))


def _conformer(store: Store, molecule: int, conformer: int) -> tuple[str, bytes, str]:
    """(SMILES, record, what is to be said) of a row that became a conformer of a molecule: that with this conformer alone, or with none."""
    row, graph = decode(store.record(molecule))
    own = None if conformer == NO_CONFORMER or graph.coordinates is None else graph.coordinates[conformer : conformer + 1]
    return graph.smiles, encode(dataclasses.replace(graph, coordinates=own), row, stored=False), conformer_of(row)


def _cells(carried: Iterator[tuple[int, list[str]]], row: int) -> list[str]:
    """The source's cells of a row, found by reading on to it; asked for by ascending rows."""
    for number, cells in carried:
        if number == row:
            return cells
    raise UserError(f"the source has no row {row}; was it changed while it was read?")
