"""report.html of a folder of `moleblend finetune`: scores beside baselines, what predictions are like, where they fail, how it was made."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moleblend_fs.data.finetune_tables import Line, number, read_lines
from moleblend_fs.data.store import MANIFEST, Store
from moleblend_fs.data.stored_smiles import smiles_of_store
from moleblend_fs.data.typed_json import READING, read_json
from moleblend_fs.errors import UserError
from moleblend_fs.files import as_json, write_atomically
from moleblend_fs.report import html
from moleblend_fs.report.drawable_values import drawable_text
from moleblend_fs.report.page import finetuning_section
from moleblend_fs.report.prediction_panels import picture_sections, worst_sections
from moleblend_fs.report.result_files import Evaluation
from moleblend_fs.report.settings import shown_settings
from moleblend_fs.report.similarity_sections import Nearest, Shared, applicability, leakage
from moleblend_fs.report.training_logs import read_log
from moleblend_fs.wording import counted, with_decimals

SHOWN_FAILURES = 50
"""Rows without a molecule that the page lists; the tables have all."""
MOST_CURVES = 8
"""Members whose curves are drawn."""


def write_page(
    folder: Path,
    nearest: Sequence[Nearest] | None = None,
    overlap: Sequence[Shared] = (),
    pretraining: tuple[str, Sequence[Shared]] = ("", ()),
    left_out: str = "",
) -> None:
    """Write the page from the folder's own files.

    Args:
        nearest: of each line of predictions_test.csv; None leaves applicability out.
        overlap: what splits have in common. pretraining: what is said of the starting weights' molecules, and what splits share with them.
        left_out: why splits were not compared.
    """
    try:
        metrics, model, splits = (read_json(folder / name) for name in ("metrics.json", "model.json", "splits.json"))
    except READING as error:
        raise UserError(f"{folder}: no finished run of `moleblend finetune` ({error})") from error
    targets = list(metrics["targets"])
    tested = list(read_lines(folder / "predictions_test.csv", targets))
    seen = tested_molecules(metrics, tested, tested_smiles(folder, tested))
    body = [results(metrics)]
    if metrics["models"]:
        body += picture_sections([seen]) + _not_calibrated(metrics) + _intervals(metrics)
        body += [] if nearest is None else applicability(seen, nearest)
        body += worst_sections([seen])
    body += _curves(folder, seen) + leakage(overlap, *pretraining, left_out)
    body += [_run(model, splits, metrics), *_failures(folder, targets)]
    write_atomically(folder / "report.html", html.page(f"Finetuned: {', '.join(metrics['targets'])[:120]}", sentences(metrics), body))


def sentences(metrics: dict[str, Any]) -> str:
    """`first_lines` as HTML."""
    return " ".join(html.escape(line[:1].upper() + line[1:]) + "." for line in first_lines(metrics))


def first_lines(metrics: dict[str, Any]) -> list[str]:
    """What is to be read before anything else: who wins, and members that have learned next to nothing."""
    return [metrics["first_line"], *map(_not_learned, metrics.get("not_learned", []))]


def _not_learned(about: dict[str, Any]) -> str:
    what = "is left out of the predictions" if about["left_out"] else "is not left out, since no other member did better"
    return (
        f"member {about['member']} learned next to nothing (it explains {max(0.0, about['skill']):.0%} of the variation of its own "
        f"training labels) and {what}; a smaller --lr or another --seed may train it better"
    )


def cell(score: dict[str, Any] | None) -> str:
    """A score with its interval."""
    if not score or score.get("value") is None:
        return "-"
    bounds = [score.get("low"), score.get("high")]
    told = [with_decimals(bound, 3) for bound in bounds if bound is not None]
    return with_decimals(score["value"], 4) + (f" ({' to '.join(told)})" if told else "")


def results(metrics: dict[str, Any]) -> str:
    """A table for the mean over targets, and one for each target where there are several."""
    if not metrics["models"]:
        return html.section("Results", "<p>No test molecules with labels.</p>")
    parts = []
    for target in ["mean"] if len(metrics["targets"]) > 1 else []:
        parts.append(f"<h3>Mean over {len(metrics['targets'])} targets</h3>" + _left_out(metrics) + _table(metrics, target))
    for target, about in metrics["targets"].items():
        unit = f" ({about['unit']})" if about["unit"] else ""
        parts.append(f"<h3>{html.escape(target + unit)}</h3>" + _tested_on(about) + _table(metrics, target))
    note = (
        '<p class="soft">Of test molecules; in brackets 95 % intervals by bootstrap over molecules. Baselines were fitted on the same '
        "training molecules.</p>"
    )
    return html.section("Results", note, *parts)


def _left_out(metrics: dict[str, Any]) -> str:
    """Which targets are not in the mean of which scores."""
    scores = next(iter(metrics["models"].values()))
    without: dict[tuple[str, ...], list[str]] = {}
    for score in scores["mean"]:
        undefined = tuple(target for target in metrics["targets"] if scores[target][score]["value"] is None)
        without.setdefault(undefined, []).append(score)
    return "".join(
        html.note(f"Without {', '.join(targets)}, whose test molecules do not define it: {', '.join(names)}.")
        for targets, names in without.items()
        if targets
    )


def _tested_on(about: dict[str, Any]) -> str:
    """How many test labels a target's scores are of; metrics of earlier versions do not tell."""
    if "tested" not in about:
        return ""
    classes = f", {about['of_class_1']:,} of class 1" if "of_class_1" in about else ""
    return html.note(f"{counted(about['tested'], 'test molecule')}{classes}.")


