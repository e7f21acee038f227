"""Rows -> a file of predictions, part by part, with progress."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from moleblend_fs.errors import UserError
from moleblend_fs.files import delimiter_of, is_stream, whole_file
from moleblend_fs.predictions.predictive_model import Computing
from moleblend_fs.predictions.progress import RowProgress
from moleblend_fs.predictions.resumable_table import ResumableFile, lines_to_text
from moleblend_fs.predictions.rows import Made
from moleblend_fs.predictions.streaming import WINDOW, windows
from moleblend_fs.predictions.table import PredictionTable
from moleblend_fs.wording import counted

Begin = Callable[[int], Iterator[list[Made]]]
"""A row to begin at -> the rows from there on."""


def write_table(
    out: Path,
    begin: Begin,
    table: PredictionTable,
    forward: Computing,
    request: Mapping[str, Any],
    *,
    total: int | None = None,
    progress: bool = False,
    tell: Callable[[str], None] = lambda line: None,
    window: int = WINDOW,
) -> None:
    """Write a line for each row.

    Args:
        out: a file, which is written as `ResumableFile`, or a stream.
        request: all that the lines depend on.
        total: rows, where that is known. progress: whether to show a bar on stderr.
        tell: is given what a user should know.

    Raises:
        UserError: the file cannot be written, or no molecule at all has a finite value: then nothing is left.
    """
    if is_stream(out):
        with whole_file(out) as stream:
            stream.write(lines_to_text([table.header]))
            for lines, _ in _parts(begin(0), table, forward, 0, total, progress, window):
                stream.write(lines_to_text(lines))
                stream.flush()
        return
    file = ResumableFile(out, request)
    try:
        if file.note:
            tell(file.note)
        table.counts.update(file.counts)
        heading, delimiter = [] if file.rows else [table.header], delimiter_of(out)
        for lines, rows in _parts(begin(file.rows), table, forward, file.rows, total, progress, window):
            file.write(lines_to_text([*heading, *lines], delimiter), rows, table.counts)
            heading = []
        if table.nothing_finite:
            file.close(drop=True)
            raise nothing_finite(table.molecules)
        if heading:
            file.write(lines_to_text(heading, delimiter), 0, table.counts)
        file.finish()
    finally:
        file.close()


def nothing_finite(molecules: int) -> UserError:
    """The error where no molecule has a finite value."""
    return UserError(f"the prediction is not finite for any of {counted(molecules, 'molecule')}; nothing was written: the model is broken")


def _parts(
    made: Iterator[list[Made]], table: PredictionTable, forward: Computing, rows: int, total: int | None, progress: bool, window: int
) -> Iterator[tuple[list[list[str]], int]]:
    """(lines, rows of the input with them) of each window."""
    with RowProgress(total, rows, shown=progress) as line:
        for part in windows(made, forward, window=window):
            rows += len(part.rows)
            yield list(table.lines(part)), rows
            line.add(len(part.rows))
