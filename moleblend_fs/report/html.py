"""The few HTML building blocks that the pages of `inspect` and `report` are made of. No outside files, no scripts."""

import html
from collections.abc import Iterable, Sequence

STYLE = """
:root { --ink: #1d2733; --soft: #5b6876; --line: #dfe4ea; --ground: #ffffff; --band: #f5f7f9; --accent: #1f6f8b; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--band); color: var(--ink); font: 15px/1.55 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 0 0 10px; }
p { margin: 0 0 10px; max-width: 78ch; }
.soft { color: var(--soft); }
section { background: var(--ground); border: 1px solid var(--line); border-radius: 8px; padding: 18px 20px; margin-top: 18px;
  overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 14px 5px 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; font-size: 13px; }
td.number, th.number { text-align: right; }
tr.strong td { font-weight: 650; }
code { font: 13px ui-monospace, Menlo, Consolas, monospace; word-break: break-all; }
.gallery { display: flex; flex-wrap: wrap; gap: 14px; }
figure { margin: 0; }
figcaption { font-size: 13px; color: var(--soft); max-width: 260px; overflow-wrap: anywhere; }
.row { display: flex; flex-wrap: wrap; gap: 26px; align-items: flex-start; }
svg { max-width: 100%; height: auto; }
"""


def escape(text: object) -> str:
    """Text made safe to stand in HTML."""
    return html.escape(str(text))


def page(title: str, subtitle: str, body: Iterable[str]) -> str:
    """A whole HTML document; `subtitle` and `body` are HTML."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f'<body><main><h1>{escape(title)}</h1><p class="soft">{subtitle}</p>\n' + "\n".join(body) + "\n</main></body></html>\n"
    )


def section(title: str, *content: str) -> str:
    """A titled box; content is HTML."""
    return f"<section><h2>{escape(title)}</h2>\n" + "\n".join(content) + "</section>"


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, numeric: Sequence[int] = (), strong: Sequence[int] = ()) -> str:
    """A table of texts.

    Args:
        header: column titles.
        rows: cells, shown by str().
        numeric: columns that are aligned to the right.
        strong: rows that stand out.
    """
    kinds = [' class="number"' if column in numeric else "" for column in range(len(header))]
    head = "".join(f"<th{kind}>{escape(title)}</th>" for kind, title in zip(kinds, header, strict=True))
    lines = [
        f"<tr{' class=strong' if number in strong else ''}>"
        + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for number, row in enumerate(rows)
    ]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def bars(labels: Sequence[str], counts: Sequence[int], *, axis: str, width: int = 640, height: int = 170) -> str:
    """A histogram as an SVG element: one bar for each label, its count in a tooltip, `axis` written below."""
    step = width / max(len(counts), 1)
    top = max([*counts, 1])
    base = height - 36
    every = max(1, round(34 / step))
    parts = []
    for number, (label, count) in enumerate(zip(labels, counts, strict=True)):
        tall = (base - 14) * count / top
        x = number * step
        parts.append(
            f'<rect x="{x + step * 0.08:.1f}" y="{base - tall:.1f}" width="{step * 0.84:.1f}" height="{tall:.1f}" fill="#1f6f8b">'
            f"<title>{escape(label)}: {count:,}</title></rect>"
        )
        if number % every == 0:
            parts.append(f'<text x="{x + step / 2:.1f}" y="{base + 14}" text-anchor="middle">{escape(label)}</text>')
    return (
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-size="11" fill="#5b6876" '
        f'font-family="system-ui, sans-serif">{"".join(parts)}<line x1="0" x2="{width}" y1="{base}" y2="{base}" stroke="#9aa5b1"/>'
        f'<text x="0" y="10">most: {top:,}</text><text x="{width / 2}" y="{height - 4}" text-anchor="middle">{escape(axis)}</text></svg>'
    )
