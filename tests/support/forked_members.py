"""Members of `moleblend finetune` and `tune` as processes forked from one that has everything imported: a fifth of what a short one takes.

Each is a process of its own in a session of its own, with the words, folder, variables, files and locks that `member_processes.start`
gives it; nothing but the start differs. Commands that tests start as programs start real ones.
"""

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import reduction
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import IO
from unittest import mock

from moleblend_fs.cli import standard_output
from moleblend_fs.cli.train import with_user_dir
from moleblend_fs.finetune import member_processes
from tests.support import forked_ranks

COMMAND = [sys.executable, "-P", "-m", "moleblend_fs.cli.main", "train"]


class Handed:
    """An open file that the process gets along; there it is its number."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def __reduce__(self):
        return _received, (reduction.DupFd(self.descriptor),)


def _received(duplicate) -> int:
    return duplicate.detach()


class Forked:
    """What `member_processes` asks of a `subprocess.Popen`."""

    def __init__(self, process: BaseProcess):
        self.process, self.pid = process, process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(COMMAND, timeout or 0)
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def popen(
    words: Sequence[str],
    *,
    cwd: Path,
    stdin: int,
    stdout: IO,
    stderr: int,
    env: dict[str, str],
    start_new_session: bool,
    pass_fds: Sequence[int],
    preexec_fn: Callable[[], object],
) -> Forked:
    """Stands in for `subprocess.Popen` where `member_processes` starts a member, and for no other call."""
    assert list(words[: len(COMMAND)]) == COMMAND
    assert (stdin, stderr, start_new_session) == (subprocess.DEVNULL, subprocess.STDOUT, True)
    files = [Handed(descriptor) for descriptor in (stdout.fileno(), *pass_fds)]
    return Forked(forked_ranks.fork(_train, (list(words[len(COMMAND) :]), str(cwd), dict(env), preexec_fn, files)))


def _train(words: list[str], folder: str, environment: dict[str, str], before: Callable[[], object], files: list[int]) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for standard, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), files[0], files[0])):
        os.dup2(descriptor, standard)
    before()
    for name in forked_ranks.PRELOADED:  # again, since the server passes over what cannot be imported
        importlib.import_module(name)
    import torch

    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sys.argv = ["moleblend", "fairseq-train", *with_user_dir(words)]
    standard_output.loudly()
    sys.exit(standard_output.train())


@contextmanager
def forked_members() -> Iterator[None]:
    """Members that this process starts are forked."""
    kept = {name: getattr(subprocess, name) for name in ("DEVNULL", "STDOUT", "TimeoutExpired")}
    with mock.patch.object(member_processes, "subprocess", SimpleNamespace(Popen=popen, **kept)):
        yield
