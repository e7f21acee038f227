"""Processes that turn rows into records. A row that kills its process, or holds it up, is a failure and costs nothing else."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from moleblend_fs.chem.parse import silence_rdkit
from moleblend_fs.data.graph import Failure
from moleblend_fs.errors import UserError
from moleblend_fs.sources.base import Source
from moleblend_fs.sources.row_results import Results, encode_row
from moleblend_fs.sources.starting_workers import begun

ROW_TIMEOUT = 60.0
"""Seconds for a row, besides those that its source grants it (see `Source.extra_seconds`)."""

CHUNKS_IN_FLIGHT = 4
"""Chunks per worker that are read ahead and not done; bounds the memory whatever the size of the source."""

HELD_BYTES = 1 << 26
"""Of results that are there and wait for a row before them, which may take a minute. As long as they are fewer, other rows go on."""

DEATHS_OF_A_ROW = 2
"""A process may be killed for what another one did (memory); a row is at fault when it dies with it a second time."""
UNEXPLAINED_DEATHS = 3
"""Processes in a row that may die without having begun a row before the run gives up."""

_BETWEEN_ROWS = -1.0
_LOOK = 0.5
"""Seconds between two looks at the clock."""


class Chunk(NamedTuple):
    """Rows that go to a worker together, and how far the source has been read with the last of them."""

    rows: list[tuple[int, Any]]
    next_row: int
    rows_read: int


@dataclass(slots=True)
class _Task:
    """A chunk on its way: its results when they are there, and its rows that are at fault, by position in the chunk."""

    chunk: Chunk
    results: Results | None = None
    failed: dict[int, Failure] = field(default_factory=dict)
    deaths: Counter[int] = field(default_factory=Counter)

    def left(self) -> list[tuple[int, int, Any]]:
        """(position, row, raw) of what is to be done."""
        return [(position, row, raw) for position, (row, raw) in enumerate(self.chunk.rows) if position not in self.failed]

    @property
    def held_bytes(self) -> int:
        """Of its records, and of what is said of rows without one."""
        found = [each for _, each in self.results or ()]
        return sum(len(each.input) + len(each.reason) if isinstance(each, Failure) else len(each.record) for each in found)

    def finish(self, results: Results) -> None:
        failed = [(self.chunk.rows[position][0], failure) for position, failure in self.failed.items()]
        self.results = sorted([*results, *failed], key=lambda pair: pair[0])  # stable: a note stays after its molecule
        self.chunk = self.chunk._replace(rows=[])


class _Worker:
    """One process, its end of the pipe, and what it is at: position in the chunk and time of begin, in shared memory."""

    def __init__(self, source: Source):
        self.task: _Task | None = None
        self.process, self.connection, self._progress = begun(_serve, source, (_BETWEEN_ROWS, 0.0))

    @property
    def position(self) -> int | None:
        """The row that is being worked on, as its place in the chunk."""
        position = self._progress[0]
        return None if position == _BETWEEN_ROWS else int(position)

    def overdue(self, limit: float) -> bool:
        return self.position is not None and time.monotonic() - self._progress[1] > limit

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class WorkerPool:
    """Workers for the chunks of one source.

    Args:
        source: what parses the rows.
        count: processes, at least one: the parent is never at the mercy of a row.
        row_timeout: seconds for a row, besides `source.extra_seconds`; one that takes longer is a failure.
    """

    def __init__(self, source: Source, count: int, row_timeout: float = ROW_TIMEOUT):
        self._source, self._limit = source, row_timeout + source.extra_seconds
        self._told = f"took more than {self._limit:g} s; see --row-timeout"
        self._unexplained = 0
        self._held_bytes = 0
        self._to_do: deque[_Task] = deque()
        self._workers: list[_Worker] = []
        try:
            self._workers += (_Worker(source) for _ in range(max(1, count)))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for worker in self._workers:
            worker.end()

    def results(self, chunks: Iterator[Chunk]) -> Iterator[tuple[Chunk, Results]]:
        """Every chunk, without its rows, with its results, in order.

        Where reading the next chunk raises, those that were read come first.
        """
        waiting: deque[_Task] = deque()
        more, error = True, None
        while more or waiting:
            if more and self._has_room():
                try:
                    waiting.append(_Task(next(chunks)))
                    self._to_do.append(waiting[-1])
                except StopIteration:
                    more = False
                except Exception as caught:
                    more, error = False, caught
                self._hand_out()
                self._collect(wait=0.0)
            elif waiting[0].results is None:
                self._collect(wait=_LOOK)
            while waiting and waiting[0].results is not None:
                task = waiting.popleft()
                self._held_bytes -= task.held_bytes
                yield task.chunk, task.results or []
            self._hand_out()
        if error is not None:
            raise error

    def _has_room(self) -> bool:
        """Whether another chunk may be read."""
        at_work = sum(worker.task is not None for worker in self._workers)
        return len(self._to_do) + at_work < CHUNKS_IN_FLIGHT * len(self._workers) and self._held_bytes < HELD_BYTES

    def _hand_out(self) -> None:
        for place, worker in enumerate(self._workers):
            if worker.task is not None or not self._to_do:
                continue
            task = self._to_do.popleft()
            try:
                worker.connection.send(task.left())
                worker.task = task
            except OSError:  # it died while it had nothing to do
                self._to_do.appendleft(task)
                self._replace(place, None)

    def _collect(self, wait: float) -> None:
        """Take in what is ready, and see to workers that died or take too long."""
        busy = [worker for worker in self._workers if worker.task is not None]
        ready = multiprocessing.connection.wait([end for w in busy for end in (w.connection, w.process.sentinel)], wait)
        for place, worker in enumerate(self._workers):
            if worker.task is None:
                continue
            if worker.connection in ready:
                try:
                    results = worker.connection.recv()
                except (EOFError, OSError):
                    self._replace(place, worker.task)
                else:
                    worker.task.finish(results)
                    self._held_bytes += worker.task.held_bytes
                    worker.task, self._unexplained = None, 0
            elif worker.process.sentinel in ready:
                self._replace(place, worker.task)
            elif (position := worker.position) is not None and worker.overdue(self._limit):
                worker.task.failed[position] = Failure(input=self._input(worker.task, position), reason=self._told)
                self._replace(place, worker.task, blame=False)

    def _replace(self, place: int, task: _Task | None, blame: bool = True) -> None:
        """A new worker for a dead or hanging one; the rest of its task is done again, without rows that are at fault."""
        worker = self._workers[place]
        worker.end()
        position, code = worker.position, worker.process.exitcode
        if task is not None:
            self._to_do.appendleft(task)
        if blame and (task is None or position is None):
            self._unexplained += 1
            if self._unexplained >= UNEXPLAINED_DEATHS:
                raise UserError(
                    f"worker processes die before they have done anything ({_told(code)}); what was stored is kept: run the same command "
                    "again to resume, with fewer --workers if memory is short"
                )
        elif blame and task is not None and position is not None:
            task.deaths[position] += 1
            if task.deaths[position] >= DEATHS_OF_A_ROW:
                reason = f"the process that worked on it died ({_told(code)}), and so did a second one"
                task.failed[position] = Failure(input=self._input(task, position), reason=reason)
        self._workers[place] = _Worker(self._source)

    def _input(self, task: _Task, position: int) -> str:
        return self._source.shown(task.chunk.rows[position][1]).encode("utf-8", "replace").decode()


def _told(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def _serve(connection: Connection, source: Source, progress: Any) -> None:
    """Work on chunks until the parent is gone. Whatever goes wrong outside of a row ends the process, and the parent sees that."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        silence_rdkit()
        threading.Thread(target=_die_with_parent, daemon=True).start()
        while True:
            results: Results = []
            for position, row, raw in connection.recv():
                progress[1] = time.monotonic()
                progress[0] = position
                results += encode_row(source, row, raw)
            progress[0] = _BETWEEN_ROWS
            connection.send(results)
    except BaseException:
        os._exit(1)


def _die_with_parent() -> None:
    """End this worker when the parent was killed; it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
