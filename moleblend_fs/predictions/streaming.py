"""Values of rows, a window of rows at a time: while one is computed, the next one's molecules are made."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

import numpy as np

from moleblend_fs.data.record import HEADER, inflate
from moleblend_fs.predictions.predictive_model import Computing
from moleblend_fs.predictions.rows import Made

WINDOW = 4096
"""Rows that are held together and sorted by size."""
CHUNKS = 16
"""Chunks of rows after which a window ends in any case: where structures are made, rows take long."""
Per = Literal["molecule", "atom", "pair"]
"""What a model's numbers are of."""
SHORT_OF_MEMORY = ("can't allocate memory", "out of memory")
"""What torch says of it, on CPUs and GPUs."""


@dataclass(slots=True, kw_only=True)
class Window:
    """Rows with their values.

    Attributes:
        rows: n of them.
        num_atoms: (n,) int64, 0 where there is no molecule. has_3d: (n,) bool.
        values: for each row (models, k) float64, or (models, atoms or pairs, k) where these are read off; None where nothing was computed.
        too_large: places of molecules for which memory did not do.
    """

    rows: list[Made]
    num_atoms: np.ndarray
    has_3d: np.ndarray
    values: list[np.ndarray | None]
    too_large: set[int]


def windows(made: Iterator[list[Made]], forward: Computing, *, window: int = WINDOW, per: Per = "molecule") -> Iterator[Window]:
    """All rows, in order, with what `forward` reads off."""
    under_way: deque[tuple[Window, list[_Batch]]] = deque()
    for rows in _gathered(made, window):
        under_way.append(_begin(rows, forward))
        if len(under_way) > 1:
            yield _finished(*under_way.popleft(), forward, per)
    while under_way:
        yield _finished(*under_way.popleft(), forward, per)


def _gathered(made: Iterator[list[Made]], window: int) -> Iterator[list[Made]]:
    rows: list[Made] = []
    chunks = 0
    for some in made:
        rows += some
        chunks += len(some) > 1
        while len(rows) >= window or (rows and chunks >= CHUNKS):
            yield rows[:window]
            rows, chunks = rows[window:], 0
    if rows:
        yield rows


@dataclass(slots=True)
class _Batch:
    """Places of some rows of a window, and their values when they are computed."""

    places: np.ndarray
    values: "Future[np.ndarray]"


def _begin(rows: list[Made], forward: Computing) -> tuple[Window, list[_Batch]]:
    headers = np.zeros(len(rows), HEADER)
    for place, row in enumerate(rows):
        if row.record is not None:
            headers[place] = np.frombuffer(inflate(row.record), HEADER, count=1)[0]
    sizes, has_3d = headers["num_atoms"].astype(np.int64), headers["num_conformers"] > 0
    used = np.flatnonzero((sizes > 0) & (has_3d if forward.inputs == "3d" else True))
    batches = [_submitted(rows, used[batch], forward) for batch in forward.batches(sizes[used])]
    return Window(rows=rows, num_atoms=sizes, has_3d=has_3d, values=[None] * len(rows), too_large=set()), batches


def _submitted(rows: list[Made], places: np.ndarray, forward: Computing) -> _Batch:
    records = [record for place in places.tolist() if (record := rows[place].record) is not None]
    return _Batch(places, forward.submit_records(records))


def _finished(window: Window, batches: list[_Batch], forward: Computing, per: Per) -> Window:
    waiting = deque(batches)
    while waiting:
        batch = waiting.popleft()
        try:
            values = batch.values.result()
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not any(words in str(error) for words in SHORT_OF_MEMORY):
                raise
            if len(batch.places) == 1:
                window.too_large.add(int(batch.places[0]))
            else:  # one by one, each waited for, since together they were too much
                for place in batch.places:
                    waiting.appendleft(single := _submitted(window.rows, np.array([place]), forward))
                    single.values.exception()
            continue
        cuts = np.cumsum(window.num_atoms[batch.places] ** {"molecule": 0, "atom": 1, "pair": 2}[per])[:-1]
        for place, part in zip(batch.places.tolist(), np.split(values, cuts, axis=1), strict=True):
            window.values[place] = part[:, 0] if per == "molecule" else part
    return window
