"""How many rows are done, how fast, and when the rest will be: one line on stderr, rewritten in place."""

import sys
import time
from types import TracebackType
from typing import IO

PAUSE = 0.2
"""Seconds between two changes of the line."""
WIDTH = 79


class RowProgress:
    """The line; nothing where it is switched off.

    Args:
        total: rows, where that is known. done: rows of earlier runs.
        shown: whether there is a line at all. stream: where to; stderr by default.
    """

    def __init__(self, total: int | None, done: int = 0, *, shown: bool = True, stream: IO[str] | None = None):
        self._total, self._first, self._done, self._shown = total, done, done, shown
        self._stream = stream or sys.stderr
        self._begun, self._last = time.monotonic(), float("-inf")

    def __enter__(self) -> "RowProgress":
        self._show()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None:
        if self._shown:
            self._show(last=True)
            self._stream.write("\n")
            self._stream.flush()

    def add(self, rows: int) -> None:
        """More rows are done."""
        self._done += rows
        self._show()

    def text(self) -> str:
        """What the line says."""
        spent, made = time.monotonic() - self._begun, self._done - self._first
        parts = [f"{self._done:,}" + ("" if self._total is None else f" of {self._total:,}") + " rows"]
        if self._total:
            parts[0] += f" ({100 * self._done // self._total} %)"
        if made and spent > 0:
            parts.append(f"{made / spent:,.1f} rows/s" if made < 100 * spent else f"{made / spent:,.0f} rows/s")
            if self._total is not None and self._total > self._done:
                parts.append(f"about {duration(spent * (self._total - self._done) / made)} to go")
        return ", ".join(parts)

    def _show(self, *, last: bool = False) -> None:
        now = time.monotonic()
        if self._shown and (last or now - self._last >= PAUSE):
            self._last = now
            self._stream.write(f"\r{self.text()[:WIDTH]:<{WIDTH}}")
            self._stream.flush()


def duration(seconds: float) -> str:
    """Some seconds, for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