def _not_calibrated(metrics: dict[str, Any]) -> list[str]:
    """Whose probabilities are the models' own."""
    if not (names := metrics.get("not_calibrated")):
        return []
    told = (
        f"Probabilities of {', '.join(names)} are as the models give them: there are too few validation molecules of one class to "
        "calibrate them by, or they would be turned around."
    )
    return [html.section("Calibration of probabilities", html.note(told))]


def _table(metrics: dict[str, Any], target: str) -> str:
    models = metrics["models"]
    names = list(next(iter(models.values()))[target])
    rows = [[name, *(cell(of[target][score]) for score in names)] for name, of in models.items()]
    strong = [place for place, name in enumerate(models) if name == metrics.get("best")]
    return html.table(["model", *names], rows, numeric=range(1, len(names) + 1), strong=strong)


def tested_molecules(metrics: dict[str, Any], tested: list[Line], smiles: list[str]) -> Evaluation:
    """The test table as an evaluation: labels and predictions of all targets, and the trained model's scores."""
    names = list(metrics["targets"])
    columns = [[[number(line.given.get(name, "")), number(line.predicted[name])] for name in names] for line in tested]
    values = np.array(columns, dtype=np.float64).reshape(len(tested), len(names), 2)
    scores: dict[str, Any] = next(iter(metrics["models"].values()), {})
    return Evaluation(
        name="trained model",
        store="",
        split="test",
        metrics={target: {score: of["value"] for score, of in scores.get(target, {}).items()} for target in names},
        baseline={},
        units={target: about["unit"] for target, about in metrics["targets"].items()},
        target=values[..., 0],
        prediction=values[..., 1],
        smiles=[drawable_text(text) for text in smiles],
        rows=[line.row for line in tested],
    )


def tested_smiles(folder: Path, tested: list[Line]) -> list[str]:
    """SMILES of the test molecules: from the run's store, whatever the table calls its column; of a run on a store from its table."""
    if not (folder / "store" / MANIFEST).is_file():
        return [line.given.get("smiles", "") for line in tested]
    store = Store(folder / "store")
    rows = {line.row for line in tested}
    places = [place for place, row in enumerate(store.source_row.tolist()) if str(row) in rows]
    found = {str(store.source_row[place]): smiles for place, smiles in smiles_of_store(store, places)}
    return [found.get(line.row, "") for line in tested]


def _intervals(metrics: dict[str, Any]) -> list[str]:
    """How many test labels the intervals hold."""
    if not metrics.get("coverage"):
        return []
    rows = [(name, "-" if share is None else f"{100 * share:.1f} %") for name, share in metrics["coverage"].items()]
    level = f"{100 * metrics['level']:g} %"
    note = html.note(f"Intervals of {level} were calibrated on validation molecules; this is how many test labels they hold.")
    return [html.section("Intervals", note, html.table(["target", f"in the {level} interval"], rows, numeric=(1,)))]


def _curves(folder: Path, seen: Evaluation) -> list[str]:
    """Learning curves of the members; a sentence for each log that cannot be read."""
    notes: list[str] = []
    logs = []
    for path in sorted((folder / "members").glob("*/train.log")):
        try:
            if (log := read_log(path, folder / "members", notes)) is not None:
                logs.append(log)
                continue
            notes.append(f"{path.parent.name}: its log holds no curve")
        except (UserError, OSError, ValueError) as error:
            notes.append(f"{path.parent.name}: its log cannot be read ({error})")
    more = [html.note(f"The first {MOST_CURVES} of {len(logs)} members.")] if len(logs) > MOST_CURVES else []
    header, rows = shown_settings([(log.name, log.settings) for log in logs])
    sections = [part.replace("<h2>Finetuning</h2>", "<h2>Learning curves</h2>") for part in finetuning_section(logs[:MOST_CURVES], [seen])]
    if rows:
        sections.append(html.section("Settings", *more, html.table(header, rows, name="settings of each member")))
    return sections + ([html.section("Not read", *map(html.note, notes))] if notes else [])


def _run(model: dict[str, Any], splits: dict[str, Any], metrics: dict[str, Any]) -> str:
    sizes = [(name, *(fold.get(split, 0) for split in ("train", "valid", "test"))) for name, fold in metrics["molecules"].items()]
    digest = hashlib.sha256(as_json(splits["folds"]).encode()).hexdigest()
    about = [
        ("data", ", ".join(f"{name} ({html.short_hash(digest)})" for name, digest in model["data"].items())),
        ("inputs", model["inputs"]),
        ("weights to begin with", model.get("weights") or "none"),
        ("hydrogens", str(model["hydrogens"])),
        ("split", ", ".join(f"{name} {value}" for name, value in splits["about"].items())),
        ("rows of the splits", f"hash {html.short_hash(digest)}"),
        ("members", ", ".join(member["name"] for member in model["members"][:20])),
        ("version", model["version_of_moleblend_fs"]),
    ]
    commands = '<p class="soft">The command of each member is in members/NAME/command.sh.</p>'
    return html.section(
        "Run", html.table(["what", "value"], about), html.table(["fold", "train", "valid", "test"], sizes, numeric=(1, 2, 3)), commands
    )


def _failures(folder: Path, targets: Sequence[str]) -> list[str]:
    """Rows that gave no molecule."""
    lines = read_lines(folder / "predictions_oof.csv", targets)
    bad = [(line.row, line.status) for line in lines if line.status.startswith("no molecule")]
    if not bad:
        return []
    more = f'<p class="soft">and {len(bad) - SHOWN_FAILURES} more</p>' if len(bad) > SHOWN_FAILURES else ""
    return [
        html.section(f"{counted(len(bad), 'row')} without a molecule", html.table(["row", "why"], bad[:SHOWN_FAILURES], numeric=(0,)), more)
    ]
