"""Ranks of fairseq-train as processes forked from one that has everything imported: they start in no time, for drills and tests.

Each rank is a process of its own, in a session of its own, told who it is as torchrun does; nothing but the start differs.
"""

import contextlib
import functools
import importlib
import importlib.util
import json
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

PRELOADED = ["tests.support.warm_server", "torch", "fairseq_cli.train", "moleblend_fs.tasks.register", "torch._dynamo"]
"""What ranks import, the last where DeepSpeed makes their engine; before that the server waits until it is needed."""
if importlib.util.find_spec("deepspeed") is not None:
    PRELOADED.append("deepspeed.runtime.zero.muon.muon_optimizer")  # which its engine imports, and with it torch's compiler
PRELOADED.append("tests.support.warm")

SERVER = forkserver.ForkServer()
"""Not the one that Python has for all of a process: that has imported what its first user asked for, which preprocessing may have been."""
SERVER.set_forkserver_preload(PRELOADED)


@dataclass
class Ranks:
    """Running ranks.

    Attributes:
        processes: by rank. logs: what each said.
    """

    processes: list[BaseProcess]
    logs: list[Path]

    def running(self) -> bool:
        """Whether any of them still runs."""
        return any(process.is_alive() for process in self.processes)

    def wait(self, timeout: float) -> list[int | None]:
        """Exit codes, None for one that is still running after `timeout` seconds, negative for one that a signal ended."""
        for process in self.processes:
            process.join(timeout)
        return [process.exitcode for process in self.processes]

    def signal(self, number: int, ranks: Sequence[int] | None = None) -> None:
        """Send a signal to the ranks and all that they started, loaders' workers too."""
        for rank in range(len(self.processes)) if ranks is None else ranks:
            pid = self.processes[rank].pid
            if pid is not None and self.processes[rank].is_alive():
                os.killpg(pid, number)

    def kill(self) -> None:
        """Kill -9 all of them."""
        for process in self.processes:
            if process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.join()

    def output(self, rank: int = 0) -> str:
        return self.logs[rank].read_text() if self.logs[rank].exists() else ""


def fairseq_train(words: list[str]) -> None:
    """What the command fairseq-train runs."""
    sys.argv = ["fairseq-train", *words]
    importlib.import_module("fairseq_cli.train").cli_main()


def fairseq_train_by_fork(words: list[str]) -> None:
    """What the command fairseq-train runs, but that the ranks which it starts itself are forked as well."""
    from torch import multiprocessing as of_torch

    of_torch.spawn = functools.partial(of_torch.start_processes, start_method="fork")
    fairseq_train(words)


def start(
    words: Sequence[str],
    *,
    ranks: int,
    logs: Path,
    environment: Mapping[str, str] | None = None,
    entry: Callable[[list[str]], None] = fairseq_train,
) -> Ranks:
    """Start fairseq-train on several ranks of this host.

    Args:
        words: its arguments.
        logs: folder for what each rank says (`rank-0.log`, ...), made anew.
        environment: variables to add.
        entry: what each rank runs with the words, a function of a module; such as one that runs `fairseq_train` in other surroundings.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = [logs / f"rank-{rank}.log" for rank in range(ranks)]
    processes = []
    for rank, file in enumerate(files):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        everything = {**{name: str(value) for name, value in variables.items()}, **(environment or {})}
        processes.append(_forked(entry, words, file, everything))
    return Ranks(processes, files)


def start_command(words: Sequence[str], log: Path, entry: Callable[[list[str]], None] = fairseq_train_by_fork) -> Ranks:
    """Start the command fairseq-train, which knows of no ranks but those that its words ask for.

    Args:
        words: its arguments. log: file for what it says. entry: as of `start`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    return Ranks([_forked(entry, words, log, {})], [log])


def _forked(entry: Callable[[list[str]], None], words: Sequence[str], log: Path, environment: Mapping[str, str]) -> BaseProcess:
    return fork(_run, (entry, list(words), str(log), {"OMP_NUM_THREADS": "1", **environment}))


def fork(target: Callable[..., None], arguments: Sequence[Any]) -> BaseProcess:
    """A process forked from the server, which runs a function of a module with these arguments."""
    begin_server()
    process = multiprocessing.get_context("forkserver").Process(target=target, args=tuple(arguments))
    with mock.patch.object(forkserver, "connect_to_new_process", SERVER.connect_to_new_process):
        process.start()
    return process


def begin_server() -> None:
    """Start the process that others are forked from, which waits for the first before it imports anything."""
    with contextlib.chdir(Path(__file__).parents[2]):  # it takes packages from the folder that it starts in, perhaps another clone
        SERVER.ensure_running()


def _run(entry: Callable[[list[str]], None], words: list[str], log: str, environment: dict[str, str]) -> None:
    os.setsid()
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    for name in PRELOADED:  # again, since the server passes over what cannot be imported
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    entry(words)


def logged(output: str, tag: str = "train_inner") -> list[dict[str, Any]]:
    """Values of the JSON lines that fairseq logged under a tag."""
    found = []
    for line in output.splitlines():
        parts = line.split(" | ", 3)
        if len(parts) == 4 and parts[2] == tag and parts[3].startswith('{"'):
            found.append(json.loads(parts[3]))
    return found
