"""Whose folder it is: what a run was asked for is noted in it, the same arguments go on, and others are refused."""

import contextlib
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moleblend_fs import __version__
from moleblend_fs.checkpoint.weights_by_name import NONE, WEIGHTS
from moleblend_fs.data.store import Store
from moleblend_fs.data.typed_json import READING, from_json, read_json
from moleblend_fs.errors import UserError
from moleblend_fs.files import as_json, why_no_file, write_atomically
from moleblend_fs.finetune.data import COPY, is_store
from moleblend_fs.finetune.settings import Settings, flag
from moleblend_fs.locks import awaited, taken
from moleblend_fs.sources.base import content_hash

REQUEST, COMMAND, LOCK = "request.json", "command.sh", ".lock"
STORE, MEMBERS, SPLITS, SELECTION = "store", "members", "splits.json", "selection.json"
"""SELECTION: folds of a search, without test molecules."""
SHAPES_STORE = {"targets", "kind", "smiles_column", "split_column", "weights", "inputs", "hydrogens", "conformers", "max_atoms"}
"""Settings that a store is made by."""
FILES = {"split_file": "split file", "weights": "weights"}
"""Settings that are paths: what counts is the files' content, which a request holds by these names; they may be renamed and moved."""


class OtherRunError(UserError):
    """A folder has models that were trained with other arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Who asks for a folder, and what for besides the settings.

    Attributes:
        command: of `moleblend`. more: name -> what else shapes the result.
        trained: what is in the folder when training has begun, after which other arguments are refused.
    """

    command: str = "finetune"
    more: Mapping[str, Any] = field(default_factory=dict)
    trained: str = MEMBERS


def refuse(given: Path, folder: Path, command: str) -> None:
    """UserError if there are no data, or the folder holds something that the command did not write."""
    if (why := why_no_file(given)) and not given.is_dir():
        raise UserError(f"{given}: {why}")
    if folder.exists() and not (folder / REQUEST).is_file() and any(path.name != LOCK for path in folder.iterdir()):
        raise UserError(f"{folder} is not empty and no run of `moleblend {command}`; choose another OUT")


@contextlib.contextmanager
def at_work(given: Path, folder: Path, *, shared: bool = False) -> Iterator[int]:
    """While a command works in a run's folder, no other does; gives the open file that says so, for its members to keep open too.

    Args:
        given: DATA. shared: others may work there that train other members, as jobs of an array do.

    Raises:
        UserError: another command is at work there; what it left behind is waited for.
    """
    refuse(given, folder, "finetune")
    was_there = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder, shared)
    try:
        if not shared:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()} {socket.gethostname()}".encode(), 0)
        yield lock
    except BaseException:  # a folder that cannot be read is the system's error
        if folder.exists():
            leave(folder, was_there)
        raise
    finally:
        os.close(lock)


def _lock(folder: Path, shared: bool) -> int:
    """The lock; of a command that is gone, members may still be saving what they have, and are waited for."""
    lock = taken(folder / LOCK, shared=shared)
    if lock is not None:
        return lock
    process, _, host = (folder / LOCK).read_text("utf-8").partition(" ")
    if host != socket.gethostname() or Path(f"/proc/{process}").exists():
        who = f", process {process} on {host}," if host else ""
        raise UserError(f"{folder}: another `moleblend finetune`{who} is at work there; wait until it ends, or choose another OUT")
    print(f"{folder}: waiting until the members of a command that was killed have saved what they have", file=sys.stderr)
    return awaited(folder / LOCK)


def claim(given: Path, folder: Path, settings: Settings, asked: Asked) -> None:
    """Note in the folder what the run is of, files by their content; UserError if it has trained another one
    (`OtherRunError`), or holds something else."""
    refuse(given, folder, asked.command)
    identity = Store(given).manifest.records_sha256 if is_store(given) else content_hash(given)
    request: dict[str, Any] = {"data": {"name": given.name, "hash": identity}, "settings": settings.to_json(), **asked.more}
    request |= {"command": asked.command, "version": __version__}
    if settings.split_file:
        request["split file"] = content_hash(_existing(settings.split_file))
    if settings.start is not None:
        request["weights"] = _weights_identity(settings.start)
    place = folder / REQUEST
    if place.is_file():
        before = _noted(place)
        if before.get("command", "finetune") != asked.command:
            raise UserError(f"{folder} has a run of `moleblend {before.get('command')}`; choose another OUT")
        there = Settings().to_json() | before["settings"]
        there["weights"] = there["weights"] or NONE  # as earlier versions noted random weights
        differing = [name for name, value in request["settings"].items() if there[name] != value]
        said = {name: (there[name], request["settings"][name]) for name in differing}
        differing = [name for name in differing if not (name in FILES and all(value not in ("", NONE) for value in said[name]))]
        told = [f"{flag(name)} {_shown(there[name])} there, {_shown(request['settings'][name])} here" for name in differing]
        more = {name: (before.get(name), value) for name, value in asked.more.items() if before.get(name) != value}
        told += [f"{name} {_shown(then)} there, {_shown(now)} here" for name, (then, now) in more.items()]
        others = [name for name in FILES.values() if before.get(name) != request.get(name)]
        same_data = before["data"].get("hash") == identity
        told += [f"{name}: another file" for name in (*([] if same_data else ["data"]), *others)]
        if not told:
            return
        if (folder / asked.trained).exists():
            raise OtherRunError(
                f"{folder} has a run of other arguments ({'; '.join(told)}); give the same to go on with it, or choose another OUT"
            )
        _begin_anew(folder, same_molecules=same_data and not SHAPES_STORE.intersection([*differing, *others]))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(place, as_json(request, indent=1) + "\n")


def _noted(place: Path) -> dict[str, Any]:
    """What a folder was asked for; UserError where that is damaged."""
    try:
        before = from_json(dict[str, Any], read_json(place))
        return before | {name: from_json(dict[str, Any], before.get(name, {})) for name in ("settings", "data")}
    except READING as error:
        raise UserError(f"{place}: cannot be read ({error}); choose another OUT") from error


def _shown(value: Any) -> str:
    """A setting as a reader gives it; defaults that stand for a choice of ours have no word."""
    if value in (None, "", [], ()):
        return "not given"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _begin_anew(folder: Path, *, same_molecules: bool) -> None:
    """Remove what a run of other arguments made that did not come to train: its splits, and its store if the molecules are others."""
    for name in (SPLITS, SELECTION):
        (folder / name).unlink(missing_ok=True)
    if not same_molecules:
        (folder / COPY).unlink(missing_ok=True)
        for name in (STORE, f"{STORE}.partial"):
            shutil.rmtree(folder / name, ignore_errors=True)


def leave(folder: Path, was_there: bool) -> None:
    """Take back the claim on a folder in which nothing was made."""
    if {path.name for path in folder.iterdir()} <= {REQUEST, COMMAND, LOCK, COPY}:
        for name in (REQUEST, COMMAND, LOCK, COPY):
            (folder / name).unlink(missing_ok=True)
        if not was_there:
            folder.rmdir()


def _existing(path: str) -> Path:
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    return Path(path)


def _weights_identity(place: Path) -> str:
    return content_hash(_existing(str(place / WEIGHTS if place.is_dir() else place)))
