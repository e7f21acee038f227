"""Source -> store: rows go to worker processes in chunks, their results come back in order and are stored chunk by chunk."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import platform
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, NamedTuple

import lmdb
import numpy as np
import rdkit
from rdkit import Chem
from tqdm import tqdm

from moleblend_fs import __version__
from moleblend_fs.chem.parse import silence_rdkit
from moleblend_fs.data.graph import Failure
from moleblend_fs.data.manifest import Manifest
from moleblend_fs.data.shards import ShardInfo, ShardNumber, StorePlan, finish_shard
from moleblend_fs.data.writer import EncodedMolecule, StoreWriter, full_disk_told
from moleblend_fs.errors import UserError
from moleblend_fs.sources.base import Source, identify

Results = list[tuple[int, EncodedMolecule | Failure]]


class Chunk(NamedTuple):
    """Rows that go to a worker together, and how far the source has been read with the last of them."""

    rows: list[tuple[int, Any]]
    next_row: int
    rows_read: int


CHUNKS_IN_FLIGHT = 4
"""Chunks per worker that are read ahead; bounds the memory whatever the size of the source."""


def preprocess(source: Source, out: str | os.PathLike, *, workers: int = 1, limit: int | None = None, progress: bool = True) -> Manifest:
    """Turn a source into a store; the result does not depend on the number of workers, nor on interruptions.

    Args:
        source: where the rows come from.
        out: the new store.
        workers: processes; with 1 everything happens in this one.
        limit: only the first rows, for trials.
        progress: show a bar on stderr.

    Raises:
        UserError: `out` exists, input that cannot be read, or a worker that died.
    """
    silence_rdkit()
    plan = _plan(source, limit)
    with StoreWriter(out, plan.request()) as writer:
        _fill(writer, source, workers=workers, limit=limit, shard=None, progress=progress)
        with full_disk_told(out):
            return plan.finish(writer)


def preprocess_shard(
    source: Source, out: str | os.PathLike, shard: ShardNumber, *, workers: int = 1, limit: int | None = None, progress: bool = True
) -> ShardInfo:
    """Every `shard.count`-th block of a source's rows, into the folder of shards of the store `out`.

    `merge_shards` makes of them the store that `preprocess` would have made. Arguments and errors as there.
    """
    silence_rdkit()
    plan = _plan(source, limit)
    with StoreWriter(shard.path(out), plan.request()) as writer:
        source_rows = _fill(writer, source, workers=workers, limit=limit, shard=shard, progress=progress)
        with full_disk_told(out):
            return finish_shard(writer, shard, plan, source_rows)


def _plan(source: Source, limit: int | None) -> StorePlan:
    return StorePlan(
        source=source.name,
        options=source.options() | ({} if limit is None else {"limit": limit}),
        inputs=identify(source.files()),
        labels=source.labels,
        splitter=source.splitter,
        versions=_versions(),
    )


def _fill(writer: StoreWriter, source: Source, *, workers: int, limit: int | None, shard: ShardNumber | None, progress: bool) -> int:
    """Bring in every row that is not yet there; how many rows the source gave in all."""
    total = source.num_rows()
    total = limit if total is None or (limit is not None and limit < total) else total
    reader = _Reader(source, writer.next_row, writer.rows_read, limit, shard)
    with tqdm(
        total=total, initial=writer.next_row, unit=" rows", desc=source.name, smoothing=0.05, disable=not progress, dynamic_ncols=True
    ) as bar:
        for chunk, results in _results(source, reader.chunks(source.chunk_rows), workers):
            before = writer.next_row
            with full_disk_told(writer.path):
                writer.add(results, chunk.next_row, chunk.rows_read)
            bar.update(writer.next_row - before)
            bar.set_postfix(failures=writer.failures, refresh=False)
    return reader.rows_read


def _versions() -> dict[str, str]:
    return {
        "moleblend_fs": __version__,
        "rdkit": rdkit.__version__,
        "numpy": np.__version__,
        "lmdb": lmdb.__version__,
        "python": platform.python_version(),
    }


class _Reader:
    """The rows of a source that one store or shard takes, and the count of all that the source gave.

    Args:
        source: where the rows come from.
        start: first row to read.
        rows_read: rows that the source gave before it.
        limit: only rows below this one.
        shard: takes the blocks of SHARD_BLOCK rows whose number modulo `shard.count` is `shard.index`.
    """

    def __init__(self, source: Source, start: int, rows_read: int, limit: int | None, shard: ShardNumber | None):
        self.rows_read = rows_read
        self._rows, self._limit, self._shard = source.rows(start), limit, shard

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        for row, raw in self._rows:
            if self._limit is not None and row >= self._limit:
                return
            self.rows_read += 1
            if self._shard is None or self._shard.takes(row):
                yield row, raw

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Up to `size` rows at a time, with what the store notes when they are in."""
        rows = iter(self)
        while taken := list(islice(rows, size)):
            yield Chunk(taken, next_row=taken[-1][0] + 1, rows_read=self.rows_read)


def encode_rows(source: Source, rows: list[tuple[int, Any]]) -> Results:
    """Parse and encode rows. A molecule with a note gives a line in failures.csv as well."""
    results: Results = []
    for row, raw in rows:
        try:
            graph = source.parse(raw)
        except Chem.MolSanitizeException as error:  # e.g. a scaffold that RDKit cannot kekulise
            graph = Failure(input=str(raw)[:200], reason=f"RDKit: {error}")
        if isinstance(graph, Failure):
            results.append((row, graph))
            continue
        results.append((row, EncodedMolecule.from_graph(graph, row)))
        if graph.note is not None:
            results.append((row, Failure(input=graph.smiles, reason=graph.note)))
    return results


def _results(source: Source, chunks: Iterator[Chunk], workers: int) -> Iterator[tuple[Chunk, Results]]:
    """Every chunk with its results, in order."""
    if workers <= 1:
        for chunk in chunks:
            yield chunk, encode_rows(source, chunk.rows)
        return
    # Spawned, not forked: a fork would copy locks of whatever threads there are.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker, initargs=(source,))
    waiting: deque[tuple[Chunk, Future[Results]]] = deque()
    try:
        for chunk in chunks:
            with _interrupts_held_back():  # a worker may be started by this
                future = pool.submit(_work, chunk.rows)
            waiting.append((chunk._replace(rows=[]), future))
            if len(waiting) >= CHUNKS_IN_FLIGHT * workers:
                position, future = waiting.popleft()
                yield position, future.result()
        while waiting:
            position, future = waiting.popleft()
            yield position, future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died (killed, or out of memory); what was stored is kept: run the same command again to resume, "
            "with fewer --workers if memory is short"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C reaches the whole process group; processes that are started within never get it, and are stopped by this one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_source: Source | None = None


def _begin_worker(source: Source) -> None:
    global _source
    _source = source
    silence_rdkit()
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """End this worker when the parent was killed; it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _work(rows: list[tuple[int, Any]]) -> Results:
    assert _source is not None
    return encode_rows(_source, rows)
