"""A comparison as text for the terminal, and as a table of pairs."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moleblend_fs.comparison.analysis import BETTER, SMALL, Comparison, Overall, Pair
from moleblend_fs.comparison.score_lines import COSTS
from moleblend_fs.files import CsvWriter, delimiter_of, whole_file
from moleblend_fs.wording import counted

HEADER = (
    *("dataset", "metric", "unit", "first", "second", "splits", "mean_first", "mean_second", "difference", "low", "high"),
    *("test", "post_hoc", "p_adjusted", "cohens_d", "d_paired", "threshold", "verdict", "better"),
)


def number(value: float | None, digits: int = 4) -> str:
    """A number with so many significant digits; "-" for none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


def with_interval(pair: Pair, sign: int = 1) -> str:
    """A difference with its 95 % interval, turned around where `sign` is -1."""
    if pair.low is None or pair.high is None:
        return f"{sign * pair.difference:+.4g}"
    low, high = sorted((sign * pair.low, sign * pair.high))
    return f"{sign * pair.difference:+.4g} ({low:+.3g} to {high:+.3g})"


def p_value(p: float | None) -> str:
    """As it is written: small ones as a bound."""
    return "-" if p is None else "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def to_reference(comparison: Comparison, reference: str) -> tuple[list[str], list[list[str]], int]:
    """(header, a row for each method from the best mean on, the row of what it is compared with).

    Args:
        reference: a method, or "" for the one with the best mean.
    """
    order, table = comparison.best_first(), comparison.table
    base = table.methods.index(reference) if reference in table.methods else order[0]
    rows = []
    for column in order:
        values = table.values[:, column]
        spread = f" ± {values.std(ddof=1):.2g}" if len(values) > 1 else ""
        won, lost = comparison.wins(column)
        row = [table.methods[column], f"{values.mean():.4g}{spread}", f"{comparison.mean_ranks[column]:.2f}"]
        if column == base:
            row += ["", "", "", "compared with it"]
        else:
            pair = comparison.pair(column, base)
            sign = 1 if pair.first == column else -1
            row += [with_interval(pair, sign), p_value(pair.p), number(None if pair.d is None else sign * pair.d, 2), verdict(pair, column)]
        costs = ["-" if np.isnan(of[column]) else f"{of[column]:.3g}" for of in table.costs.values()]
        rows.append([*row, f"{won}/{len(table.methods) - 1 - won - lost}/{lost}", *costs])
    spread = f"mean ± s over {counted(len(table.splits), 'split')}" if len(table.splits) > 1 else "value"
    header = [
        "method",
        spread,
        "mean rank",
        "difference (95 %)",
        "p",
        "d",
        "verdict",
        "wins/open/losses",
        *(COSTS[name] for name in table.costs),
    ]
    return header, rows, order.index(base)


def verdict(pair: Pair, column: int) -> str:
    """Of one of the pair's methods over the other."""
    if pair.low is None:
        return "no interval"
    if pair.verdict in (BETTER, SMALL) and pair.winner != column:
        return pair.verdict.replace("better", "worse")
    return pair.verdict


def told_of(comparison: Comparison) -> list[str]:
    """Sentences on how a table was tested."""
    table, found = comparison.table, comparison.omnibus
    way = "more is better" if table.higher_is_better else "less is better"
    seeds = f", each the mean of up to {counted(table.seeds, 'seed')}" if table.seeds > 1 else ""
    unit = f" in {table.unit}" if table.unit else ""
    lines = [f"{table.metric}{unit}, {way}; {counted(len(table.splits), 'split')}{seeds}."]
    if found is None:
        return [*lines, f"{comparison.why[:1].upper()}{comparison.why[1:]}."]
    freedom = f" ({', '.join(f'{value:g}' for value in found.freedom)})" if found.freedom else ""
    lines.append(
        f"{found.name}: {number(found.statistic)}{freedom}, p {p_value(found.p).removeprefix('< ') if found.p >= 1e-4 else '< 0.0001'}, "
        f"{found.effect_name} {number(found.effect, 3)}; pairs by {comparison.post_hoc}. Chosen since: {comparison.why}."
    )
    if comparison.overlap:
        lines.append(f"Intervals allow for splits that overlap (test molecules / training molecules = {comparison.overlap:.3g}).")
    elif len(table.splits) > 1:
        lines.append("Intervals take splits for independent, which makes them too narrow where their training molecules overlap.")
    lines.append(f"A difference matters from {number(comparison.threshold, 3)} on: {comparison.threshold_told}.")
    return lines


def as_text(comparisons: Sequence[Comparison], overall: Overall | None, reference: str) -> str:
    """All for the terminal."""
    parts = []
    for each in comparisons:
        header, rows, _ = to_reference(each, reference)
        parts.append("\n".join([each.table.dataset, *(f"  {line}" for line in told_of(each)), _columns([header, *rows])]))
    if overall is not None:
        header, rows = ranks_over_sets(comparisons, overall)
        parts.append("\n".join([told_overall(overall), _columns([header, *rows])]))
    return "\n\n".join(parts)


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def told_overall(overall: Overall) -> str:
    """A sentence on ranks over data sets."""
    test = f"; Friedman's test: {number(overall.statistic)}, p {p_value(overall.p)}" if overall.p is not None else ""
    return (
        f"Mean ranks over {counted(len(overall.datasets), 'data set')}{test}; mean ranks that differ by less than "
        f"{overall.distance:.3g} (Nemenyi, 95 %) are not told apart"
    )


def ranks_over_sets(comparisons: Sequence[Comparison], overall: Overall) -> tuple[list[str], list[list[str]]]:
    """(header, a row for each method from the best mean rank on), with pairs won and lost over all data sets."""
    rows = []
    for place in overall.mean_ranks.argsort(kind="stable").tolist():
        name = overall.methods[place]
        counts = [each.wins(each.table.methods.index(name)) for each in comparisons if name in each.table.methods]
        won, lost = (sum(count[i] for count in counts) for i in range(2))
        rows.append([name, f"{overall.mean_ranks[place]:.2f}", str(won), str(lost)])
    return ["method", "mean rank", "pairs won", "pairs lost"], rows


def write_pairs(path: Path, comparisons: Sequence[Comparison]) -> int:
    """A line for every pair of methods on every data set; how many."""
    count = 0
    with whole_file(path) as stream:
        table = CsvWriter(stream, delimiter=delimiter_of(path))
        table.writerow(HEADER)
        for each in comparisons:
            mean = each.table.values.mean(axis=0)
            for pair in each.pairs:
                names = each.table.methods
                cells: list[Any] = [each.table.dataset, each.table.metric, each.table.unit, names[pair.first], names[pair.second]]
                cells += [len(each.table.splits), mean[pair.first], mean[pair.second], pair.difference, pair.low, pair.high]
                cells += [each.omnibus.name if each.omnibus else "", each.post_hoc, pair.p, pair.d, pair.d_paired, each.threshold]
                cells += ["no interval" if pair.low is None else pair.verdict, "" if pair.winner is None else names[pair.winner]]
                table.writerow([_cell(cell) for cell in cells])
                count += 1
    return count


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.8g}" if math.isfinite(value) else ""
    return "" if value is None else value
