"""The few HTML building blocks that the pages of `inspect` and `report` are made of. No outside files, no scripts."""

import html
import re
from collections.abc import Iterable, Sequence

from moleblend_fs.wording import counted

STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --soft: #556270; --line: #dfe4ea; --ground: #ffffff; --band: #f5f7f9; --accent: #1f6f8b;
  --grid: #e6eaee; --axis: #9aa5b1; --plate: #ffffff;
  --c0: #0072B2; --c1: #D55E00; --c2: #00875f; --c3: #b5578d; --c4: #b87700; --c5: #2b88c2; --c6: #7A5195; --c7: #5c5c5c; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9ee; --soft: #a3b0bd; --line: #36414c; --ground: #1a2129; --band: #12171c; --accent: #6cc0dc;
    --grid: #2b353f; --axis: #6b7885; --plate: #f4f5f6;
    --c0: #56B4E9; --c1: #f28e4c; --c2: #4fcfa2; --c3: #e39cc4; --c4: #f0b849; --c5: #8fc7ee; --c6: #bb98d6; --c7: #b5b5b5; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--band); color: var(--ink); font: 15px/1.55 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 0 0 10px; }
h3 { font-size: 15px; margin: 18px 0 6px; overflow-wrap: anywhere; }
p { margin: 0 0 10px; max-width: 78ch; overflow-wrap: anywhere; }
.soft { color: var(--soft); }
section { background: var(--ground); border: 1px solid var(--line); border-radius: 8px; padding: 18px 20px; margin-top: 18px; }
@media (max-width: 600px) { main { padding: 16px 8px 40px; } section { padding: 14px 12px; } }
.scroll { overflow-x: auto; margin-bottom: 8px; }
.scroll:focus-visible { outline: 2px solid var(--accent); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 14px 5px 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
td { max-width: 46ch; overflow-wrap: break-word; }
th { color: var(--soft); font-weight: 600; font-size: 13px; vertical-align: bottom; }
td.number, th.number { text-align: right; }
td.number { white-space: nowrap; max-width: none; }
@media (min-width: 700px) { td:first-child { white-space: nowrap; max-width: none; } }
tr.strong td { font-weight: 650; }
code { font: 13px ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--soft); }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 220px), 1fr)); gap: 18px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 310px), 1fr)); gap: 18px 26px; }
.charts > figure { max-width: 520px; min-width: 0; }
figure { margin: 0; min-width: 0; }
figure b { overflow-wrap: anywhere; }
figcaption { font-size: 13px; color: var(--soft); overflow-wrap: anywhere; }
.row { display: flex; flex-wrap: wrap; gap: 26px; align-items: flex-start; }
.row > * { max-width: 100%; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 10px; padding: 0;
  font-size: 13px; color: var(--soft); }
.legend li { overflow-wrap: anywhere; min-width: 0; }
.legend i { display: inline-block; width: 14px; height: 10px; border-radius: 2px; margin-right: 6px; }
svg { max-width: 100%; height: auto; display: block; }
.charts svg { width: 100%; }
svg.molecule { background: var(--plate); border-radius: 6px; }
table.matrix { font-size: 12px; border-collapse: separate; border-spacing: 2px; }
table.matrix th, table.matrix td { border: 0; padding: 2px 3px; min-width: 34px; height: 26px; text-align: center; vertical-align: middle;
  white-space: nowrap; font-size: 12px; }
table.matrix td { color: #1d2733; }
"""
SHORT_HASH = 12
"""Hexadecimal digits of a hash that people compare."""


def escape(text: object) -> str:
    """Text made safe to stand in HTML."""
    return html.escape(str(text))


def short_hash(digest: str) -> str:
    """The first digits of a hash; a text that is shorter as it is."""
    head, colon, rest = digest.partition(":")
    return f"{head}:{rest[:SHORT_HASH]}" if colon else digest[:SHORT_HASH]


def page(title: str, subtitle: str, body: Iterable[str]) -> str:
    """A whole HTML document; `subtitle` and `body` are HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f'<body><main><h1>{escape(title)}</h1><p class="soft">{subtitle}</p>\n' + "\n".join(body) + "\n</main></body></html>\n"
    )


def section(title: str, *content: str) -> str:
    """A titled box; content is HTML."""
    return f"<section><h2>{escape(title)}</h2>\n" + "\n".join(content) + "</section>"


def note(text: str) -> str:
    """A paragraph of smaller weight; `text` is not HTML."""
    return f'<p class="soft">{escape(text)}</p>'


def details(title: str, *content: str) -> str:
    """What is shown on request; content is HTML."""
    return f"<details><summary>{escape(title)}</summary>{''.join(content)}</details>"


