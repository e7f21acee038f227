"""Commands of ours in this process: what they said, how they ended, and whether every row of a source is accounted for."""

import contextlib
import io
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from moleblend_fs.cli.main import main
from moleblend_fs.data.store import Store

ENDS = (0, 1, 2)
"""Exit codes of commands that were not ended by a signal."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it said on both streams."""

    code: int
    said: str


def moleblend(*words: object) -> Outcome:
    """A command; an exception is a traceback to a user and is let through, and so is a warning of numpy's."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            code = main([str(word) for word in words])
        except SystemExit as exit_:  # argparse
            code = int(exit_.code or 0)
    assert "Traceback" not in said.getvalue()
    assert code in ENDS, said.getvalue()
    if code == 2:
        assert said.getvalue().strip(), "exit code 2 without a word"
    return Outcome(code, said.getvalue())


def preprocess(out: Path, source: str, given: Path, *options: str) -> Outcome:
    return moleblend("preprocess", source, given, out, "--workers", "1", "--no-progress", *options)


def account(store: Store, rows: Collection[int]) -> dict[int, str]:
    """Failed rows and their reasons.

    Raises:
        AssertionError: a row of the source is neither a molecule nor a failure, or a molecule is of no row.
    """
    failed = {failure.row: failure.reason for failure in store.failures()}
    stored = set(store.source_row.tolist())
    assert stored <= set(rows)
    assert set(rows) - stored <= set(failed)
    assert all(failed.values()), "a failure without a reason"
    assert sum(info.molecules for info in store.manifest.splits.values()) == len(store)
    return failed
