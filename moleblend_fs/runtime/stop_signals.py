"""Stopping at a signal: SIGTERM or SIGUSR1 is noted here; `fairseq_plugins.trainer` then finishes the current update, saves and ends.

Exit code: 0, or what MOLEBLEND_PREEMPTED_EXIT says (a batch script that requeues itself on 85, say). Beside the checkpoint a
file `preempted` is left, for launchers that hide the exit codes of what they start; the next start removes it.
"""

import atexit
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from moleblend_fs.errors import UserError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
EXIT_VARIABLE = "MOLEBLEND_PREEMPTED_EXIT"
MOST_EXIT_CODE = 255
MARKER = "preempted"
MARKER_BEGINS = "stopped by signal "
"""The first words of the marker, by which a file of ours is known."""


class Preemption:
    """Which signal this process received.

    Attributes:
        received: the last signal's number, 0 for none.
        stopping: whether the run stopped because of one.
    """

    def __init__(self) -> None:
        self.received = 0
        self.stopping = False

    def listen(self) -> None:
        """Note signals from now on; only a main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._note)
            atexit.unregister(_ignore_signals)
            atexit.register(_ignore_signals)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number

    def exit_code(self) -> int:
        """0 for a run that came to its end."""
        return exit_code_asked() if self.stopping else 0


def exit_code_asked() -> int:
    """What MOLEBLEND_PREEMPTED_EXIT says, empty for 0; UserError where it is no exit code."""
    text = os.environ.get(EXIT_VARIABLE) or "0"
    if not (text.isascii() and text.isdigit() and int(text) <= MOST_EXIT_CODE):
        raise UserError(f"{EXIT_VARIABLE} must be an exit code, 0 to {MOST_EXIT_CODE}, got {text!r}")
    return int(text)


def _ignore_signals() -> None:
    """Python puts the default handlers back while it shuts down: a late signal would end a process whose work is done and saved."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


preemption = Preemption()  # state: signals come to the process


def pass_signals_to(processes: Callable[[], list[Any]]) -> Callable[[int, FrameType | None], None]:
    """A handler for a process that only waits for its children: it passes signals on to them."""

    def handler(number: int, frame: FrameType | None) -> None:
        for process in processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)

    return handler


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Hold the signals back; processes that are forked within never get them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def obey_only_parent(worker: int = 0) -> None:
    """For a loader's worker that was forked while `signals_blocked`: of the signals it heeds only a SIGTERM from its parent.

    Launchers signal whole process groups; a worker that ends of that leaves the trainer without the update's data.
    """

    def wait(parent: int) -> None:
        while True:
            if signal.sigwaitinfo({signal.SIGTERM}).si_pid == parent:
                os._exit(0)

    threading.Thread(target=wait, args=(os.getppid(),), daemon=True).start()


def mark(folder: str, updates: int) -> None:
    """Write the marker: the run was stopped by a signal."""
    Path(folder, MARKER).write_text(f"{MARKER_BEGINS}{preemption.received} after {updates} updates\n")


def is_marker(path: Path) -> bool:
    """Whether `mark` wrote this file."""
    try:
        with path.open("rb") as file:
            return file.read(len(MARKER_BEGINS)) == MARKER_BEGINS.encode()
    except OSError:
        return False


def check_marker(folder: str) -> None:
    """UserError where something else has the name that `mark` would write to."""
    path = Path(folder, MARKER)
    if path.exists() and not is_marker(path):
        raise UserError(f"{path} was not left by training, which needs that name to say that a signal stopped it; move it elsewhere")


def unmark(folder: str) -> None:
    """Remove the marker, and nothing else of that name."""
    path = Path(folder, MARKER)
    if is_marker(path):
        path.unlink(missing_ok=True)
