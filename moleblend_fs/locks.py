"""Locks between processes, also of hosts that share a file system; the system gives them up when a process ends, however it does."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def awaited(path: Path) -> int:
    """An open file that nobody else has the lock of any more, to be closed at the end."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone with a file, once nobody else is."""
    descriptor = awaited(path)
    try:
        yield
    finally:
        os.close(descriptor)


def taken(path: Path, *, shared: bool = False) -> int | None:
    """An open file that nobody else has the lock of, to be closed at the end; None where somebody has it.

    Args:
        shared: others may have it too who ask for it as shared.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor


def wait_for(path: Path) -> None:
    """Return when nobody has the lock."""
    with locked(path):
        pass
