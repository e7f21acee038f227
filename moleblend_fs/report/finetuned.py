"""report.html of a folder of `moleblend finetune`: scores beside those of baselines, parity, calibration, rows that were left out."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from moleblend_fs.data.typed_json import READING, read_json
from moleblend_fs.errors import UserError
from moleblend_fs.files import write_atomically
from moleblend_fs.report import html
from moleblend_fs.report.drawable import drawable_text
from moleblend_fs.wording import counted

SHOWN_FAILURES = 50
"""Rows without a molecule that the page lists; the tables have all."""
MOST_PANELS = 12
"""Targets that are drawn."""


def write_page(folder: Path) -> None:
    """Write the page from the folder's own files."""
    try:
        metrics, model, splits = (read_json(folder / name) for name in ("metrics.json", "model.json", "splits.json"))
    except READING as error:
        raise UserError(f"{folder}: no finished run of `moleblend finetune` ({error})") from error
    with open(folder / "predictions_test.csv", newline="", encoding="utf-8") as stream:
        tested = list(csv.DictReader(stream))
    body = [results(metrics), *_pictures(metrics, tested), _run(model, splits, metrics), *_failures(folder)]
    subtitle = html.escape(metrics["first_line"][:1].upper() + metrics["first_line"][1:]) + "."
    write_atomically(folder / "report.html", html.page(f"Finetuned: {', '.join(metrics['targets'])[:120]}", subtitle, body))


def cell(score: dict[str, Any] | None) -> str:
    """A score with its interval."""
    if not score or score.get("value") is None:
        return "-"
    interval = f" ({score['low']:.3f} to {score['high']:.3f})" if score.get("low") is not None else ""
    return f"{score['value']:.4f}{interval}"


def results(metrics: dict[str, Any]) -> str:
    """A table for the mean over targets, and one for each target where there are several."""
    if not metrics["models"]:
        return html.section("Results", "<p>No test molecules with labels.</p>")
    parts = []
    for target in ["mean"] if len(metrics["targets"]) > 1 else []:
        parts.append(f"<h3>Mean over {len(metrics['targets'])} targets</h3>" + _table(metrics, target))
    for target, about in metrics["targets"].items():
        unit = f" ({about['unit']})" if about["unit"] else ""
        parts.append(f"<h3>{html.escape(target + unit)}</h3>" + _table(metrics, target))
    note = (
        '<p class="soft">Of test molecules; in brackets 95 % intervals by bootstrap over molecules. Baselines were fitted on the same '
        "training molecules.</p>"
    )
    return html.section("Results", note, *parts)


def _table(metrics: dict[str, Any], target: str) -> str:
    models = metrics["models"]
    names = list(next(iter(models.values()))[target])
    rows = [[name, *(cell(of[target][score]) for score in names)] for name, of in models.items()]
    strong = [place for place, name in enumerate(models) if name == metrics.get("best")]
    return html.table(["model", *names], rows, numeric=range(1, len(names) + 1), strong=strong)


def _pictures(metrics: dict[str, Any], tested: list[dict[str, str]]) -> list[str]:
    """Predicted over measured values of the test molecules; coverage of the intervals."""
    if metrics["kind"] != "regression" or not metrics["models"]:
        return []
    from moleblend_fs.report.charts import scatter

    panels = []
    for target in list(metrics["targets"])[:MOST_PANELS]:
        shown = [row for row in tested if row.get(f"{target} (predicted)")]
        points = np.array([[_number(row[target]), _number(row[f"{target} (predicted)"])] for row in shown], dtype=np.float64).reshape(-1, 2)
        known = np.asarray(np.isfinite(points).all(axis=1))
        points, titles = points[known], [_title(row, target) for row, kept in zip(shown, known.tolist(), strict=True) if kept]
        if len(points):
            picture = scatter(points[:, 0], points[:, 1], target, metrics["targets"][target]["unit"], titles=titles)
            panels.append(html.figure(picture, target, counted(len(points), "molecule")))
    covered = metrics.get("coverage", {})
    rows = [(name, "-" if share is None else f"{100 * share:.1f} %") for name, share in covered.items()]
    level = f"{100 * metrics['level']:g} %"
    note = f'<p class="soft">Intervals of {level} were calibrated on validation molecules; this is how many test labels they hold.</p>'
    return [
        html.section("Predicted and measured", html.charts(panels)),
        html.section("Intervals", note, html.table(["target", f"in the {level} interval"], rows, numeric=(1,))),
    ]


def _title(row: dict[str, str], target: str) -> str:
    """What is said of a point: the molecule, where a column is called SMILES, its row, and both values."""
    smiles = next((text for name, text in row.items() if name and name.strip().lower() == "smiles"), "")
    values = f"{row[target]}, predicted {row[f'{target} (predicted)']}"
    return drawable_text(f"{str(smiles)[:200]} (row {row.get('row', '?')}): {values}")


def _number(text: str) -> float:
    try:
        return float(text.replace(",", "."))
    except (ValueError, AttributeError):
        return float("nan")


def _run(model: dict[str, Any], splits: dict[str, Any], metrics: dict[str, Any]) -> str:
    sizes = [(name, *(fold.get(split, 0) for split in ("train", "valid", "test"))) for name, fold in metrics["molecules"].items()]
    about = [
        ("data", ", ".join(f"{name} ({digest[:19]})" for name, digest in model["data"].items())),
        ("inputs", model["inputs"]),
        ("hydrogens", str(model["hydrogens"])),
        ("split", ", ".join(f"{name} {value}" for name, value in splits["about"].items())),
        ("members", ", ".join(member["name"] for member in model["members"][:20])),
        ("version", model["version_of_moleblend_fs"]),
    ]
    commands = '<p class="soft">The command of each member is in members/NAME/command.sh.</p>'
    return html.section(
        "Run", html.table(["what", "value"], about), html.table(["fold", "train", "valid", "test"], sizes, numeric=(1, 2, 3)), commands
    )


def _failures(folder: Path) -> list[str]:
    """Rows that gave no molecule."""
    with open(folder / "predictions_oof.csv", newline="", encoding="utf-8") as stream:
        bad = [(row["row"], row["status"]) for row in csv.DictReader(stream) if row["status"].startswith("no molecule")]
    if not bad:
        return []
    more = f'<p class="soft">and {len(bad) - SHOWN_FAILURES} more</p>' if len(bad) > SHOWN_FAILURES else ""
    return [
        html.section(f"{counted(len(bad), 'row')} without a molecule", html.table(["row", "why"], bad[:SHOWN_FAILURES], numeric=(0,)), more)
    ]
