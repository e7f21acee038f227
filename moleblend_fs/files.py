"""Files that are whole under their names or not there at all, JSON that any reader understands, and the system's errors in plain words."""

import csv
import errno
import json
import math
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from moleblend_fs.errors import UserError

HINTS = {
    errno.ENOSPC: "the disk is full: make room, or choose another place",
    errno.EDQUOT: "your quota is used up: make room, or choose another place",
    errno.EFBIG: "a limit on the size of files (ulimit -f) was reached",
    errno.EMFILE: "raise the limit (ulimit -n), or use fewer --workers",
    errno.ENFILE: "the whole machine has too many files open",
    errno.EISDIR: "name a file, not a folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EACCES: "you have no right to it",
    errno.EPERM: "you have no right to it",
    errno.EROFS: "choose a place that can be written to",
}
NOT_OF_THE_FILE = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)
"""Errors that come up while a file is being written, but say nothing of it."""
MAX_LINKS = 40
_DESCRIPTOR = re.compile(r"/proc/(?:self|\d+)/fd/(\d+)")
_TABS = re.compile(r"\.(?:tsv|tab)(?:\.(?:gz|xz|bz2))?$", re.IGNORECASE)


def told(error: OSError) -> str:
    """What went wrong, and what to do about it where that is known; without the file's name."""
    reason = error.strerror or str(error)
    hint = HINTS.get(error.errno or 0)
    return f"{reason}; {hint}" if hint else reason


def resolved(path: str | os.PathLike) -> Path:
    """The absolute path without symbolic links; a link that leads to itself stays as it is, for whoever opens it to fail."""
    return Path(os.path.realpath(path))


def _end_of_links(path: Path) -> Path:
    """Where symbolic links lead, but not through /proc: what lies there is an open file of a process, without a name of its own."""
    place = path
    for _ in range(MAX_LINKS):
        place = Path(os.path.realpath(place.parent)) / place.name
        if place.is_relative_to("/proc") or not place.is_symlink():
            return place
        place = place.parent / os.readlink(place)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def is_stream(path: str | os.PathLike) -> bool:
    """Whether a path is no file but goes somewhere as it is written: a pipe, a terminal, /dev/stdout, /dev/null."""
    place = _end_of_links(Path(path))
    if place.is_relative_to("/proc"):
        return True
    try:
        mode = place.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def is_pipe(path: str | os.PathLike) -> bool:
    """Whether a path is a pipe with a name, as a shell gives it for <(...)."""
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


def why_no_file(path: str | os.PathLike) -> str:
    """What is wrong with a path that no file can be read from, again and again; "" for one that can."""
    if os.path.isfile(path):
        return ""
    if os.path.isdir(path):
        return "is a folder, not a file"
    return "is a pipe or a device, and is to be read more than once: save it as a file" if os.path.exists(path) else "no such file"


@contextmanager
def whole_file(path: str | os.PathLike, mode: str = "w") -> Iterator[IO[Any]]:
    """A stream to write a file with; the file has its name, and all that was written, when the block ends without an exception.

    Until then an older file of that name stays as it is. Folders that lack are made. A symbolic link is followed. Streams (`is_stream`)
    are written to directly.

    Args:
        path: the file. mode: "w" for text (UTF-8, line ends as given), "wb" for bytes.

    Raises:
        UserError: the file cannot be written. Where nothing can be written at all, before the block begins.
    """
    options: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    try:
        streamed = is_stream(path)
        target = _end_of_links(Path(path))
        stream, temporary = (_open_stream(target, mode, options), None) if streamed else _open_beside(target, mode, options)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({told(error)})") from error
    try:
        with stream:
            yield stream
            stream.flush()
            if temporary is not None:
                os.fsync(stream.fileno())
        if temporary is not None:
            os.replace(temporary, target)
            flush_names(target.parent)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError) and error.errno not in NOT_OF_THE_FILE:
            raise UserError(f"{path}: cannot be written ({told(error)})") from error
        raise


def _open_stream(target: Path, mode: str, options: dict[str, Any]) -> IO[Any]:
    """A stream to where something else reads; an open file of this process goes on where it is, instead of being cut to nothing."""
    own = _DESCRIPTOR.fullmatch(str(target))
    if own and own[1] == "1" and sys.stdout is None:  # what was opened in its place leads nowhere
        raise OSError(errno.EBADF, "standard output is closed; name a file")
    if sys.stdout is not None:
        sys.stdout.flush()  # what was printed before comes first
    return os.fdopen(os.dup(int(own[1])), mode, **options) if own else open(target, mode, **options)


def _open_beside(target: Path, mode: str, options: dict[str, Any]) -> tuple[IO[Any], Path]:
    """A new file in the folder of another that will take its name, with the other's rights where it exists."""
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    rights = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask()  # a name that is too long fails here
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:30]}.")
    os.fchmod(handle, rights)
    return os.fdopen(handle, mode, **options), Path(temporary)


def _umask() -> int:
    """Rights that new files of this process are not to have. It is told when it is set alone: another thread's files have fewer then."""
    os.umask(mask := os.umask(0o077))
    return mask


@contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[Path]:
    """A new folder to fill; it has its name when the block ends without an exception, and is removed otherwise.

    Raises:
        UserError: there is something of that name, or the folder cannot be written.
    """
    target = resolved(path)
    try:
        if os.path.lexists(target):
            raise UserError(f"{path} exists already; choose another name, or delete it first")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name[:30]}."))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({told(error)})") from error
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        rename_flushed(temporary, target)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.errno not in NOT_OF_THE_FILE:
            raise UserError(f"{path}: cannot be written ({told(error)})") from error
        raise


class CsvWriter:
    """`csv.writer` whose lines end in a line feed, which quotes a carriage return too (csv's own does from Python 3.13 on).

    Args:
        stream: of text, opened with newline="".
    """

    def __init__(self, stream: Any, delimiter: str = ","):
        self._plain = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
        self._quoting = csv.writer(stream, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def writerow(self, row: Iterable[Any]) -> None:
        cells = list(row)
        (self._quoting if any(isinstance(cell, str) and "\r" in cell for cell in cells) else self._plain).writerow(cells)

    def writerows(self, rows: Iterable[Iterable[Any]]) -> None:
        for row in rows:
            self.writerow(row)


def flush(path: str | os.PathLike) -> None:
    """Wait until the file, or the folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_names(folder: Path) -> None:
    """`flush` a folder, where its file system knows how to and it may be read."""
    try:
        flush(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM):
            raise


def rename_flushed(folder: Path, target: Path) -> None:
    """Give a folder its final name when all that lies in it is on the disk, and wait until the name is there too."""
    for path in sorted(folder.iterdir()):
        flush(path)
    flush_names(folder)
    os.rename(folder, target)
    flush_names(target.parent)


def delimiter_of(path: str | os.PathLike) -> str:
    """What is to stand between the cells of a table with this name: tabs where it ends in .tsv or .tab, perhaps packed, else commas."""
    return "\t" if _TABS.search(os.fspath(path)) else ","


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
    """Write a whole file; see `whole_file`."""
    with whole_file(path, "w" if isinstance(content, str) else "wb") as stream:
        stream.write(content)


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON text of plain values; numbers that are not finite, which JSON does not have, become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
