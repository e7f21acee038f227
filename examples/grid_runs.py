"""What the examples that run a declared grid share: settings in TOML, runs some at a time of which others go on where one fails."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from moleblend_fs.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
PREEMPTED = 85
"""Exit code of a run that was told to stop and can go on."""


def read_toml(path: Path) -> dict[str, Any]:
    """A file of settings."""
    with path.open("rb") as stream:
        try:
            return tomllib.load(stream)
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"{path.name}: {error}") from error


def call(words: list[str], settings: dict[str, str] | None = None) -> None:
    """A command of this environment; what it says goes to stderr, so that nothing but results is on stdout."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        words, env={**os.environ, "PATH": path, **(settings or {})}, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False
    )
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, words)


def each(work: Callable[[Any], object], items: Iterable[Any], jobs: int, pool: Callable[[int], Executor] = ThreadPoolExecutor) -> int:
    """Some at a time; the others go on where one fails. The first exit code that is not 0.

    Args:
        pool: makes what runs them, of a number of jobs.
    """
    code = 0
    with pool(jobs) as running:
        for future in as_completed([running.submit(work, item) for item in items]):
            try:
                future.result()
            except subprocess.CalledProcessError as error:
                code = code or error.returncode
                if error.returncode == PREEMPTED:
                    running.shutdown(cancel_futures=True)
                    return PREEMPTED
                print(f"run.sh: exit code {error.returncode}: {' '.join(error.cmd)[:300]}", file=sys.stderr)
    return code


def commit() -> str:
    """Of the code, as far as git tells; "+" where files were changed since."""
    done = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
