"""How many rows are done, how fast, and when the rest will be: one line on stderr, rewritten in place where that is a terminal."""

import os
import sys
import time
from types import TracebackType
from typing import IO

PAUSE = 0.2
"""Seconds between two changes of the line."""
PAUSE_OF_LINES = 60.0
"""Seconds between two lines, where each stays: in a file, a pipe, or a terminal that cannot go back."""
WIDTH = 79


def is_rewritten(stream: IO[str] | None) -> bool:
    """Whether a line of a stream can be written over."""
    asked = getattr(stream, "isatty", None)
    return asked is not None and asked() and os.environ.get("TERM") != "dumb"


def line_of(text: str, stream: IO[str]) -> str:
    """A text as a line of a terminal: cut, or filled with blanks, so that it covers the last one and is not wrapped."""
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError, AttributeError):
        columns = 0
    width = min(WIDTH, max(1, columns - 1)) if columns else WIDTH
    return f"{text[:width]:<{width}}"


class RowProgress:
    """The line; nothing where it is switched off. Where it cannot be rewritten, a line now and then, and one at the end.

    Args:
        total: rows, where that is known. done: rows of earlier runs.
        shown: whether there is a line at all. stream: where to; stderr by default.
    """

    def __init__(self, total: int | None, done: int = 0, *, shown: bool = True, stream: IO[str] | None = None):
        self._total, self._first, self._done, self._shown = total, done, done, shown
        self._stream = stream or sys.stderr
        self._in_place = is_rewritten(self._stream)
        self._begun = time.monotonic()
        self._last = float("-inf") if self._in_place else self._begun

    def __enter__(self) -> "RowProgress":
        self._show()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None:
        if self._shown:
            self._show(last=True)

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
        if not self._shown or not (last or now - self._last >= (PAUSE if self._in_place else PAUSE_OF_LINES)):
            return
        self._last = now
        text = f"\r{line_of(self.text(), self._stream)}" if self._in_place else self.text()
        self._stream.write(text + "\n" * (last or not self._in_place))
        self._stream.flush()


def duration(seconds: float) -> str:
    """Some seconds, for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
