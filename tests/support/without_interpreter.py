"""Calls of functions in forks of one process that has Triton's compiler, and not its interpreter.

    python -m tests.support.without_interpreter

Triton is one of both from when kernels are defined until its process ends. What takes seconds to import is so imported once for all calls.
"""

import contextlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
IMPORTED = ("tests.support.compiled_ahead", "tests.support.compiled_kernels", "tests.support.recorded_launches")


class Compiling:
    """The process, and what asks it."""

    def __init__(self, process: "subprocess.Popen[str]"):
        self.process = process

    def __call__(self, function: str, *arguments: Any, **environment: str) -> Any:
        """What a function, MODULE:NAME, gives for some arguments, all of them JSON; it fails here if it fails there, having said why.

        What it prints is printed here, on standard error.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([function, arguments, environment]), file=self.process.stdin, flush=True)
        status, value = json.loads(self.process.stdout.readline())
        assert status == 0, f"{function}{arguments} ended with {status}"
        return value


@contextlib.contextmanager
def compiling() -> Iterator[Compiling]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.support.without_interpreter"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        yield Compiling(process)
    assert process.returncode == 0


def call(function: str, arguments: list[Any], environment: dict[str, str], answer: int) -> None:
    """Write what a function gives to a file descriptor."""
    os.environ.update(environment)
    module, _, name = function.partition(":")
    value = getattr(importlib.import_module(module), name)(*arguments)
    os.write(answer, json.dumps(value).encode())


def forked(*asked: Any) -> tuple[int, Any]:
    """Exit status of a fork that makes a call, and what it gave."""
    answer, asks = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(answer)
        os.dup2(2, 1)
        call(*asked, asks)
        sys.exit(0)
    os.close(asks)
    with open(answer) as stream:
        said = stream.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status, json.loads(said) if said else None


if __name__ == "__main__":
    for module in IMPORTED:
        importlib.import_module(module)
    for line in sys.stdin:
        print(json.dumps(forked(*json.loads(line))), flush=True)
