"""Charts as SVG elements, drawn by matplotlib: panels that are as wide as a phone, in colours of the page, with names and tooltips."""

import hashlib
import html
import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from moleblend_fs.objectives import registry
from moleblend_fs.objectives.objective import Curve as LossCurve
from moleblend_fs.report.training_logs import Curve, TrainingLog

INK, SOFT, GRID = "#1d2733", "#5b6876", "#e6eaee"
PALETTE = ("#0072b2", "#d55e00", "#00875f", "#b5578d", "#b87700", "#2b88c2", "#7a5195", "#5c5c5c")
AXIS = "#9aa5b1"
ON_PAGE = {INK: "--ink", SOFT: "--soft", GRID: "--grid", AXIS: "--axis"} | {colour: f"--c{i}" for i, colour in enumerate(PALETTE)}
"""Colour -> the variable of the page's style that stands for it, so that charts are light or dark as the page is."""
PANEL = (3.75, 2.9)
"""Width and height of a panel, inches: 360 pixels, and its text is read on a phone as it is."""
MOST_POINTS = 1500
"""Points that are drawn; of more a sample."""
MOST_DIGITS = 16
"""Behind the point, of a tick's label."""
ROOM = 44
"""Letters that have room along a panel's lower edge."""
POINTS = "points"
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": AXIS,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}


@contextmanager
def panel(*, xlabel: str, ylabel: str) -> Iterator[tuple[Figure, Axes]]:
    """One set of axes in the page's style. pyplot is left alone: a notebook, or a program, draws its own figures with it."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=PANEL, layout="constrained")
        axis = figure.subplots()
        axis.set(xlabel=shortened(xlabel), ylabel=shortened(ylabel))
        yield figure, axis


def shortened(text: str, length: int = 34) -> str:
    """A text that has room beside an axis."""
    return text if len(text) <= length else text[: length - 1] + "\u2026"


def to_svg(figure: Figure, name: str, titles: Sequence[str] = ()) -> str:
    """The figure as an <svg> element, its identifiers unique, so that several can stand in one page.

    Args:
        figure: what to draw.
        name: what it shows, for those who do not see it.
        titles: of the points of the one scatter plot whose identifier is `POINTS`, shown where the mouse rests.
    """
    for axis in figure.axes:
        set_ticks(axis)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") + len("<svg") :]
    mark = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>f{mark}-", with_titles(svg, titles))
    svg = re.sub("|".join(ON_PAGE), lambda found: f"var({ON_PAGE[found[0]]})", svg)
    return f'<svg role="img" aria-label="{html.escape(name)}"{svg}'


def set_ticks(axis: Axes) -> None:
    """As many ticks as their labels have room for, with the digits that tell one from the next."""
    for ticks, room in ((axis.xaxis, ROOM), (axis.yaxis, math.inf)):
        low, high = sorted(ticks.get_view_interval())
        for count in range(5, 0, -1):
            places = [place for place in MaxNLocator(count).tick_values(low, high) if low <= place <= high]
            labels = tick_labels(places)
            if sum(len(label) + 2 for label in labels) <= room:
                break
        ticks.set_ticks(places, labels)


def tick_labels(places: Sequence[float]) -> list[str]:
    """Numbers with as few digits as say where they are, to a hundredth of the step between them."""
    largest = max(map(abs, places), default=0.0)
    step = min((b - a for a, b in pairwise(places)), default=largest)
    plain, labels = 1e-3 <= largest < 1e7, list[str]()
    for digits in range(MOST_DIGITS):
        labels = [f"{place:z.{digits}f}" if plain else f"{place:.{digits}e}" if abs(place) > step / 2 else "0" for place in places]
        if all(abs(float(label) - place) <= step / 100 for label, place in zip(labels, places, strict=True)):
            break
    return labels


def with_titles(svg: str, titles: Sequence[str]) -> str:
    """The points of the scatter plot with what they stand for."""
    before, found, after = svg.partition(f'<g id="{POINTS}">')
    points = re.split(r"(<use [^>]*)/>", after, maxsplit=len(titles)) if found else []
    if len(points) != 2 * len(titles) + 1:
        return svg
    ends = [f"><title>{html.escape(title)}</title></use>" for title in titles] + [""]
    told = "".join(gap + use + end for gap, use, end in zip(points[::2], [*points[1::2], ""], ends, strict=True))
    return before + found + told


def loss_curves(logs: Sequence[TrainingLog]) -> list[tuple[str, str]]:
    """(title, SVG) of each pretraining loss that was logged: training as lines, validation as dots, over updates."""
    pictures = []
    for name, curve in registry.curves().items():
        if not any(name in log.train or name in log.valid for log in logs):
            continue
        with panel(xlabel="updates", ylabel=curve.unit) as (figure, axis):
            for log, colour in zip(logs, PALETTE * len(logs), strict=False):
                draw_curve(axis, log, name, colour)
            uninformed = [value for log in logs if (value := level(log, name, curve)) is not None]
            if uninformed:
                axis.axhline(float(np.mean(uninformed)), color=SOFT, linestyle=(0, (4, 3)), linewidth=1)
            last = [f"{log.name} {log.valid[name][1][-1]:.4g}" for log in logs if name in log.valid]
            pictures.append((curve.title, to_svg(figure, f"{curve.title} over updates; last on validation: {', '.join(last) or 'none'}")))
    return pictures


def draw_curve(axis: Axes, log: TrainingLog, name: str, colour: str) -> None:
    """Training as a line, validation as joined dots."""
    if name in log.train:
        axis.plot(*log.train[name], color=colour, linewidth=1.4, alpha=0.75)
    if name in log.valid:
        axis.plot(*log.valid[name], color=colour, linewidth=1, marker="o", markersize=3.5)


def level(log: TrainingLog, name: str, curve: LossCurve) -> float | None:
    """The loss of a predictor that knows nothing of its input: a number, or H(target) for a class."""
    if curve.uninformed is not None:
        return curve.uninformed
    information = curve.information
    for part in (log.valid, log.train):
        if information and information in part and name in part and len(part[name][1]) == len(part[information][1]):
            return float(np.mean(part[name][1] + part[information][1]))
    return None


def metric_curves(curves: Sequence[tuple[str, Curve] | None], *, title: str, unit: str) -> str:
    """Several runs' curves of one quantity over updates; None for a run that has none of it."""
    with panel(xlabel="updates", ylabel=unit) as (figure, axis):
        for entry, colour in zip(curves, PALETTE * len(curves), strict=False):
            if entry is not None:
                axis.plot(*entry[1], color=colour, linewidth=1.3, marker="o", markersize=3)
        last = ", ".join(f"{name} {curve[1][-1]:.4g}" for name, curve in filter(None, curves))
        return to_svg(figure, f"{title} over updates; last: {last}")


