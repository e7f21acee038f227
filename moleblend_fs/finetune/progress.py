"""One line on the terminal that says how far a run is."""

import sys
import time
from typing import IO

from moleblend_fs.predictions.progress import duration, is_rewritten, line_of


class Progress:
    """The line, rewritten in place; where there is no terminal, a line for each stage.

    Args:
        quiet: show nothing. verbose: whether libraries may show their own progress as well.
        stream: where to; stderr by default. command: of `moleblend`.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, stream: IO[str] | None = None, command: str = "finetune"):
        self.command = command
        self.quiet, self.verbose, self.stream = quiet, verbose, stream or sys.stderr
        self.in_place = is_rewritten(self.stream) and not verbose
        self.name, self.begun, self.first = "", time.monotonic(), 0.0

    def stage(self, name: str) -> None:
        """A new part of the work begins."""
        self.name, self.begun, self.first = name, time.monotonic(), -1
        self._show(f"moleblend {self.command}: {name}")
        if not self.in_place and not self.quiet:
            print(f"moleblend {self.command}: {name}", file=self.stream, flush=True)

    def updates(self, done: float, total: float, note: str = "") -> None:
        """How many updates of all members, or trials, are made; what is left follows from the rate since this command began."""
        if self.first < 0:
            self.first = done
        spent = time.monotonic() - self.begun
        left = spent * (total - done) / (done - self.first) if done > self.first else None
        eta = "" if left is None else f", about {duration(left)} to go"
        self._show(f"moleblend {self.command}: {self.name} {100 * done / max(1, total):.0f} %{eta}{note}")

    def end(self) -> None:
        """Clear the line."""
        self._show("")

    def _show(self, text: str) -> None:
        if self.in_place and not self.quiet:
            self.stream.write(f"\r{line_of(text, self.stream)}" + ("" if text else "\r"))
            self.stream.flush()
