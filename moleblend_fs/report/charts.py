"""Charts as SVG elements, drawn by matplotlib."""

import hashlib
import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moleblend_fs.objectives import registry
from moleblend_fs.objectives.objective import Curve as LossCurve
from moleblend_fs.report.runs import Curve, Evaluation, TrainingLog

matplotlib.use("Agg")
INK, SOFT, GRID = "#1d2733", "#5b6876", "#e6eaee"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#444444")
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": "#9aa5b1",
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
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}


def to_svg(figure: Figure) -> str:
    """The figure as an <svg> element; identifiers are made unique, so that several can stand in one page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    mark = hashlib.sha256(svg.encode()).hexdigest()[:8]
    return re.sub(r'(id="|url\(#|href="#)', rf"\g<1>f{mark}-", svg)


def loss_curves(logs: Sequence[TrainingLog]) -> str:
    """One panel for each pretraining loss that was logged: training as lines, validation as dots, over updates."""
    known = registry.curves()
    names = [name for name in known if any(name in log.train or name in log.valid for log in logs)]
    with pyplot.rc_context(STYLE):
        rows = -(-len(names) // 2)
        figure, axes = pyplot.subplots(rows, min(2, len(names)), figsize=(10.4, 3.1 * rows), squeeze=False, layout="constrained")
        for axis, name in zip(axes.flat, names, strict=False):
            curve = known[name]
            axis.set(title=curve.title, xlabel="updates", ylabel=curve.unit)
            for log, colour in zip(logs, PALETTE * len(logs), strict=False):
                draw_curve(axis, log, name, colour, log.name)
            uninformed = [value for log in logs if (value := level(log, name, curve)) is not None]
            if uninformed:
                axis.axhline(
                    float(np.mean(uninformed)), color=SOFT, linestyle=(0, (4, 3)), linewidth=1, label="knowing nothing of the input"
                )
        for axis in axes.flat[len(names) :]:
            axis.axis("off")
        axes.flat[0].legend(*unique_labels(axes.flat[0]))
        return to_svg(figure)


def draw_curve(axis: Axes, log: TrainingLog, name: str, colour: str, label: str) -> None:
    """Training as a line, validation as joined dots."""
    if name in log.train:
        axis.plot(*log.train[name], color=colour, linewidth=1.4, alpha=0.75, label=f"{label}, training")
    if name in log.valid:
        axis.plot(*log.valid[name], color=colour, linewidth=1, marker="o", markersize=4, label=f"{label}, validation")


def level(log: TrainingLog, name: str, curve: LossCurve) -> float | None:
    """The loss of a predictor that knows nothing of its input: a number, or H(target) for a class."""
    if curve.uninformed is not None:
        return curve.uninformed
    information = curve.information
    for part in (log.valid, log.train):
        if information and information in part and name in part and len(part[name][1]) == len(part[information][1]):
            return float(np.mean(part[name][1] + part[information][1]))
    return None


def unique_labels(axis: Axes) -> tuple[list, list[str]]:
    """Legend entries without repetitions."""
    handles, labels = axis.get_legend_handles_labels()
    first = {label: handle for handle, label in reversed(list(zip(handles, labels, strict=True)))}
    return [first[label] for label in dict.fromkeys(labels)], list(dict.fromkeys(labels))


def metric_curves(curves: Sequence[tuple[str, Curve]], *, title: str, unit: str) -> str:
    """Several runs' curves of one quantity over updates."""
    with pyplot.rc_context(STYLE):
        figure, axis = pyplot.subplots(figsize=(10.4, 3.6), layout="constrained")
        for (name, curve), colour in zip(curves, PALETTE * len(curves), strict=False):
            axis.plot(*curve, color=colour, linewidth=1.3, marker="o", markersize=3.5, label=name)
        axis.set(title=title, xlabel="updates", ylabel=unit)
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return to_svg(figure)


