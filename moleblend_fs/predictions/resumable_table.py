"""A table that is whole under its name or not there, and goes on where a run of the same command was stopped; packed as its name says.

OUT.partial       the lines so far
OUT.partial.json  what was asked for, and how far OUT.partial is good: written after each part
"""

import bz2
import contextlib
import errno
import fcntl
import gzip
import io
import json
import lzma
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from moleblend_fs.data.typed_json import READING, from_json, read_json
from moleblend_fs.data.unfinished_output import LeftBehind, why_begin_anew
from moleblend_fs.errors import UserError
from moleblend_fs.files import CsvWriter, as_json, resolved, told, write_atomically

PACKERS: dict[str, Callable[[bytes], bytes]] = {".gz": partial(gzip.compress, mtime=0), ".xz": lzma.compress, ".bz2": bz2.compress}
"""Ending of a name -> how a part of the file is packed; all that read these take parts one after the other for one file."""
OTHER_FORMATS = (".xlsx", ".xls", ".ods", ".parquet", ".feather", ".sdf", ".sd", ".npy", ".npz", ".json", ".html", ".zip", ".zst", ".onnx")


def check_name(out: Path) -> None:
    """UserError for the name of a file that is no CSV."""
    if out.suffix.lower() in OTHER_FORMATS:
        raise UserError(f"{out}: predictions are written as CSV; choose a name that ends in .csv or .tsv, or .csv.gz, .csv.xz, .csv.bz2")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ledger:
    """How far a file is good.

    Attributes:
        request: what was asked for. rows: of the input that are in. bytes: of the file with these. seconds: of work. counts: of kinds.
    """

    request: dict[str, Any]
    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)


class ResumableFile:
    """`OUT`, while it is being written.

    Args:
        out: the file. request: what was asked for, as JSON values; a later run that asks for the same goes on.

    Attributes:
        rows: of the input that are in. counts: as they were given with these.
        note: for the user, of what was left behind; "" for nothing.
    """

    def __init__(self, out: Path, request: Mapping[str, Any]):
        self.out = resolved(out)
        self._pack = PACKERS.get(self.out.suffix.lower(), bytes)
        self._shown, self._request = out, json.loads(json.dumps(request))
        self.partial = self.out.with_name(self.out.name + ".partial")
        self._ledger = self.partial.with_name(self.partial.name + ".json")
        self.note = ""
        self._begun, self._before = time.monotonic(), 0.0
        try:
            if self.out.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(out))
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise UserError(f"{out}: cannot be written ({told(error)})") from error

    def _open(self) -> None:
        if os.path.lexists(self.partial) and self.partial.stat().st_size and not self._ledger.is_file():
            raise UserError(
                f"{self.partial} is in the way of {self._shown}, which is written there first; move it away, or choose another OUT"
            )
        self._stream = self._locked()
        try:
            size = self._stream.seek(0, os.SEEK_END)
            found = self._found() if size else None  # of nothing there is a ledger where a run was stopped after OUT had its name
            if found is None:
                found = _Ledger(request=self._request)
                write_atomically(self._ledger, as_json({"request": self._request}))
            if size < found.bytes:
                raise UserError(f"{self.partial} is shorter than {self._ledger.name} says; delete both to begin anew")
            self._stream.truncate(found.bytes)
        except BaseException:
            self._stream.close()
            raise
        self.rows, self.counts, self._before = found.rows, dict(found.counts), found.seconds
        if self.rows and not self.note:
            self.note = f"going on after row {self.rows:,} of {self._shown}, where an earlier run was stopped"

    def _locked(self) -> IO[bytes]:
        """OUT.partial, to be written by this process alone."""
        while True:
            stream = open(self.partial, "ab")  # noqa: SIM115
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is(stream):
                    return stream
            except BlockingIOError as error:
                stream.close()
                raise UserError(f"{self._shown} is being written by another process; wait for it, or choose another OUT") from error
            stream.close()

    def _is(self, stream: IO[bytes]) -> bool:
        """Whether an open file is OUT.partial: another process may have given it its name, or removed it, before this one had its lock."""
        try:
            return os.path.samestat(os.fstat(stream.fileno()), self.partial.stat())
        except FileNotFoundError:
            return False

    def _found(self) -> _Ledger | None:
        """What an earlier run left behind, if this one can resume from it."""
        if not self._ledger.exists():
            return None
        try:
            ledger = from_json(_Ledger, read_json(self._ledger))
        except READING as error:
            raise UserError(f"{self._ledger}: cannot be read ({error}); delete it and {self.partial.name} to begin anew") from error
        left = LeftBehind(self.partial, json.dumps(ledger.request).encode(), ledger.rows, ledger.seconds)
        if (why := why_begin_anew(left, self._request)) is None:
            return ledger
        self.note = why
        return None

    def write(self, text: str, rows: int, counts: Mapping[str, int]) -> None:
        """Add lines, which hold all of the input up to `rows`; they outlive whatever comes after."""
        try:
            self._stream.write(self._pack(text.encode("utf-8", "backslashreplace")))
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self.rows = rows
            ledger = {
                "request": self._request,
                "rows": rows,
                "bytes": self._stream.tell(),
                "seconds": self._before + time.monotonic() - self._begun,
                "counts": dict(counts),
            }
            write_atomically(self._ledger, as_json(ledger))
        except OSError as error:
            raise UserError(f"{self._shown}: cannot be written ({told(error)}); the same command goes on from there") from error

    def finish(self) -> None:
        """Give the file its name."""
        os.replace(self.partial, self.out)
        self._ledger.unlink(missing_ok=True)
        self._stream.close()

    def close(self, *, drop: bool = False) -> None:
        """End without finishing; what is worth nothing, or is to be dropped, is removed."""
        if self._stream.closed:
            return
        if drop or self.rows == 0:
            for path in (self.partial, self._ledger):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._stream.close()


def lines_to_text(lines: Sequence[Sequence[str]], delimiter: str = ",") -> str:
    """Lines of a table, with line feeds."""
    stream = io.StringIO()
    CsvWriter(stream, delimiter=delimiter).writerows(lines)
    return stream.getvalue()