def scrolled(content: str, name: str) -> str:
    """Wide content in a box of its own that can be scrolled, also by keyboard; `name` is for those who do not see it."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(name)}">{content}</div>'


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """A list of (name, CSS colour)."""
    items = (f'<li><i style="background:{colour}"></i>{escape(name)}</li>' for name, colour in entries)
    return f'<ul class="legend">{"".join(items)}</ul>'


def standalone(picture: str) -> str:
    """An SVG of a page as a file of its own: the light colours, on white."""
    colours = dict(re.findall(r"(--\w+): (#[0-9a-fA-F]{6})", STYLE.partition("@media")[0]))
    text = re.sub(r"var\((--\w+)\)", lambda found: colours[found[1]], picture)
    start, rest = text[: (end := text.index(">"))], text[end + 1 :]
    start = re.sub(r' (?:xmlns|width|height)="[^"]*"', "", start)
    start = start.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg" width="525"', 1)
    return f'{start}><rect width="100%" height="100%" fill="#ffffff"/>{rest}\n'


def charts(figures: Iterable[str]) -> str:
    """Figures side by side, as many as there is room for."""
    return f'<div class="charts">{"".join(figures)}</div>'


def figure(picture: str, title: str = "", caption: str = "") -> str:
    """A picture with a heading and a caption, which is HTML."""
    head = f"<b>{escape(title)}</b>" if title else ""
    return f"<figure>{head}{picture}{f'<figcaption>{caption}</figcaption>' if caption else ''}</figure>"


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    numeric: Sequence[int] = (),
    strong: Sequence[int] = (),
    name: str = "",
) -> str:
    """A table of texts.

    Args:
        header: column titles.
        rows: cells, shown by str().
        numeric: columns that are aligned to the right.
        strong: rows that stand out.
        name: what it shows, for those who do not see it; its column titles if "".
    """
    kinds = [' class="number"' if column in numeric else "" for column in range(len(header))]
    head = "".join(f'<th scope="col"{kind}>{escape(title)}</th>' for kind, title in zip(kinds, header, strict=True))
    lines = [
        f"<tr{' class=strong' if number in strong else ''}>"
        + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for number, row in enumerate(rows)
    ]
    shown = f"<thead><tr>{head}</tr></thead>" if any(header) else ""
    return scrolled(f"<table>{shown}<tbody>{''.join(lines)}</tbody></table>", name or "table of " + ", ".join(filter(None, header)))


BARS_WIDTH, BARS_HEIGHT, BARS_FONT = 350, 160, 12
LETTER = 0.62
"""Width of a digit in units of the font's size, rounded up."""


def bars(labels: Sequence[str], counts: Sequence[int], *, axis: str, thing: str = "molecule") -> str:
    """A histogram as an SVG element: one bar for each label, its count in a tooltip, `axis` written below.

    As many labels are written as have room: neither do they meet, nor does one reach over the picture's edge.
    """
    widest = max((len(label) for label in labels), default=1) * BARS_FONT * LETTER
    margin = widest / 2 + 2
    step = (BARS_WIDTH - 2 * margin) / max(len(counts), 1)
    top = max([*counts, 1])
    base = BARS_HEIGHT - 40
    every = max(1, -(-int(widest + 10) // max(int(step), 1)))
    parts = []
    for number, (label, count) in enumerate(zip(labels, counts, strict=True)):
        tall = (base - 22) * count / top
        x = margin + number * step
        parts.append(
            f'<rect x="{x + step * 0.08:.1f}" y="{base - tall:.1f}" width="{step * 0.84:.1f}" height="{tall:.1f}" fill="var(--accent)">'
            f"<title>{escape(label)}: {counted(count, thing)}</title></rect>"
        )
        if number % every == 0:
            parts.append(f'<text x="{x + step / 2:.1f}" y="{base + 15}" text-anchor="middle">{escape(label)}</text>')
    name = f"histogram: {axis}, {len(counts)} bars from {labels[0]} to {labels[-1]}, most: {top:,}" if labels else f"histogram: {axis}"
    picture = (
        f'<svg role="img" aria-label="{escape(name)}" viewBox="0 0 {BARS_WIDTH} {BARS_HEIGHT}" font-size="{BARS_FONT}" '
        f'fill="var(--soft)" font-family="system-ui, sans-serif">{"".join(parts)}'
        f'<line x1="0" x2="{BARS_WIDTH}" y1="{base}" y2="{base}" stroke="var(--axis)"/><text x="0" y="12">most: {top:,}</text>'
        f'<text x="{BARS_WIDTH / 2}" y="{BARS_HEIGHT - 5}" text-anchor="middle">{escape(axis)}</text></svg>'
    )
    return charts([figure(picture)])
