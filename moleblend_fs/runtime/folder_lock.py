"""One run at a time in a folder of checkpoints: its first rank has a lock there, which the system gives up when that process ends,
however it does."""

import contextlib
import errno
import logging
import os
import socket
import time
from pathlib import Path

from moleblend_fs.errors import UserError
from moleblend_fs.files import told
from moleblend_fs.locks import taken
from moleblend_fs.runtime.stop_signals import preemption

logger = logging.getLogger(__name__)

FILE = ".lock"
"""In the folder, where it stays; it says which process had the lock last."""
PATIENCE = 60.0
"""Seconds that another run is given to end: one that is requeued may begin while the former still saves."""
LOOK_AGAIN = 0.2
"""Seconds between two looks at a lock that somebody has."""
WITHOUT = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""Errors of file systems that have no locks."""


class FolderLock:
    """The lock of one folder, had from `take` to `give_up`."""

    def __init__(self) -> None:
        self.descriptor: int | None = None

    def take(self, folder: str) -> None:
        """Take the lock, after another run that has it has ended. Where the file system has none, a warning takes its place.

        Raises:
            UserError: another run has the folder and goes on, or nothing can be written there.
        """
        path = Path(folder, FILE)
        try:
            self.descriptor = _awaited(path)
        except OSError as error:
            if error.errno not in WITHOUT:
                raise UserError(f"--save-dir {path}: cannot be written ({told(error)})") from error
            logger.warning("--save-dir %s: no locks there (%s), so that a second run would not be noticed", folder, told(error))
            return
        with contextlib.suppress(OSError):  # a full disk, which is told when there is something to save
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, f"{os.getpid()} {socket.gethostname()}".encode(), 0)

    def give_up(self) -> None:
        """Let others have the folder; also in a process that is forked from the one that has it, and leaves it the lock."""
        descriptor, self.descriptor = self.descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _awaited(path: Path) -> int:
    """An open file with the lock."""
    end, waits = time.monotonic() + PATIENCE, False
    while (descriptor := taken(path)) is None:
        if preemption.received or time.monotonic() >= end:
            raise UserError(
                f"--save-dir {path.parent}: {holder(path)} trains there; wait for its end, stop it, or choose another --save-dir"
            )
        if not waits:
            logger.warning("--save-dir %s: %s trains there; its end is waited for, %.0f s at most", path.parent, holder(path), PATIENCE)
        waits = True
        time.sleep(LOOK_AGAIN)  # noqa: TID251  a lock tells nobody when it is given up
    return descriptor


def holder(path: Path) -> str:
    """Which process has the lock, as far as its file says."""
    process, _, host = path.read_text("utf-8").partition(" ")
    return f"process {process} on {host}" if host else "another process"


current = FolderLock()  # state: a process trains in one folder at a time
os.register_at_fork(after_in_child=current.give_up)
