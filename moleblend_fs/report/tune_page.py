"""report.html of a folder of `moleblend tune`: what was found, its test scores, and the history of the search."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moleblend_fs.data.typed_json import READING, read_json
from moleblend_fs.errors import UserError
from moleblend_fs.files import write_atomically
from moleblend_fs.report import html
from moleblend_fs.report.finetune_page import results, sentences

WIDTH, ROW, MARGIN, FONT = 350, 44, 12, 12
"""Of the picture of parallel coordinates, pixels: the picture, a setting, its edges, its text."""
LETTERS = 46
MOST_LINES = 500
"""Trials that are drawn; of more the best ones."""
Trial = dict[str, Any]


def write_page(folder: Path) -> None:
    """Write the page from the folder's own files."""
    try:
        found = read_json(folder / "trials.json")
        metrics = read_json(folder / found["folder"] / "metrics.json")
    except READING as error:
        raise UserError(f"{folder}: no finished run of `moleblend tune` ({error})") from error
    best = next(trial for trial in found["trials"] if trial["number"] == found["best"])
    subtitle = sentences(metrics)
    body = [_winner(found, best), results(metrics), _history(found), _trials(found)]
    write_atomically(folder / "report.html", html.page(f"Tuned: {', '.join(metrics['targets'])[:120]}", subtitle, body))


def _winner(found: dict[str, Any], best: Trial) -> str:
    """The settings that were chosen, and by what."""
    rows = [(_shown(name), _text(value)) for name, value in best["settings"].items()]
    told = (
        f"Trial {best['number']} of {len(found['trials'])} has the best {found['metric']} on validation molecules, {best['score']:.4g}. "
        "Test molecules took no part in the search; the model with these settings was trained again and scored on them once."
    )
    link = f'<p><a href="{html.escape(found["folder"])}/report.html">Page of that model</a></p>'
    return html.section("Settings", html.note(told), html.table(["setting", "value"], rows, numeric=(1,)), link)


def _history(found: dict[str, Any]) -> str:
    """Scores by trial, and parallel coordinates."""
    scored = [trial for trial in found["trials"] if trial["score"] is not None and math.isfinite(trial["score"])]
    pictures = [html.figure(scores_by_trial(scored, found), "Scores", "best so far as a line; trials that ended early are grey")]
    complete = [trial for trial in scored if trial["state"] == "complete"]
    pictures.append(html.figure(parallel(complete, found), "Settings and scores", "a line for each complete trial, the best one strong"))
    return html.section("History", html.charts(pictures))


def scores_by_trial(trials: Sequence[Trial], found: dict[str, Any]) -> str:
    """Validation score of each trial, and the best one so far."""
    from moleblend_fs.report.svg_charts import PALETTE, POINTS, SOFT, panel, to_svg

    complete = [(trial["number"], trial["score"]) for trial in trials if trial["state"] == "complete"]
    better = max if found["higher_is_better"] else min
    line = list(itertools.accumulate((score for _, score in complete), better))
    with panel(xlabel="trial", ylabel=f"{found['metric']} (validation)") as (figure, axis):
        axis.plot([number for number, _ in complete], line, color=PALETTE[1], linewidth=1.4, drawstyle="steps-post")
        colours = [PALETTE[0] if trial["state"] == "complete" else SOFT for trial in trials]
        numbers, scores = [trial["number"] for trial in trials], [trial["score"] for trial in trials]
        axis.scatter(numbers, scores, s=16, c=colours, linewidths=0, gid=POINTS)
        # A trial that went wrong would hide what the others differ by.
        low, high = np.percentile(scores, [0, 90] if better is min else [10, 100])
        room = 0.1 * (high - low) or 0.05 * abs(high) or 1.0
        axis.set_ylim(low - room, high + room)
        return to_svg(figure, f"{found['metric']} of {len(trials)} trials", [_title(trial) for trial in trials])


