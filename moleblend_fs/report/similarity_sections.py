"""The parts of a finetuned run's page that compare molecules: errors over similarity, and what splits have in common."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from moleblend_fs.report import html
from moleblend_fs.report.prediction_panels import columns
from moleblend_fs.report.result_files import Evaluation
from moleblend_fs.wording import counted

MOST_PANELS = 12
"""Targets that are drawn; the table has all."""
LEAKAGE = "Leakage between splits"


class Nearest(NamedTuple):
    """Of a test molecule: its similarity to the nearest training molecule of its fold, NaN where unknown, and whether that is too low."""

    similarity: float
    outside: bool


class Shared(NamedTuple):
    """Of a fold's split: its molecules, those of them that are in others as well, by InChIKey and by skeleton; `pair` says which others."""

    fold: str
    pair: str
    molecules: int
    same: int
    skeletons: int


def applicability(seen: Evaluation, nearest: Sequence[Nearest]) -> list[str]:
    """Errors over the similarity to the nearest training molecule."""
    from moleblend_fs.report.svg_charts import points

    similarity = np.array([each.similarity for each in nearest], dtype=np.float64)
    outside = np.array([each.outside for each in nearest], dtype=bool)
    panels, rows = list[str](), list[tuple[str, ...]]()
    for [column] in columns([seen]).values():
        known = np.isfinite(similarity[column.places])
        x, y, flag = similarity[column.places][known], column.losses()[known], outside[column.places][known]
        if not len(x):
            continue
        unit = "log loss" if column.classes else f"|error|{f' ({column.unit})' if column.unit else ''}"
        titles = [f"{title}, similarity {near:.2f}" for title, near in zip(np.array(column.titles, dtype=object)[known], x, strict=True)]
        name = f"errors of {column.target} over similarity, {counted(len(x), 'prediction')}"
        if len(panels) < MOST_PANELS:
            picture = points(x, y, xlabel="similarity to training molecules", ylabel=unit, name=name, titles=titles)
            panels.append(html.figure(picture, column.target))
        means = [f"{y[chosen].mean():.4g}" if chosen.any() else "-" for chosen in (~flag, flag)]
        rows.append((column.target, unit, means[0], f"{int((~flag).sum()):,}", means[1], f"{int(flag.sum()):,}"))
    if not panels:
        return []
    told = html.note(
        "Tanimoto similarity of ECFP4. Outside of the domain are molecules that are less like the training molecules of their fold than "
        "95 % of these are like their own nearest others."
    )
    cut = [html.note(f"The first {MOST_PANELS} of {len(rows)} targets are drawn.")] if len(rows) > MOST_PANELS else []
    header = ["target", "mean of", "inside", "predictions", "outside", "predictions "]
    return [html.section("Applicability", told, *cut, html.charts(panels), html.table(header, rows, numeric=(2, 3, 4, 5)))]


def leakage(overlap: Sequence[Shared], said: str, pretraining: Sequence[Shared], left_out: str) -> list[str]:
    """What the splits have in common, and what the starting weights have seen of them; or why that was left out."""
    if not overlap:
        return [html.section(LEAKAGE, html.note(left_out))] if left_out else []
    rows = [(*each[:2], *(f"{count:,}" for count in each[2:])) for each in (*overlap, *pretraining)]
    header = ["fold", "molecules of", "how many", "the same InChIKey there", "the same skeleton"]
    first = (
        "Molecules that are in two splits make scores look better than they are."
        if any(each.same for each in overlap)
        else "No molecule of a split that is scored was trained on."
    )
    seen = (
        " Test molecules of the pretraining had no labels of this table there, but their structures are known to the model."
        if any(each.same for each in pretraining)
        else ""
    )
    told = html.note(
        f"{first} Skeleton: the first block of the InChIKey, without stereochemistry, isotopes and charges of protonation. {said}{seen}"
    )
    return [html.section(LEAKAGE, told, html.table(header, rows, numeric=(2, 3, 4)))]
