"""Processes that have imported what commands need, and begin one for each Python that hands over to them (`warm_starts/`).

It has the caller's folder, variables, files, limits and group; it differs only in what was imported before. Python that is told or
surrounded otherwise than the server was, in whatever that could change (`warm_likeness`), begins as always.

Imported by the process that ranks are forked from (`forked_ranks`), before anything else: it waits here until the first is asked for.
"""

import contextlib
import errno
import importlib
import marshal
import os
import re
import select
import signal
import socket
import sys
from collections.abc import Iterable
from typing import NoReturn

from tests.support import warm_likeness, warm_process

COMMANDS = (  # without fairseq, which sets up logging: training alone imports it
    *("torch", "lmdb", "safetensors.torch", "rdkit.Chem", "rdkit.Chem.AllChem", "sklearn.metrics", "scipy.stats", "pandas"),
    *(f"moleblend_fs.cli.{name}" for name in ("predict", "finetune", "evaluate", "embed", "report", "compare", "inspect", "main")),
)


def imported(modules: Iterable[str]) -> None:
    """Import, and note which variables are read meanwhile."""
    kind, os.environ.__class__ = os.environ.__class__, warm_likeness.Noting
    try:
        for name in modules:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    finally:
        os.environ.__class__ = kind


def serve(listener: socket.socket, alive: int) -> None:
    """Begin a process for each that asks, until the tests end."""
    children: set[int] = set()
    while True:
        ready, _, _ = select.select([listener, alive], [], [])
        for pid in list(children):
            if os.waitpid(pid, os.WNOHANG)[0]:
                children.discard(pid)
        if alive in ready:
            os._exit(0)
        connection, _ = listener.accept()
        pid = os.fork()
        if pid == 0:
            listener.close()
            keep(connection, alive)
        children.add(pid)
        connection.close()


def keep(connection: socket.socket, alive: int) -> NoReturn:
    """Begin the process that is asked for, pass signals on to it, tell how it ended; where the asking one is killed, kill it."""
    code = 1
    try:
        size, descriptors, _, _ = socket.recv_fds(connection, 4, 253)
        told = marshal.loads(connection.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL))
        asking = int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), sys.byteorder)
        told["folder"] = os.readlink(f"/proc/{asking}/cwd")
        if not {0, 1, 2} <= set(told["descriptors"]) or not warm_likeness.same(told, asking):
            connection.send(b"c")
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            warm_process.begin(told, asking, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.send(b"w")
        code = kept(connection, pid, alive)
    finally:
        os._exit(code)


def kept(connection: socket.socket, pid: int, alive: int) -> int:
    """Pass signals on to a process until it ends, as it does when the tests have ended; 0."""
    ended = os.pidfd_open(pid)
    while True:
        ready, _, _ = select.select([connection, ended, alive], [], [])
        if ended in ready:
            status = os.waitpid(pid, 0)[1]
            with contextlib.suppress(OSError):
                connection.send(status.to_bytes(4, "big"))
            return 0
        numbers = b"" if alive in ready else connection.recv(100)
        for number in numbers or [signal.SIGKILL]:
            signal.pidfd_send_signal(ended, number)
        if not numbers:
            os.waitpid(pid, 0)
            return 0


def listening(address: str) -> socket.socket | None:
    """None where a server of the same tests listens already: this one is of a program that a test has started."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(address)
    except FileNotFoundError:
        os._exit(0)  # the tests have ended
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    listener.listen(100)
    return listener


def prepare(address: str, training: list[str]) -> None:
    """Wait for the first process that is asked for, here or of the server that imports this; then begin the servers of both kinds."""
    asked, alive = map(int, re.findall(r"\d+", sys.orig_argv[-1])[:2])  # of `multiprocessing.forkserver.main`
    listeners = {kind: listening(f"{address}.{kind}") for kind in ("commands", "training")}
    if None in listeners.values():
        return
    if alive in select.select([*listeners.values(), asked, alive], [], [])[0]:
        os._exit(0)
    warm_process.fit_any_file()
    for kind, modules in (("commands", COMMANDS), ("training", training)):
        imported(modules)
        if os.fork() == 0:
            os.close(asked)
            with contextlib.suppress(BaseException):
                serve(listeners.pop(kind), alive)
            os._exit(1)
        listeners.pop(kind).close()


if os.environ.get(warm_likeness.VARIABLE) and "multiprocessing.forkserver" in sys.orig_argv[-1]:
    from tests.support.forked_ranks import PRELOADED

    prepare(os.environ[warm_likeness.VARIABLE], PRELOADED[1:])
