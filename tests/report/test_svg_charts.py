"""Ticks say where they are; a page that is drawn leaves the program's own matplotlib as it was, for a notebook's figures after a run."""

from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot

from moleblend_fs.report.html import bars, standalone
from moleblend_fs.report.svg_charts import STYLE, panel, points, set_ticks, tick_labels


def test_pyplot_is_left_alone():
    backend, figures = matplotlib.get_backend(), pyplot.get_fignums()
    other = "svg" if backend.lower() != "svg" else "pdf"
    try:
        pyplot.switch_backend(other)
        mine = pyplot.figure()
        before = dict(matplotlib.rcParams)
        drawn = points(np.arange(3.0), np.arange(3.0), xlabel="x", ylabel="y", name="three points")
        assert "<svg" in drawn
        assert 'font-family="' in drawn or "DejaVu Sans" in drawn
        assert matplotlib.get_backend().lower() == other
        assert pyplot.gcf() is mine
        assert pyplot.get_fignums() == [*figures, mine.number]
        assert {name: matplotlib.rcParams[name] for name in STYLE} == {name: before[name] for name in STYLE}
    finally:
        pyplot.close(mine)
        pyplot.switch_backend(backend)


@pytest.mark.parametrize(
    ("places", "labels"),
    [
        ([0, 0.25, 0.5, 0.75, 1], ["0.00", "0.25", "0.50", "0.75", "1.00"]),
        ([0, 2.5, 5, 7.5, 10], ["0.0", "2.5", "5.0", "7.5", "10.0"]),
        ([0, 0.2, 0.4, 0.6000000000000001], ["0.0", "0.2", "0.4", "0.6"]),
        ([-500, 0, 500], ["-500", "0", "500"]),
        ([-1e-4, -7.5e-5, 0], ["-1.0e-04", "-7.5e-05", "0"]),
        ([1000.25, 1000.5], ["1000.25", "1000.50"]),
        ([2e8, 2.5e8], ["2.0e+08", "2.5e+08"]),
        ([3.0], ["3"]),
        ([0.0], ["0"]),
        ([], []),
    ],
)
def test_ticks_say_where_they_are(places, labels):
    """A quarter is 0.25, not 0.2."""
    assert tick_labels(places) == labels


@pytest.mark.parametrize("high", [1e-9, 0.02, 1.0, 9.7, 123.0, 4e6, 3e12])
def test_ticks_of_charts_are_numbers_at_their_places(high):
    with panel(xlabel="x", ylabel="y") as (_, axis):
        axis.set(xlim=(-0.03 * high, 1.01 * high), ylim=(high, 1.1 * high))
        set_ticks(axis)
        for ticks in (axis.xaxis, axis.yaxis):
            places = ticks.get_ticklocs()
            read = [float(label.get_text()) for label in ticks.get_ticklabels()]
            assert np.abs(np.array(read) - places).max() <= 0.011 * np.diff(places).min(initial=high)


def test_a_picture_of_a_page_is_a_file_of_its_own():
    """Both kinds, drawn by matplotlib and written out here, are whole XML with colours that need no page."""
    drawn = points(np.arange(3.0), np.arange(3.0), xlabel="x", ylabel="y", name="a > b")
    written = bars(["1", "2"], [3, 4], axis="size")
    for picture in (drawn, written[written.index("<svg") : written.index("</svg>") + 6]):
        alone = standalone(picture)
        assert "var(" not in alone
        root = ElementTree.fromstring(alone)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.get("width") == "525"
        assert root[0].get("fill") == "#ffffff"
