"""Stores of earlier runs by what they were made of: a table becomes molecules, and conformers, once for all runs that learn from it.

CACHE/stores/KEY/   the store's files, and `ENTRY`; KEY is the hash of all that shapes a store: content of the input, options, versions
CACHE/stores/KEY.lock
CACHE/conformers/    structures of single molecules, for stores of other targets or tables: see `chem.conformer_cache`

A run's folder has the store as its own: the same files under other names where both lie in one file system, otherwise copies. So the
cache may be deleted at any time, as may any run.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from moleblend_fs.data.manifest import FORMAT_VERSION, Manifest
from moleblend_fs.data.partial_store import TABLES
from moleblend_fs.data.store import MANIFEST, RECORDS, Store, forget
from moleblend_fs.data.typed_json import READING, read_json
from moleblend_fs.data.verification import problems
from moleblend_fs.errors import UserError
from moleblend_fs.files import whole_folder, write_atomically
from moleblend_fs.locks import awaited, taken
from moleblend_fs.sources.base import Source, content_hash, identify
from moleblend_fs.sources.run import versions

VARIABLE, OFF = "MOLEBLEND_CACHE", "off"
STORES, ENTRY, CONFORMERS = "stores", "entry.json", "conformers"
LIMIT = 10_000_000_000
"""Bytes that nothing but the cache holds, at most; stores that were not used for longest go first."""


def cache_folder() -> Path | None:
    """$MOLEBLEND_CACHE, or a folder among the user's caches; None where it is switched off or the user has no home."""
    given = os.environ.get(VARIABLE, "")
    if given:
        return None if given == OFF else Path(os.path.expanduser(given))
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return caches / "moleblend_fs" if caches.is_absolute() else None


def obtain_store(source: Source, out: Path, make: Callable[[], object], *, folder: Path | None) -> str:
    """The store of a source in `out`: an earlier run's, or one that `make` makes there now, which is kept for later ones.

    What is taken from the cache is the very store that `make` would have made. Commands that want the same at the same time wait for the
    first of them. Nothing that the cache cannot do (a full disk, no right to write) keeps a store from being made.

    Args:
        folder: of the cache; None for making it in any case.

    Returns:
        What is to be said of it, "" for nothing.
    """
    if folder is None:
        make()
        return ""
    entry = folder / STORES / key_of(source)
    with _alone(entry.with_suffix(".lock")):
        if _take(entry, source, out):
            return f"the molecules are those that an earlier run made of the same content ({entry})"
        make()
        try:
            _keep(out, entry, source)
            _make_room(folder / STORES, entry)
        except (OSError, UserError) as error:
            return f"{out}: not kept for other runs: {error}"
    return ""


def key_of(source: Source) -> str:
    """The hash of everything that shapes a source's store, but for the names of its files."""
    content = {
        "source": source.name,
        "options": source.options(),
        "labels": [dataclasses.asdict(label) for label in source.labels],
        "split": source.splitter.describe(),
        "content": [content_hash(path) for path in source.files()],
        "versions": versions(),
        "format": FORMAT_VERSION,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """With the lock, once nobody else has it; without, where there can be no locks."""
    descriptor = None
    try:
        lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = taken(lock)
        if descriptor is None:
            print("waiting for another command that makes the same molecules (--no-cache makes them here)", file=sys.stderr)
            descriptor = awaited(lock)
    except OSError:
        descriptor = None
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _take(entry: Path, source: Source, out: Path) -> bool:
    """An entry's store in `out`, with the names that the input has now; False where there is none that is whole."""
    try:
        if not entry.is_dir() or (found := _whole(entry)) is None:
            return False
        manifest, source_notes = found
        with whole_folder(out) as target:
            for path in entry.iterdir():
                if path.name not in (MANIFEST, ENTRY):
                    link_or_copy(path, target / path.name)
            notes = (*source.notes, *manifest.notes[source_notes:])
            dataclasses.replace(manifest, inputs=identify(source.files()), notes=notes).save(target / MANIFEST)
    except (OSError, UserError):  # it was removed meanwhile, or `out` cannot be written, which `make` will tell
        return False
    with contextlib.suppress(OSError):
        os.utime(entry)
    partial = out.with_name(f"{out.name}.partial")
    if (partial / TABLES).is_file():  # of the same run, stopped before somebody made all of it
        shutil.rmtree(partial, ignore_errors=True)
    return True


def _whole(entry: Path) -> tuple[Manifest, int] | None:
    """(an entry's manifest, how many of its notes are the source's) where all of it is what it was; a damaged one is removed."""
    try:
        source_notes = int(read_json(entry / ENTRY)["source_notes"])
        store = Store(entry)
        damaged = any(True for _ in problems(store))
        forget(store.path / RECORDS)
        if not damaged:
            return store.manifest, source_notes
    except (*READING, UserError, KeyError, TypeError):
        pass
    _remove(entry)
    return None


def _keep(out: Path, entry: Path, source: Source) -> None:
    """Make an entry of a store."""
    with whole_folder(entry) as target:
        for path in out.iterdir():
            link_or_copy(path, target / path.name)
        write_atomically(target / ENTRY, json.dumps({"source_notes": len(source.notes)}) + "\n")


def _make_room(stores: Path, kept: Path) -> None:
    """Remove entries until what only the cache holds is within the limit; those that were not used for longest, and never `kept`."""
    entries = sorted((path for path in stores.iterdir() if path.name.isalnum() and path.is_dir()), key=lambda path: path.stat().st_mtime)
    sizes = {entry: _held_alone(entry) for entry in entries}
    total = sum(sizes.values())
    for entry in entries:
        if total > LIMIT and entry != kept and sizes[entry]:
            _remove(entry)
            total -= sizes[entry]


def _held_alone(entry: Path) -> int:
    """Bytes of an entry's store that no run has as well."""
    about = [path.stat() for path in entry.iterdir() if path.name != ENTRY]
    return sum(each.st_size for each in about if each.st_nlink == 1)


def _remove(entry: Path) -> None:
    """Take an entry away, at once for everybody."""
    hidden = entry.with_name(f".{entry.name}.{os.getpid()}")
    os.rename(entry, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def link_or_copy(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """A file under another name as well; a copy where the file system has no such links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
