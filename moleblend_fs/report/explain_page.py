"""The page of `moleblend explain`: molecules with their atoms coloured by what they give, and the pairs whose relations matter."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from moleblend_fs.data.graph import MolecularGraph
from moleblend_fs.report import html
from moleblend_fs.report.drawable_values import drawable_text
from moleblend_fs.report.results import shown_number

SHOWN = 50
"""Molecules and targets that a page draws; the table has all."""
STRONGEST = 10
LARGEST_MAP = 60
"""Atoms of molecules whose pairs are drawn as a map."""
RAISES, LOWERS = "var(--c1)", "var(--c0)"
TITLES = {"spd": "shortest path", "edge": "bonds on the path", "distance": "3D distance"}
MAP, FONT, MARGIN = 340, 12, 30
"""Width of a map, its letters, and the room for them, pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One molecule and target; see `predictions.explainer.Explanation`.

    Attributes:
        row: of the input. atoms: (n,). pairs: (p, 2). relations: name -> (p,).
    """

    graph: MolecularGraph
    row: int
    target: str
    unit: str
    status: str
    elements: Sequence[str]
    prediction: float
    baseline: float
    atoms: np.ndarray
    pairs: np.ndarray
    relations: dict[str, np.ndarray]

    @property
    def names(self) -> list[str]:
        """Of the atoms: element and index."""
        return [f"{element}{i}" for i, element in enumerate(self.elements)]


def page(model: str, parts: Sequence[Part], failed: Sequence[tuple[int, str, str]]) -> str:
    """The whole page.

    Args:
        model: what explains. failed: (row, SMILES, reason) of molecules without an explanation.
    """
    body = [html.section("How to read it", *map(html.note, NOTES), KEY)]
    body += [section(part) for part in parts[:SHOWN]]
    if len(parts) > SHOWN:
        body.append(html.section("More", html.note(f"The first {SHOWN} of {len(parts):,} are drawn; a table (.csv) has all.")))
    if failed:
        rows = [(row, drawable_text(smiles[:200]), drawable_text(why)) for row, smiles, why in failed]
        body.append(html.section("Not explained", html.table(["row", "molecule", "why"], rows, numeric=(0,))))
    return html.page("What predictions rest on", f"<code>{html.escape(drawable_text(model))}</code>", body)


NOTES = (
    "Atoms: integrated gradients from a baseline, in which no atom says anything, to the molecule. The numbers of all atoms sum to the "
    "prediction minus the prediction of the baseline.",
    "Pairs: how much lower the prediction would be if the two atoms did not show the model this relation. These do not sum to anything, "
    "and a model that never saw hidden relations in training may react to that itself.",
)
KEY = html.legend([("raises the prediction", RAISES), ("lowers it", LOWERS)])


def section(part: Part) -> str:
    """All of one molecule and target."""
    unit = f" {part.unit}" if part.unit else ""
    ends = f"prediction {shown_number(part.prediction)}{unit}, baseline {shown_number(part.baseline)}{unit}"
    said = f"<br>{html.escape(drawable_text(part.status))}" if part.status != "ok" else ""
    caption = f"{html.escape(ends)}<br><code>{html.escape(drawable_text(part.graph.smiles))}</code>{said}"
    left = html.figure(picture(part), caption=caption)
    order = np.argsort(-np.abs(part.atoms), kind="stable")
    rows = [(part.names[i], signed(part.atoms[i])) for i in order.tolist()]
    name = f"what each atom gives, {part.graph.smiles}"
    strongest = html.table(["atom", "gives"], rows[:STRONGEST], numeric=(1,), name=name)
    rest = (
        [html.details(f"all {len(rows)} atoms", html.table(["atom", "gives"], rows, numeric=(1,), name=name))]
        if len(rows) > STRONGEST
        else []
    )
    row = f'<div class="row">{left}<div>{strongest}{"".join(rest)}</div></div>'
    return html.section(drawable_text(f"{part.target}, row {part.row}"), row, *relations(part))


def signed(value: float) -> str:
    """A number with its sign."""
    return ("+" if value > 0 else "\u2212" if value < 0 else "") + shown_number(abs(value))


def scaled(values: np.ndarray) -> np.ndarray:
    """Values over the largest magnitude."""
    most = np.abs(values).max(initial=0.0)
    return values / most if most > 0 else np.zeros_like(values)


def picture(part: Part, *, alone: bool = False) -> str:
    """The molecule with coloured atoms, as an SVG element; `alone` as a file of its own."""
    from moleblend_fs.chem.depict import coloured_svg

    titles = [f"{name}: {signed(value)}" for name, value in zip(part.names, part.atoms.tolist(), strict=True)]
    svg = coloured_svg(part.graph, scaled(part.atoms).tolist(), titles)
    return f"<?xml version='1.0' encoding='UTF-8'?>\n{svg}" if alone else svg


def relations(part: Part) -> Iterable[str]:
    """The pairs that matter most, and maps of all."""
    if not len(part.pairs) or not part.relations:
        return
    entries = [(name, p, float(values[p])) for name, values in part.relations.items() for p in range(len(part.pairs))]
    entries.sort(key=lambda entry: -abs(entry[2]))
    rows = []
    for name, p, value in entries[:STRONGEST]:
        i, j = part.pairs[p].tolist()
        rows.append((part.names[i], part.names[j], TITLES[name], signed(value)))
    table = html.table(["atom", "and", "relation", "gives"], rows, numeric=(3,), name=f"strongest relations, {part.graph.smiles}")
    yield f"<h3>Relations: the {len(rows)} strongest</h3>{table}"
    if len(part.elements) <= LARGEST_MAP:
        most = max(float(np.abs(values).max(initial=0.0)) for values in part.relations.values()) or 1.0
        maps = [html.figure(pair_map(part, name, values / most), TITLES[name]) for name, values in part.relations.items()]
        yield html.details("all pairs", html.charts(maps))


def pair_map(part: Part, relation: str, shares: np.ndarray) -> str:
    """Atoms against atoms, a square for each pair, coloured by its share, -1 to 1."""
    n = len(part.elements)
    side = (MAP - MARGIN - 4) / n
    every = -(-20 // max(1, int(side)))
    cells, values = [], part.relations[relation]
    for (i, j), share, value in zip(part.pairs.tolist(), shares.tolist(), values.tolist(), strict=True):
        colour = RAISES if share > 0 else LOWERS
        cells.append(
            f'<rect x="{MARGIN + i * side:.1f}" y="{MARGIN + j * side:.1f}" width="{side:.1f}" height="{side:.1f}" fill="{colour}" '
            f'fill-opacity="{abs(share):.2f}"><title>{part.names[i]}, {part.names[j]}: {signed(value)}</title></rect>'
        )
    for i in range(0, n, every):
        middle = MARGIN + (i + 0.5) * side
        cells.append(f'<text x="{middle:.1f}" y="{MARGIN - 8}" text-anchor="middle">{i}</text>')
        cells.append(f'<text x="{MARGIN - 6}" y="{middle + 4:.1f}" text-anchor="end">{i}</text>')
    name = f"{TITLES[relation]}: what each of {len(part.pairs)} pairs of atoms gives, {part.graph.smiles[:100]}"
    frame = f'<rect x="{MARGIN}" y="{MARGIN}" width="{n * side:.1f}" height="{n * side:.1f}" fill="none" stroke="var(--axis)"/>'
    return (
        f'<svg role="img" aria-label="{html.escape(drawable_text(name))}" viewBox="0 0 {MAP} {MAP}" font-size="{FONT}" fill="var(--soft)" '
        f'font-family="system-ui, sans-serif">{frame}{"".join(cells)}</svg>'
    )
