"""What an earlier run left in `OUT.partial`: taken up, given up where nothing of value is lost, or kept with a word on what to do."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from moleblend_fs.errors import UserError
from moleblend_fs.wording import counted

WORTH_KEEPING = 300.0
"""Seconds of work; less is done again sooner than a message is read."""


class LeftBehind(NamedTuple):
    """The state of a folder `OUT.partial`: its request as it stands there, molecules, and seconds of work."""

    folder: Path
    request: bytes
    molecules: int
    seconds: float


def why_begin_anew(found: LeftBehind, wanted: dict[str, Any]) -> str | None:
    """Why what is there is given up for a new beginning, in one sentence; None where the run goes on with it.

    Raises:
        UserError: it belongs to another run and is worth keeping.
    """
    try:
        request = json.loads(found.request)
    except ValueError:
        request = {}
    wanted = json.loads(json.dumps(wanted))  # tuples become lists
    changed = [name for name in sorted({*request, *wanted}) if request.get(name) != wanted.get(name)]
    if found.molecules == 0:
        return f"{found.folder} holds no molecule: begun anew" if changed else ""
    if not changed or (changed == ["inputs"] and _same_content(request["inputs"], wanted["inputs"])):
        return None
    if changed == ["inputs"]:
        files = _differing(request["inputs"], wanted["inputs"])
        if found.seconds < WORTH_KEEPING:
            return (
                f"{files} changed since {found.folder} was begun, which holds {counted(found.molecules, 'molecule')} of before: begun anew"
            )
        raise UserError(
            f"{files} changed since {found.folder} was begun. It holds {counted(found.molecules, 'molecule')} "
            f"({counted(round(found.seconds / 60), 'minute')} of "
            "work) that only the input as it was can go on from. "
            "Put that back to resume, delete the folder to begin anew, or choose another OUT"
        )
    raise UserError(
        f"{found.folder} was begun with other options or inputs ({_shown(request, wanted, changed)}) and holds "
        f"{counted(found.molecules, 'molecule')}; give the same ones to resume it, delete it to begin anew, or choose another OUT"
    )


def _same_content(before: dict[str, str], now: dict[str, str]) -> bool:
    """Whether files only have other names; stores have to be called the same."""
    hashes = [sorted(inputs.values()) for inputs in (before, now)]
    return hashes[0] == hashes[1] and all(value.startswith("sha256:") for value in hashes[0])


def refuse_foreign_folder(folder: Path, ours: set[str]) -> None:
    """UserError where a folder of the name that a half-made store would have holds something else, which would end up in the store."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file, where the half-made store would lie; move it away or choose another OUT")
    names = {path.name for path in folder.iterdir()}
    if names and not names & ours:
        raise UserError(
            f"{folder} is no half-made store, and one would lie there ({min(names)!r} is in it); move it away or choose another OUT"
        )


def _differing(before: dict[str, Any], now: dict[str, Any]) -> str:
    return ", ".join(name for name in sorted({*before, *now}) if before.get(name) != now.get(name))


def _shown(before: dict[str, Any], now: dict[str, Any], changed: list[str]) -> str:
    """The choices that differ, as "then: ...; now: ..."."""
    return "; ".join(f"{name}: {json.dumps(before.get(name))} then, {json.dumps(now.get(name))} now" for name in changed)
