"""The page of a comparison: who is better than whom on each data set, by how much, how sure that is, and ranks over data sets."""

from collections.abc import Sequence
from datetime import datetime

import numpy as np

from moleblend_fs import __version__
from moleblend_fs.comparison.analysis import BETTER, OPEN, SAME, SMALL, Comparison, Overall
from moleblend_fs.comparison.output import number, p_value, ranks_over_sets, to_reference, told_of, told_overall, with_interval
from moleblend_fs.comparison.pictures import RowPoint, joined, rows_with_intervals
from moleblend_fs.comparison.significance import ALPHA
from moleblend_fs.report import html
from moleblend_fs.wording import counted

HOW = (
    "All methods are compared on the same splits: what is tested is the difference on each split, not two means. Differences have "
    "paired 95 % intervals; p is corrected for the number of pairs.",
    f'"{BETTER}" or "worse": p below {ALPHA:g} and a difference of at least what matters. "{SMALL}": p below {ALPHA:g}, but a '
    f'smaller difference. "{SAME}": the whole interval is within what does not matter. "{OPEN}": anything else; more splits may tell.',
)


def build(comparisons: Sequence[Comparison], overall: Overall | None, reference: str, notes: Sequence[str], title: str) -> str:
    """The whole page as HTML.

    Args:
        reference: what others are compared with; "" for the best of each data set.
        notes: what was left out.
    """
    body = [html.section("How to read it", *map(html.note, HOW))]
    if len(comparisons) > 1:
        body.append(_summary(comparisons))
    if overall is not None:
        body.append(_ranks(comparisons, overall))
    body += [section(each, reference) for each in comparisons]
    if notes:
        body.append(html.section("Left out", *map(html.note, notes)))
    made = f"{datetime.now():%Y-%m-%d %H:%M}, moleblend_fs {__version__}"
    return html.page(title, html.escape(made), body)


def _summary(comparisons: Sequence[Comparison]) -> str:
    """Wins and losses of each method on each data set."""
    methods = list(dict.fromkeys(method for each in comparisons for method in each.table.methods))
    rows = []
    for method in methods:
        cells = []
        for each in comparisons:
            if method not in each.table.methods:
                cells.append("")
                continue
            column = each.table.methods.index(method)
            won, lost = each.wins(column)
            cells.append(f"{each.table.values[:, column].mean():.4g}; {won} won, {lost} lost")
        rows.append([method, *cells])
    told = html.note("Mean score; other methods that it is better than, and that are better, by more than matters.")
    header = ["method", *(f"{each.table.dataset}, {each.table.metric}" for each in comparisons)]
    return html.section("Wins and losses", told, html.table(header, rows, name="wins and losses of each method on each data set"))


def picture_over_sets(overall: Overall) -> str:
    """Mean ranks over data sets with Nemenyi's critical difference, as SVG."""
    order = overall.mean_ranks.argsort(kind="stable").tolist()
    rank = overall.mean_ranks[order]
    apart = np.abs(rank[:, None] - rank) >= overall.distance
    points = _points(overall.methods, overall.mean_ranks, order, overall.distance / 2, apart)
    name = (
        f"mean ranks of {len(order)} methods over {counted(len(overall.datasets), 'data set')}, critical difference {overall.distance:.3g}"
    )
    return rows_with_intervals(points, joined(apart), axis="mean rank, 1 is best", name=name)


def _ranks(comparisons: Sequence[Comparison], overall: Overall) -> str:
    """Mean ranks over data sets."""
    caption = "Intervals are as wide as the critical difference; bars at the right join methods that are not told apart."
    header, rows = ranks_over_sets(comparisons, overall)
    figure = html.charts([html.figure(picture_over_sets(overall), "Critical difference", caption)])
    return html.section("Over all data sets", html.note(told_overall(overall) + "."), figure, html.table(header, rows, numeric=(1, 2, 3)))


def section(comparison: Comparison, reference: str) -> str:
    """One data set."""
    table = comparison.table
    header, rows, base = to_reference(comparison, reference)
    parts = [html.note(line) for line in told_of(comparison)]
    parts.append(
        html.table(header, rows, numeric=(1, 2, 3, 4, 5, *range(8, len(header))), strong=(base,), name=f"methods on {table.dataset}")
    )
    if comparison.omnibus is not None:
        parts += [html.charts(_pictures(comparison)), _all_pairs(comparison)]
    return html.section(table.dataset, *parts)


def _apart(comparison: Comparison, order: Sequence[int]) -> np.ndarray:
    """(methods, methods) in an order: whether the post-hoc test tells two apart."""
    apart = np.zeros((len(order), len(order)), dtype=bool)
    for i, first in enumerate(order):
        for j, second in enumerate(order):
            p = comparison.pair(first, second).p if first != second else None
            apart[i, j] = p is not None and p < ALPHA
    return apart


def _pictures(comparison: Comparison) -> list[str]:
    """Means with simultaneous intervals where ANOVA was the test, and mean ranks with their critical difference."""
    figures = []
    if (means := picture_of_means(comparison)) is not None:
        caption = "Simultaneous 95 % intervals (Tukey): two methods are told apart where theirs do not overlap."
        figures.append(html.figure(means, "Means", caption))
    caption = f"Bars at the right join methods that are not told apart by {comparison.post_hoc}."
    caption += " Intervals are as wide as Nemenyi's critical difference." if means is None and comparison.margin else ""
    return [*figures, html.figure(picture_of_ranks(comparison), "Ranks over splits", html.escape(caption))]


def picture_of_means(comparison: Comparison) -> str | None:
    """Means with Tukey's simultaneous intervals, as SVG; None where ranks were tested."""
    if not comparison.post_hoc.startswith("Tukey"):
        return None
    table, order = comparison.table, comparison.best_first()
    points = _points(table.methods, table.values.mean(axis=0), order, (comparison.margin or 0.0) / 2, _apart(comparison, order))
    name = f"means of {table.metric} of {len(order)} methods with simultaneous intervals"
    return rows_with_intervals(points, (), axis=table.metric, name=name)


def picture_of_ranks(comparison: Comparison) -> str:
    """Mean ranks over splits, with bars that join what is not told apart, as SVG; with intervals where ranks were tested."""
    order = np.argsort(comparison.mean_ranks, kind="stable").tolist()
    margin = 0.0 if comparison.post_hoc.startswith("Tukey") else comparison.margin or 0.0
    apart = _apart(comparison, order)
    points = _points(comparison.table.methods, comparison.mean_ranks, order, margin, apart)
    name = f"mean ranks of {len(order)} methods over {counted(len(comparison.table.splits), 'split')}"
    return rows_with_intervals(points, joined(apart), axis="mean rank, 1 is best", name=name)


def _points(methods: Sequence[str], values: np.ndarray, order: Sequence[int], half: float, apart: np.ndarray) -> list[RowPoint]:
    return [
        RowPoint(name=methods[column], value=float(values[column]), half=half, differs=bool(apart[0, row]))
        for row, column in enumerate(order)
    ]


def _all_pairs(comparison: Comparison) -> str:
    names = comparison.table.methods
    rows = [
        [
            names[pair.first],
            names[pair.second],
            with_interval(pair),
            p_value(pair.p),
            number(pair.d, 2),
            number(pair.d_paired, 2),
            f"{names[pair.winner]}: {pair.verdict}" if pair.winner is not None else pair.verdict,
        ]
        for pair in comparison.pairs
    ]
    header = ["first", "second", "first \u2212 second (95 %)", "p", "d", "d of differences", "verdict"]
    return html.details(counted(len(rows), "pair"), html.table(header, rows, numeric=(2, 3, 4, 5)))