def parallel(trials: Sequence[Trial], found: dict[str, Any]) -> str:
    """Parallel coordinates, lying: each setting is a line from its smallest to its largest value, each trial a line across all of them."""
    order = sorted(trials, key=lambda trial: trial["score"], reverse=found["higher_is_better"])[:MOST_LINES]
    names = list(order[0]["settings"]) if order else []
    rows: list[tuple[str, list[float]]] = []
    for name in names:
        values = [trial["settings"][name] for trial in order]
        rows.append((_label(_shown(name), values), places(values)))
    rows.append((_label(found["metric"], [trial["score"] for trial in order]), places([trial["score"] for trial in order])))
    height = ROW * len(rows) + MARGIN
    parts = []
    for row, (label, _) in enumerate(rows):
        y = ROW * (row + 1)
        parts.append(f'<line x1="{MARGIN}" y1="{y}" x2="{WIDTH - MARGIN}" y2="{y}" stroke="var(--grid)" stroke-width="2"/>')
        parts.append(f'<text x="{MARGIN}" y="{y - 22}" font-size="{FONT}" fill="var(--ink)">{html.escape(label)}</text>')
    for rank in reversed(range(len(order))):
        points = " ".join(f"{MARGIN + x[rank] * (WIDTH - 2 * MARGIN):.1f},{ROW * (row + 1)}" for row, (_, x) in enumerate(rows))
        style = 'stroke="var(--c1)" stroke-width="2.5"' if rank == 0 else 'stroke="var(--c0)" stroke-width="1" opacity="0.45"'
        parts.append(f'<polyline points="{points}" fill="none" {style}><title>{html.escape(_title(order[rank]))}</title></polyline>')
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    name = html.escape(f"settings and {found['metric']} of {len(order)} trials")
    return f'<svg role="img" aria-label="{name}" {size}>{"".join(parts)}</svg>'


def places(values: Sequence[Any]) -> list[float]:
    """Values between 0 and 1: words and few numbers by their order, others by size, or its logarithm where they span two decades."""
    different = sorted(set(values))
    if isinstance(different[0], str) or len(different) <= 5:
        return [different.index(value) / max(1, len(different) - 1) if len(different) > 1 else 0.5 for value in values]
    numbers = np.array(values, dtype=np.float64)
    if _by_logarithm(numbers):
        numbers = np.log(numbers)
    return ((numbers - numbers.min()) / (numbers.max() - numbers.min())).tolist()


def _by_logarithm(numbers: np.ndarray) -> bool:
    return bool(numbers.min() > 0 and numbers.max() > 100 * numbers.min())


def _label(name: str, values: Sequence[Any]) -> str:
    """What a line is of, and how far it reaches."""
    different = sorted(set(values))
    shown = ", ".join(map(_text, different)) if len(different) <= 5 else f"{_text(different[0])} to {_text(different[-1])}"
    text = f"{name}: {shown}"
    return text if len(text) <= LETTERS else text[: LETTERS - 1] + "\u2026"


def _trials(found: dict[str, Any]) -> str:
    """All trials in a table."""
    names = list(found["trials"][0]["settings"])
    header = ["trial", "state", found["metric"], *map(_shown, names), "time", "note"]
    rows = [
        [
            trial["number"],
            trial["state"],
            "-" if trial["score"] is None else f"{trial['score']:.4g}",
            *(_text(trial["settings"][name]) for name in names),
            "-" if trial["seconds"] is None else f"{trial['seconds']:.0f} s",
            trial["reason"][:200],
        ]
        for trial in found["trials"]
    ]
    strong = [place for place, trial in enumerate(found["trials"]) if trial["number"] == found["best"]]
    note = html.note(f"Searched: {'; '.join(found['space'])}. The score of a trial that ended early is its last one.")
    return html.section("Trials", note, html.table(header, rows, numeric=(0, *range(2, len(names) + 4)), strong=strong))


def _title(trial: Trial) -> str:
    """What is said of a trial where the mouse rests."""
    settings = ", ".join(f"{_shown(name)} {_text(value)}" for name, value in trial["settings"].items())
    return f"trial {trial['number']} ({trial['state']}): {trial['score']:.4g}; {settings}"


def _shown(name: str) -> str:
    return name.replace("_", "-")


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
