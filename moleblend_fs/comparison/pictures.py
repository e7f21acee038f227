"""Methods as rows with a point and an interval each, and bars that join those that are not told apart; SVG in the page's colours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from moleblend_fs.report import html
from moleblend_fs.report.drawable_values import drawable_text

WIDTH, ROW, TOP, FOOT, EDGE, FONT, BAR = 350, 38, 8, 40, 14, 12, 9
"""Of a picture, pixels: it, a method's row, the room above and below, beside, letters, and a bar that joins methods."""
LETTERS = 48
MOST_BARS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPoint:
    """A method: its point, half the width of its interval, and whether it stands out from the first row's."""

    name: str
    value: float
    half: float
    differs: bool


def rows_with_intervals(points: Sequence[RowPoint], groups: Sequence[tuple[int, int]], *, axis: str, name: str) -> str:
    """A picture, best method first.

    Args:
        points: of the methods. groups: (first row, last row) of methods that are joined by a bar. axis: what values are.
        name: what is shown, for those who do not see it.
    """
    groups = groups[:MOST_BARS]
    right = WIDTH - EDGE - BAR * len(groups)
    low = min(point.value - point.half for point in points)
    high = max(point.value + point.half for point in points)
    room = (high - low) or abs(high) or 1.0

    def place(value: float) -> float:
        return EDGE + (value - low) / room * (right - EDGE) if high > low else (EDGE + right) / 2

    base = TOP + ROW * len(points) + 6
    height = base + FOOT
    parts = _band(points[0], place, base) if points[0].half else []
    for row, point in enumerate(points):
        parts += _row(point, place, TOP + ROW * row)
    for number, (first, last) in enumerate(groups):
        x = right + BAR * (number + 1)
        ends = (TOP + ROW * first + 18, TOP + ROW * last + 34)
        parts.append(f'<line x1="{x}" x2="{x}" y1="{ends[0]}" y2="{ends[1]}" stroke="var(--ink)" stroke-width="4" stroke-linecap="round"/>')
    parts.append(f'<line x1="{EDGE}" x2="{right}" y1="{base}" y2="{base}" stroke="var(--axis)"/>')
    for value, anchor in ((low, "start"), (high, "end")):
        if high > low or anchor == "start":
            at = place(value)
            text = f"{value:.4g}"
            parts.append(f'<text x="{at:.1f}" y="{base + 15}" text-anchor="{anchor if high > low else "middle"}">{text}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{base + 33}" text-anchor="middle">{html.escape(shortened(axis))}</text>')
    return (
        f'<svg role="img" aria-label="{html.escape(drawable_text(name))}" viewBox="0 0 {WIDTH} {height}" font-size="{FONT}" '
        f'fill="var(--soft)" font-family="system-ui, sans-serif">{"".join(parts)}</svg>'
    )


def _band(first: RowPoint, place: Callable[[float], float], base: float) -> list[str]:
    """The first method's interval through all rows."""
    left, right = place(first.value - first.half), place(first.value + first.half)
    return [f'<rect x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{base - TOP}" fill="var(--grid)"/>']


def _row(point: RowPoint, place: Callable[[float], float], y: float) -> list[str]:
    colour = "var(--c1)" if point.differs else "var(--c0)"
    line = y + 26
    left, right = place(point.value - point.half), place(point.value + point.half)
    title = f"{point.name}: {point.value:.4g}" + (
        f" ({point.value - point.half:.4g} to {point.value + point.half:.4g})" if point.half else ""
    )
    return [
        f'<text x="{EDGE}" y="{y + 13}" fill="var(--ink)">{html.escape(shortened(drawable_text(point.name)))}</text>',
        f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{line}" y2="{line}" stroke="{colour}" stroke-width="2"/>',
        f'<circle cx="{place(point.value):.1f}" cy="{line}" r="4" fill="{colour}">'
        f"<title>{html.escape(drawable_text(title))}</title></circle>",
    ]


def shortened(text: str) -> str:
    """A text that has room in a picture."""
    return text if len(text) <= LETTERS else text[: LETTERS - 1] + "\u2026"


def joined(apart: np.ndarray) -> list[tuple[int, int]]:
    """(first, last) of the longest runs of rows in which no two methods are told apart, two rows or more.

    Args:
        apart: (rows, rows), whether two are.
    """
    count = len(apart)
    runs: list[tuple[int, int]] = []
    for first in range(count):
        last = first
        while last + 1 < count and not apart[first : last + 1, last + 1].any():
            last += 1
        if last > first and not any(start <= first and last <= end for start, end in runs):
            runs.append((first, last))
    return runs