def limits(*values: np.ndarray) -> tuple[float, float]:
    """A range with a margin around all finite values."""
    every = np.concatenate([np.ravel(value) for value in values])
    present = every[np.isfinite(every)]
    low, high = (float(present.min()), float(present.max())) if len(present) else (0.0, 1.0)
    margin = 0.04 * (high - low) or 0.04 * abs(high) or 1.0
    return low - margin, high + margin


def scatter(
    true: np.ndarray,
    predicted: np.ndarray,
    target: str,
    unit: str,
    *,
    titles: Sequence[str] = (),
    residuals: bool = False,
    within: tuple[float, float] | None = None,
) -> str:
    """Predicted over true values of one target, with the diagonal; or their difference over predicted ones.

    Args:
        true, predicted: (molecules,), finite.
        target: its name. unit: "" where there is none.
        titles: of the molecules, shown where the mouse rests.
        residuals: whether to draw predicted - true over predicted.
        within: both axes' range; that of the values if None.
    """
    shown = f" ({unit})" if unit else ""
    picked = sampled(len(true))
    names = [titles[i] for i in picked.tolist()] if titles else []
    x, y = (predicted, predicted - true) if residuals else (true, predicted)
    told = ("residuals, predicted - true, over predicted values" if residuals else "predicted over true values") + f" of {target}"
    labels = (
        (f"{target}, predicted{shown}", f"predicted \u2212 true{shown}") if residuals else (f"{target}, true{shown}", f"predicted{shown}")
    )
    with panel(xlabel=labels[0], ylabel=labels[1]) as (figure, axis):
        range_x, range_y = (limits(x), limits(y)) if residuals else (within or limits(x, y),) * 2
        line = ([0, 0] if residuals else list(range_x)) if len(x) else [np.nan, np.nan]
        axis.plot(list(range_x), line, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
        axis.set(xlim=range_x, ylim=range_y)
        axis.scatter(x[picked], y[picked], s=12, color=PALETTE[0], alpha=0.5, linewidths=0, gid=POINTS)
        return to_svg(figure, f"{told}, {len(true):,} molecules", names)


def lines(
    curves: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    xlabel: str,
    ylabel: str,
    name: str,
    diagonal: bool = False,
    marker: str = "",
    step: bool = False,
) -> str:
    """Curves between 0 and 1 on both axes."""
    with panel(xlabel=xlabel, ylabel=ylabel) as (figure, axis):
        if diagonal:
            axis.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
        for (x, y), colour in zip(curves, PALETTE * len(curves), strict=False):
            axis.plot(x, y, color=colour, linewidth=1.4, marker=marker, markersize=4, drawstyle="steps-post" if step else "default")
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        return to_svg(figure, name)


def points(x: np.ndarray, y: np.ndarray, *, xlabel: str, ylabel: str, name: str, titles: Sequence[str] = ()) -> str:
    """A scatter plot; of many points a sample.

    Args:
        x, y: (molecules,), finite. titles: of the molecules, shown where the mouse rests.
    """
    picked = sampled(len(x))
    with panel(xlabel=xlabel, ylabel=ylabel) as (figure, axis):
        axis.set(xlim=limits(x), ylim=limits(y))
        axis.scatter(x[picked], y[picked], s=12, color=PALETTE[0], alpha=0.5, linewidths=0, gid=POINTS)
        return to_svg(figure, name, [titles[i] for i in picked.tolist()] if len(titles) else [])


def sampled(count: int) -> np.ndarray:
    """Places of the points that are drawn, the same each time."""
    if count <= MOST_POINTS:
        return np.arange(count)
    return np.sort(np.random.Generator(np.random.PCG64(0)).choice(count, MOST_POINTS, replace=False))
