"""Drawing a page leaves the program's own matplotlib as it was: figures of a notebook are shown after a run, too."""

import matplotlib
import numpy as np
from matplotlib import pyplot

from moleblend_fs.report.svg_charts import STYLE, points


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
