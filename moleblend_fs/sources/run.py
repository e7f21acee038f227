"""Source -> store: rows go to worker processes in chunks, their results come back in order and are stored chunk by chunk."""

import os
import platform
from collections.abc import Iterator
from itertools import islice
from typing import Any

import lmdb
import numpy as np
import rdkit
from tqdm import tqdm

from moleblend_fs import __version__
from moleblend_fs.chem.parse import silence_rdkit
from moleblend_fs.data.manifest import Manifest
from moleblend_fs.data.partial_store import full_disk_told
from moleblend_fs.data.store_parts import ShardInfo, ShardNumber, StorePlan, finish_shard
from moleblend_fs.data.writer import StoreWriter
from moleblend_fs.sources.base import Source, identify
from moleblend_fs.sources.workers import ROW_TIMEOUT, Chunk, WorkerPool


def preprocess(
    source: Source,
    out: str | os.PathLike,
    *,
    workers: int = 1,
    limit: int | None = None,
    row_timeout: float = ROW_TIMEOUT,
    progress: bool = True,
) -> Manifest:
    """Turn a source into a store; the result does not depend on the number of workers, nor on interruptions.

    Args:
        source: where the rows come from.
        out: the new store.
        workers: processes that work on rows, besides this one, which reads and stores.
        limit: only the first rows, for trials.
        row_timeout: see `WorkerPool`.
        progress: show a bar on stderr.

    Raises:
        UserError: `out` exists, or input that cannot be read.
    """
    silence_rdkit()
    plan = _plan(source, limit)
    with StoreWriter(out, plan.request()) as writer:
        source_rows = _fill(writer, source, workers=workers, limit=limit, shard=None, row_timeout=row_timeout, progress=progress)
        with full_disk_told(out):
            return plan.finish(writer, source_rows, source.left_out())


def preprocess_shard(
    source: Source,
    out: str | os.PathLike,
    shard: ShardNumber,
    *,
    workers: int = 1,
    limit: int | None = None,
    row_timeout: float = ROW_TIMEOUT,
    progress: bool = True,
) -> ShardInfo:
    """Every `shard.count`-th block of a source's rows, into the folder of shards of the store `out`.

    `merge_shards` makes of them the store that `preprocess` would have made. Arguments and errors as there.
    """
    silence_rdkit()
    plan = _plan(source, limit)
    with StoreWriter(shard.path(out), plan.request()) as writer:
        source_rows = _fill(writer, source, workers=workers, limit=limit, shard=shard, row_timeout=row_timeout, progress=progress)
        with full_disk_told(out):
            return finish_shard(writer, shard, plan, source_rows, source.left_out())


def _plan(source: Source, limit: int | None) -> StorePlan:
    return StorePlan(
        source=source.name,
        options=source.options() | ({} if limit is None else {"limit": limit}),
        inputs=identify(source.files()),
        labels=source.labels,
        splitter=source.splitter,
        versions=versions(),
        notes=source.notes,
    )


def _fill(
    writer: StoreWriter,
    source: Source,
    *,
    workers: int,
    limit: int | None,
    shard: ShardNumber | None,
    row_timeout: float,
    progress: bool,
) -> int:
    """Bring in every row that is not yet there; how many rows the source gave in all."""
    total = source.num_rows()
    total = limit if total is None or (limit is not None and limit < total) else total
    reader = _Reader(source, writer.next_row, writer.rows_read, limit, shard)
    bar = tqdm(
        total=total, initial=writer.next_row, unit=" rows", desc=source.name, smoothing=0.05, disable=not progress, dynamic_ncols=True
    )
    with bar, WorkerPool(source, workers, row_timeout) as pool:
        for chunk, results in pool.results(reader.chunks(source.chunk_rows)):
            before = writer.next_row
            with full_disk_told(writer.path):
                writer.add(results, chunk.next_row, chunk.rows_read)
            bar.update(writer.next_row - before)
            bar.set_postfix(failures=writer.failures, refresh=False)
    return reader.rows_read


def versions() -> dict[str, str]:
    """Of all that shapes a store's records."""
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
