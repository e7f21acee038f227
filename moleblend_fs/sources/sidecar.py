"""Sidecars are computed from a store: resumable, by any number of workers, in parts where that is asked for."""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rdkit
from tqdm import tqdm

from moleblend_fs import __version__
from moleblend_fs.chem.parse import silence_rdkit
from moleblend_fs.data.graph import Failure
from moleblend_fs.data.sidecar import FAILURES, MANIFEST, SidecarManifest, folder_of
from moleblend_fs.data.store import Store
from moleblend_fs.data.store_parts import ShardNumber
from moleblend_fs.data.typed_json import READING, read_json
from moleblend_fs.errors import UserError
from moleblend_fs.files import CsvWriter, rename_flushed, write_atomically
from moleblend_fs.sources.sidecar_kinds import Kind

REQUEST, FAILED = "request.json", "failures.jsonl"
COPY = 1 << 22


class _Failed(NamedTuple):
    """A molecule that nothing could be computed of: its index, what it was computed from, and why not."""

    molecule: int
    input: str
    reason: str


def make_sidecar(store: Store, kind: Kind, *, workers: int, shard: ShardNumber | None = None, progress: bool = True) -> Path:
    """Compute a sidecar, or the shard of one; where it is.

    Raises:
        UserError: it exists already, or a run that was stopped was for another store or version.
    """
    silence_rdkit()
    whole = folder_of(store, kind.name)
    place = whole if shard is None else _shard(whole, shard)
    begin, end = (0, len(store)) if shard is None else _range(len(store), shard)
    if os.path.lexists(place):
        raise UserError(f"{place} exists already; delete it first to make it again")
    partial = _begin(place, _request(store, kind, begin, end))
    done = begin + kind.cut_to_whole(partial / kind.file)
    _write_failed(partial, [failed for failed in _failed_in(partial) if failed.molecule < done])
    with open(partial / kind.file, "ab") as out, open(partial / FAILED, "a", encoding="utf-8") as told:
        bar = tqdm(total=end - begin, initial=done - begin, unit=" molecules", desc=kind.name, disable=not progress, dynamic_ncols=True)
        with bar, contextlib.closing(kind.results(store, done, end, workers)) as computed:
            for results in computed:
                told.writelines(_line(_Failed(i, r.input, r.reason)) for i, r in results if isinstance(r, Failure))
                told.flush()  # first: of those that are not yet in the file they are made again
                out.write(kind.appended([result for _, result in results]))
                out.flush()
                bar.update(len(results))
        os.fsync(out.fileno())
        os.fsync(told.fileno())
    if shard is None:
        _finish(store, kind, partial)
    rename_flushed(partial, place)
    return place


def merge_sidecar(store: Store, kind: Kind) -> Path:
    """The sidecar of all its shards, which are deleted; UserError if one is missing or of another store or version."""
    whole = folder_of(store, kind.name)
    if os.path.lexists(whole):
        raise UserError(f"{whole} exists already; delete it first to merge again")
    found = sorted(whole.parent.glob(f"{kind.name}.*-of-*"), key=lambda path: path.name)
    found = [path for path in found if path.suffix != ".partial"]
    counts = {path.name.split("-of-")[1] for path in found}
    count = int(counts.pop()) if len(counts) == 1 else 0
    shards = [ShardNumber(index, count) for index in range(count)]
    if missing := [str(shard) for shard in shards if not _shard(whole, shard).is_dir()] or ([] if count else ["all"]):
        raise UserError(f"{whole}: shards are missing or of several numbers ({', '.join(missing)}); make them with --shard I/N")
    partial = _begin(whole, _request(store, kind, 0, len(store)))
    failed: list[_Failed] = []
    with open(partial / kind.file, "wb") as out:
        for shard in shards:
            part, (begin, end) = _shard(whole, shard), _range(len(store), shard)
            _check_request(part, _request(store, kind, begin, end))
            if not (part / kind.file).is_file() or kind.cut_to_whole(part / kind.file) != end - begin:
                raise UserError(f"{part}: cut short; delete it and make it again")
            failed += _failed_in(part)
            with open(part / kind.file, "rb") as values:
                shutil.copyfileobj(values, out, COPY)
        out.flush()
        os.fsync(out.fileno())
    _write_failed(partial, failed)
    _finish(store, kind, partial)
    rename_flushed(partial, whole)
    for shard in shards:
        shutil.rmtree(_shard(whole, shard))
    return whole


def _shard(whole: Path, shard: ShardNumber) -> Path:
    return whole.with_name(f"{whole.name}.{shard.index}-of-{shard.count}")


def _range(molecules: int, shard: ShardNumber) -> tuple[int, int]:
    return molecules * shard.index // shard.count, molecules * (shard.index + 1) // shard.count


def _request(store: Store, kind: Kind, begin: int, end: int) -> dict[str, Any]:
    """What a resumed run must agree in."""
    about = {"name": kind.name, "records_sha256": store.manifest.records_sha256, "molecules": [begin, end]}
    about |= {"columns": list(kind.columns), "rdkit": rdkit.__version__}
    return about | ({"model": kind.model_sha256} if kind.model_sha256 else {})


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
        other = "by another model" if request.get("model") != found.get("model") else "with another version of RDKit"
        raise UserError(f"{folder}: begun for another store, or {other}; delete it and run the command again")


def _line(failed: _Failed) -> str:
    return json.dumps(failed) + "\n"


def _failed_in(folder: Path) -> Sequence[_Failed]:
    """What failed so far; a last line that a stopped run left unfinished is of a molecule that is made again."""
    path = folder / FAILED
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [_Failed(*json.loads(line)) for line in lines if line.endswith("\n")]


def _write_failed(folder: Path, failed: Iterable[_Failed]) -> None:
    write_atomically(folder / FAILED, "".join(map(_line, failed)))


def _finish(store: Store, kind: Kind, partial: Path) -> None:
    """The list of failures, and the manifest."""
    failed = _failed_in(partial)
    text = io.StringIO()
    table = CsvWriter(text)
    table.writerow(["row", "input", "reason"])
    table.writerows([int(store.source_row[molecule]), given, reason] for molecule, given, reason in failed)
    write_atomically(partial / FAILURES, text.getvalue())
    manifest = SidecarManifest(
        name=kind.name,
        kind=kind.kind,
        columns=kind.columns,
        molecules=len(store),
        records_sha256=store.manifest.records_sha256,
        failures=len(failed),
        model_sha256=kind.model_sha256,
        versions={"moleblend_fs": __version__, "rdkit": rdkit.__version__, "numpy": np.__version__},
        **kind.contents(store, partial),
    )
    manifest.save(partial / MANIFEST)
    (partial / FAILED).unlink()
    (partial / REQUEST).unlink()
