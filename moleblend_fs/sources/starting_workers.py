"""How processes of workers begin, from whatever program: a script, a notebook, a thread, a worker of somebody else's pool."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Final

WAY: Final = "forkserver"
"""How processes begin: a server forks them, in milliseconds, and no lock of a thread of this process is copied."""
ANEW: Final = "spawn"
"""How they begin in a process that was forked from one with such a server, which obeys that one alone."""
_BEGINNING = threading.Lock()  # state: held while what all threads of a process share is another for a moment


def begun(serve: Callable[..., None], source: Any, numbers: Sequence[float]) -> tuple[BaseProcess, Connection, Any]:
    """A process that runs `serve(connection, source, array)`, this end of the connection, and the array, of numbers that both share.

    It ends with this process only where `serve` sees to that.
    """
    with _BEGINNING, _interrupts_held_back(), _main_module_hidden(source), _folder_not_searched(), _children_allowed():
        try:
            return _begun(WAY, serve, source, numbers)
        except ChildProcessError:
            return _begun(ANEW, serve, source, numbers)


def _begun(way: str, serve: Callable[..., None], source: Any, numbers: Sequence[float]) -> tuple[BaseProcess, Connection, Any]:
    context: Any = multiprocessing.get_context(way)
    if multiprocessing.get_start_method(allow_none=True) not in (None, *multiprocessing.get_all_start_methods()):
        # In a worker of joblib: a new process is told this name, "loky", knows no such way, and ends.
        multiprocessing.set_start_method(WAY, force=True)
    context.set_forkserver_preload([serve.__module__])
    ours, theirs = context.Pipe()
    shared = context.RawArray("d", tuple(numbers))
    process = context.Process(target=serve, args=(theirs, source, shared), daemon=True)
    process.start()
    theirs.close()
    return process, ours, shared


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C reaches the whole process group; processes that are started within never get it, and are stopped by this one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _folder_not_searched() -> Iterator[None]:
    """The server does not look for modules in the folder where the command is called: a clone there would hide the package in it."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


@contextlib.contextmanager
def _main_module_hidden(source: Any) -> Iterator[None]:
    """New processes would import the program's main module, which takes time and, in an unguarded script, begins it again."""
    main = sys.modules["__main__"]
    if type(source).__module__ != "__main__":
        sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _children_allowed() -> Iterator[None]:
    """Processes of `multiprocessing.Pool` are let start none, since these would outlive them; workers see that their parent is gone."""
    this = multiprocessing.current_process()
    before = this.daemon
    if before:
        this.daemon = False
    try:
        yield
    finally:
        if before:
            this.daemon = True
