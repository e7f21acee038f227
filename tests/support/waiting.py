"""Waiting for what other processes do: the one place of the tests that looks at a clock, to fail instead of hanging."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
LOOK_AGAIN = 0.01, 0.5
"""Seconds at least and at most between two looks at something that tells nobody when it happens: a file, a table of processes."""
REST = 20
"""So many times as long as a look takes passes before the next one: asking Slurm starts a program, which others would wait for."""


def until(
    happens: Callable[[], T], *, seconds: float = 120, runs: Callable[[], bool] = lambda: True, said: Callable[[], str] = lambda: ""
) -> T:
    """The first value that is true.

    Args:
        seconds: after which it is no more waited for.
        runs: whether what it depends on still runs; nothing is waited for that has ended.
        said: what a failure shows, the end of it.

    Raises:
        AssertionError: it did not happen.
    """
    end = time.monotonic() + seconds
    while True:
        running = runs()  # before the look, since it may happen as the last thing
        begun = time.monotonic()
        if value := happens():
            return value
        looked = time.monotonic()
        assert running, f"it ended before\n{said()[-3000:]}"
        assert looked < end, f"not within {seconds:g} s\n{said()[-3000:]}"
        shortest, longest = LOOK_AGAIN
        time.sleep(min(max(shortest, REST * (looked - begun)), longest))
