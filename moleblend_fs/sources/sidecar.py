"""Sidecars are computed from a store's SMILES: resumable, by any number of workers, in parts where that is asked for."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rdkit
from tqdm import tqdm

from moleblend_fs import __version__
from moleblend_fs.chem.descriptors import descriptor_names, descriptors
from moleblend_fs.chem.parse import silence_rdkit
from moleblend_fs.data.encoded import EncodedMolecule
from moleblend_fs.data.graph import Failure
from moleblend_fs.data.sidecar import MANIFEST, VALUES, SidecarManifest, column_statistics, folder_of
from moleblend_fs.data.splits import TRAIN, Splitter
from moleblend_fs.data.store import Store
from moleblend_fs.data.store_parts import ShardNumber
from moleblend_fs.data.structures import smiles_of_store
from moleblend_fs.data.typed_json import READING, read_json
from moleblend_fs.errors import UserError
from moleblend_fs.files import rename_flushed, write_atomically
from moleblend_fs.sources.base import Source
from moleblend_fs.sources.workers import Chunk, WorkerPool

REQUEST = "request.json"
SIDECARS = (descriptors.__name__,)
"""What can be computed, by the names of the functions that do."""
COPY = 1 << 22


class _Molecules(Source):
    """A store's SMILES, each of which gives a row of values."""

    name = "sidecar"
    labels = ()
    splitter = Splitter(kind="none")
    chunk_rows = 32

    def files(self) -> list[Path]:
        return []

    def options(self) -> dict[str, Any]:
        return {}

    def rows(self, start: int) -> Iterator[tuple[int, Any]]:
        raise NotImplementedError  # chunks are handed over by `make_sidecar`

    def parse(self, raw: str) -> EncodedMolecule | Failure:  # type: ignore[override]
        try:
            return EncodedMolecule(record=descriptors(raw).tobytes(), split=None, scaffold=None)
        except ValueError as error:
            return Failure(input=raw, reason=str(error))


def make_sidecar(store: Store, name: str, *, workers: int, shard: ShardNumber | None = None, progress: bool = True) -> Path:
    """Compute a sidecar, or the shard of one; where it is.

    Raises:
        UserError: it exists already, or a run that was stopped was for another store or version.
    """
    silence_rdkit()
    whole = folder_of(store, name)
    place = whole if shard is None else _shard(whole, shard)
    begin, end = (0, len(store)) if shard is None else _range(len(store), shard)
    if os.path.lexists(place):
        raise UserError(f"{place} exists already; delete it first to make it again")
    partial = _begin(place, _request(store, name, begin, end))
    width = len(descriptor_names())
    with open(partial / VALUES, "ab") as out:
        done = os.fstat(out.fileno()).st_size // (4 * width)
        out.truncate(4 * width * done)
        chunks = _chunks(store, begin + done, end)
        bar = tqdm(total=end - begin, initial=done, unit=" molecules", desc=name, disable=not progress, dynamic_ncols=True)
        with bar, WorkerPool(_Molecules(), workers) as pool:
            for _, results in pool.results(chunks):
                for _, result in results:
                    out.write(np.full(width, np.nan, "<f4").tobytes() if isinstance(result, Failure) else result.record)
                out.flush()
                bar.update(len(results))
        os.fsync(out.fileno())
    if shard is None:
        _finish(store, name, partial)
    rename_flushed(partial, place)
    return place


def merge_sidecar(store: Store, name: str) -> Path:
    """The sidecar of all its shards, which are deleted; UserError if one is missing or of another store or version."""
    whole = folder_of(store, name)
    if os.path.lexists(whole):
        raise UserError(f"{whole} exists already; delete it first to merge again")
    found = sorted(whole.parent.glob(f"{name}.*-of-*"), key=lambda path: path.name)
    found = [path for path in found if path.suffix != ".partial"]
    counts = {path.name.split("-of-")[1] for path in found}
    count = int(counts.pop()) if len(counts) == 1 else 0
    shards = [ShardNumber(index, count) for index in range(count)]
    if missing := [str(shard) for shard in shards if not _shard(whole, shard).is_dir()] or ([] if count else ["all"]):
        raise UserError(f"{whole}: shards are missing or of several numbers ({', '.join(missing)}); make them with --shard I/N")
    partial = _begin(whole, _request(store, name, 0, len(store)))
    with open(partial / VALUES, "wb") as out:
        for shard in shards:
            part, (begin, end) = _shard(whole, shard), _range(len(store), shard)
            _check_request(part, _request(store, name, begin, end))
            if (part / VALUES).stat().st_size != 4 * len(descriptor_names()) * (end - begin):
                raise UserError(f"{part}: cut short; delete it and make it again")
            with open(part / VALUES, "rb") as values:
                shutil.copyfileobj(values, out, COPY)
        out.flush()
        os.fsync(out.fileno())
    _finish(store, name, partial)
    rename_flushed(partial, whole)
    for shard in shards:
        shutil.rmtree(_shard(whole, shard))
    return whole


def _shard(whole: Path, shard: ShardNumber) -> Path:
    return whole.with_name(f"{whole.name}.{shard.index}-of-{shard.count}")


def _range(molecules: int, shard: ShardNumber) -> tuple[int, int]:
    return molecules * shard.index // shard.count, molecules * (shard.index + 1) // shard.count


def _request(store: Store, name: str, begin: int, end: int) -> dict[str, Any]:
    """What a resumed run must agree in."""
    about = {"name": name, "records_sha256": store.manifest.records_sha256, "molecules": [begin, end]}
    return about | {"columns": list(descriptor_names()), "rdkit": rdkit.__version__}


def _begin(place: Path, request: dict[str, Any]) -> Path:
    partial = place.with_name(place.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    if (partial / REQUEST).exists():
        _check_request(partial, request)
    else:
        write_atomically(partial / REQUEST, json.dumps(request) + "\n")
    return partial


def _check_request(folder: Path, request: dict[str, Any]) -> None:
    try:
        found = read_json(folder / REQUEST)
    except READING as error:
        raise UserError(f"{folder / REQUEST}: cannot be read ({error}); delete {folder} and run the command again") from error
    if found != request:
        raise UserError(f"{folder}: begun for another store, or with another version of RDKit; delete it and run the command again")


def _chunks(store: Store, begin: int, end: int) -> Iterator[Chunk]:
    for start in range(begin, end, _Molecules.chunk_rows):
        part = range(start, min(end, start + _Molecules.chunk_rows))
        yield Chunk(list(smiles_of_store(store, part)), next_row=part.stop, rows_read=part.stop)


def _finish(store: Store, name: str, partial: Path) -> None:
    """Statistics and manifest."""
    columns = descriptor_names()
    values = np.memmap(partial / VALUES, "<f4", "r", shape=(len(store), len(columns)))
    split = TRAIN if TRAIN in store.splits and store.manifest.splits[TRAIN].molecules else ""
    absent = np.concatenate([np.isnan(values[start : start + COPY // 1024]).sum(axis=1) for start in range(0, len(store), COPY // 1024)])
    with open(partial / VALUES, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    manifest = SidecarManifest(
        name=name,
        columns=columns,
        molecules=len(store),
        records_sha256=store.manifest.records_sha256,
        values_sha256=digest,
        statistics=column_statistics(values, np.asarray(store.split(split)) if split else np.arange(len(store))),
        statistics_of=split,
        missing=int(absent.sum()),
        without=int((absent == len(columns)).sum()),
        versions={"moleblend_fs": __version__, "rdkit": rdkit.__version__, "numpy": np.__version__},
    )
    manifest.save(partial / MANIFEST)
    (partial / REQUEST).unlink()
