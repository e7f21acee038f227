"""The line that says how far predictions are."""

import fcntl
import io
import os
import pty
import struct
import termios

import pytest

from moleblend_fs.finetune.progress import Progress
from moleblend_fs.predictions import progress
from moleblend_fs.predictions.progress import RowProgress, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_rows_and_share_are_told_and_the_last_line_is_complete():
    stream = Terminal()
    with RowProgress(4000, 1000, stream=stream) as line:
        line.add(1000)
        assert line.text().startswith("2,000 of 4,000 rows (50 %), ")
        assert "rows/s, about " in line.text()
        line.add(2000)
    shown = stream.getvalue()
    assert shown.startswith("\r1,000 of 4,000 rows (25 %)")
    assert shown.split("\r")[-1].startswith("4,000 of 4,000 rows (100 %), ")
    assert "to go" not in shown.split("\r")[-1]


def test_without_a_total_or_rows_there_is_no_share():
    assert RowProgress(None, stream=io.StringIO()).text() == "0 rows"
    assert RowProgress(0, stream=io.StringIO()).text() == "0 of 0 rows"


def test_nothing_is_shown_where_it_is_switched_off():
    stream = io.StringIO()
    with RowProgress(10, shown=False, stream=stream) as line:
        line.add(10)
    assert stream.getvalue() == ""


def test_durations():
    assert [duration(seconds) for seconds in (0, 59.4, 61, 7265)] == ["0 s", "59 s", "1 min 1 s", "2 h 1 min"]


@pytest.mark.parametrize("dumb", [False, True])
def test_where_lines_stay_there_are_few(monkeypatch, dumb):
    """In a file, and in a terminal that cannot go back: one at the end, and one after each pause."""
    monkeypatch.setenv("TERM", "dumb" if dumb else "xterm")
    stream = Terminal() if dumb else io.StringIO()
    with RowProgress(300, stream=stream) as line:
        line.add(100)
        monkeypatch.setattr(progress, "PAUSE_OF_LINES", 0.0)
        line.add(100)
        monkeypatch.undo()
        line.add(100)
    told = stream.getvalue()
    assert "\r" not in told
    assert [text.split(" rows")[0] for text in told.splitlines()] == ["200 of 300", "300 of 300"]
    assert told.endswith("\n")


def test_lines_are_not_wrapped_by_a_narrow_terminal():
    """Each change of a wrapped line would stand below the last."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 30, 0, 0))
    with os.fdopen(theirs, "w") as stream:
        with RowProgress(1_000_000, stream=stream) as line:
            line.add(500_000)
        whole = Progress(stream=stream)
        whole.stage("a stage of the work with a name that is long")
        whole.end()
    shown = os.read(ours, 10_000).decode().replace("\r\n", "\r").split("\r")
    os.close(ours)
    assert max(map(len, shown)) == 29


def test_a_program_without_standard_error_has_progress_that_is_not_shown(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    assert not Progress(quiet=True).in_place
