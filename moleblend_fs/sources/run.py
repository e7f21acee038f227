"""Source -> store: rows go to worker processes in chunks, their results come back in order and are stored chunk by chunk."""

import multiprocessing
import multiprocessing.connection
import os
import platform
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any

import lmdb
import numpy as np
import rdkit
from rdkit import Chem
from tqdm import tqdm

from moleblend_fs import __version__
from moleblend_fs.chem.parse import silence_rdkit
from moleblend_fs.data.graph import FEATURISATION_VERSION, Failure
from moleblend_fs.data.manifest import Manifest
from moleblend_fs.data.writer import EncodedMolecule, StoreWriter
from moleblend_fs.errors import UserError
from moleblend_fs.sources.base import Source, identify

Chunk = list[tuple[int, Any]]
Results = list[tuple[int, EncodedMolecule | Failure]]

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
    inputs = identify(source.files())
    options = source.options() | ({} if limit is None else {"limit": limit})
    request = {
        "source": source.name,
        "options": options,
        "inputs": inputs,
        "split": source.splitter.describe(),
        "featurisation": FEATURISATION_VERSION,
    }
    with StoreWriter(out, request) as writer:
        total = source.num_rows()
        total = limit if total is None or (limit is not None and limit < total) else total
        rows = source.rows(writer.next_row)
        if limit is not None:
            rows = _until(rows, limit)
        with tqdm(
            total=total, initial=writer.next_row, unit=" rows", desc=source.name, smoothing=0.05, disable=not progress, dynamic_ncols=True
        ) as bar:
            for last_row, results in _results(source, _chunks(rows, source.chunk_rows), workers):
                before = writer.next_row
                with _writing(out):
                    writer.add(results, last_row + 1)
                bar.update(writer.next_row - before)
                bar.set_postfix(failures=writer.failures, refresh=False)
        with _writing(out):
            return writer.finish(
                source=source.name,
                options=options,
                inputs=inputs,
                labels=source.labels,
                splitter=source.splitter,
                versions=_versions(),
            )


@contextmanager
def _writing(out: str | os.PathLike) -> Iterator[None]:
    """A full disk is the user's to mend, and nothing that was stored is lost by it."""
    try:
        yield
    except (lmdb.Error, OSError) as error:
        raise UserError(
            f"{out}: cannot be written ({error}); is the disk full? What was stored is kept: make room and run the same command again"
        ) from error


def _versions() -> dict[str, str]:
    return {
        "moleblend_fs": __version__,
        "rdkit": rdkit.__version__,
        "numpy": np.__version__,
        "lmdb": lmdb.__version__,
        "python": platform.python_version(),
    }


def _until(rows: Iterable[tuple[int, Any]], limit: int) -> Iterator[tuple[int, Any]]:
    for row, raw in rows:
        if row >= limit:
            return
        yield row, raw


def _chunks(rows: Iterator[tuple[int, Any]], size: int) -> Iterator[Chunk]:
    while chunk := list(islice(rows, size)):
        yield chunk


def encode_chunk(source: Source, chunk: Chunk) -> Results:
    """Parse and encode rows. A molecule with a note gives a line in failures.csv as well."""
    results: Results = []
    for row, raw in chunk:
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


def _results(source: Source, chunks: Iterator[Chunk], workers: int) -> Iterator[tuple[int, Results]]:
    """(last row, results) of every chunk, in order."""
    if workers <= 1:
        for chunk in chunks:
            yield chunk[-1][0], encode_chunk(source, chunk)
        return
    # Spawned, not forked: a fork would copy locks of whatever threads there are.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker, initargs=(source,))
    waiting: deque[tuple[int, Future[Results]]] = deque()
    try:
        for chunk in chunks:
            waiting.append((chunk[-1][0], pool.submit(_work, chunk)))
            if len(waiting) >= CHUNKS_IN_FLIGHT * workers:
                last_row, future = waiting.popleft()
                yield last_row, future.result()
        while waiting:
            last_row, future = waiting.popleft()
            yield last_row, future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died (killed, or out of memory); what was stored is kept: run the same command again to resume, "
            "with fewer --workers if memory is short"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_source: Source | None = None


def _begin_worker(source: Source) -> None:
    global _source
    _source = source
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent stops the workers
    silence_rdkit()
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """End this worker when the parent was killed; it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _work(chunk: Chunk) -> Results:
    assert _source is not None
    return encode_chunk(_source, chunk)
