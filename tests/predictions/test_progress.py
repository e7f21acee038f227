"""The line that says how far predictions are."""

import io

from moleblend_fs.predictions.progress import RowProgress, duration


def test_rows_and_share_are_told_and_the_last_line_is_complete():
    stream = io.StringIO()
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