def parity(evaluations: Sequence[Evaluation], target: str, position: int) -> str:
    """Predicted against true values, one panel for each evaluation, on common axes."""
    unit = next((e.units[target] for e in evaluations if e.units.get(target)), "")
    pairs = [(e.target[:, position], e.prediction[:, position]) for e in evaluations]
    every = np.concatenate([np.concatenate(pair) for pair in pairs])
    present = every[~np.isnan(every)]
    low, high = (present.min(), present.max()) if len(present) else (0.0, 1.0)
    margin = 0.03 * (high - low or 1.0)
    columns = min(len(evaluations), 4)
    rows = -(-len(evaluations) // columns)
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(rows, columns, figsize=(2.75 * columns, 2.9 * rows), squeeze=False, layout="constrained")
        for axis, evaluation, (true, predicted) in zip(axes.flat, evaluations, pairs, strict=False):
            axis.plot([low, high], [low, high], color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
            axis.scatter(true, predicted, s=7, color=PALETTE[0], alpha=0.45, linewidths=0)
            axis.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin), aspect="equal")
            axis.set_title(evaluation.name, fontsize=10)
            axis.locator_params(nbins=4)
        figure.supxlabel(f"{target}, true{f' ({unit})' if unit else ''}", fontsize=10, color=SOFT)
        figure.supylabel(f"{target}, predicted{f' ({unit})' if unit else ''}", fontsize=10, color=SOFT)
        for axis in axes.flat[len(evaluations) :]:
            axis.axis("off")
        return to_svg(figure)


def scatter(true: np.ndarray, predicted: np.ndarray, target: str, unit: str) -> str:
    """Predicted over true values of one target, with the diagonal."""
    low, high = min(true.min(), predicted.min()), max(true.max(), predicted.max())
    margin = 0.03 * (high - low or 1.0)
    shown = f" ({unit})" if unit else ""
    with pyplot.rc_context(STYLE):
        figure, axis = pyplot.subplots(figsize=(4.4, 4.4), layout="constrained")
        axis.plot([low, high], [low, high], color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
        axis.scatter(true, predicted, s=11, color=PALETTE[0], alpha=0.5, linewidths=0)
        axis.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin), aspect="equal")
        axis.set(xlabel=f"measured{shown}", ylabel=f"predicted{shown}", title=target)
        return to_svg(figure)


def relation_matrix(choice: np.ndarray, atoms: Sequence[str], cells: Sequence[Sequence[str]], names: Sequence[str]) -> str:
    """Which relation each ordered pair shows.

    Args:
        choice: (n, n) index into `names`.
        atoms: (n,) axis labels.
        cells: (n, n) short texts written into the cells; left out where molecules are too large for them.
        names: what the colours mean.
    """
    colours = ("#BFD9EC", "#F7D9A8", "#BFE5D3", "#F0F2F4")[: len(names)]
    count = len(atoms)
    with pyplot.rc_context(STYLE | {"axes.grid": False}):
        side = min(0.42 * count, 5.2) + 0.8
        figure, axis = pyplot.subplots(figsize=(side + 0.6, side), layout="constrained")
        axis.imshow(choice, cmap=matplotlib.colors.ListedColormap(list(colours)), vmin=-0.5, vmax=len(colours) - 0.5)
        axis.set(xticks=range(count), yticks=range(count), xlabel="to atom j", ylabel="from atom i")
        axis.set_xticklabels(atoms, fontsize=8, rotation=90 if count > 12 else 0)
        axis.set_yticklabels(atoms, fontsize=8)
        axis.tick_params(length=0)
        axis.set_xticks(np.arange(-0.5, count), minor=True)
        axis.set_yticks(np.arange(-0.5, count), minor=True)
        axis.grid(which="minor", color="white", linewidth=1.5)
        axis.tick_params(which="minor", length=0)
        if count <= 20:
            for i, j in np.ndindex(count, count):
                axis.text(j, i, cells[i][j], ha="center", va="center", fontsize=6.5, color=INK)
        patches = [matplotlib.patches.Patch(color=colour, label=name) for colour, name in zip(colours, names, strict=True)]
        axis.legend(handles=patches, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(names), borderaxespad=0.4, handlelength=1.2)
        for spine in axis.spines.values():
            spine.set_visible(False)
        return to_svg(figure)
