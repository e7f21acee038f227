"""Tables of scores (a line for each method and split) or of predictions (a line for each method, split and molecule) as score lines."""

import csv
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moleblend_fs.comparison.score_lines import COSTS, ScoreLine, named
from moleblend_fs.comparison.score_of_predictions import PRIMARY, hash_of, kind_of, scores_of
from moleblend_fs.errors import UserError
from moleblend_fs.sources.text import TextFile

COLUMNS = {
    "method": ("method", "model"),
    "dataset": ("dataset", "data", "set", "task"),
    "target": ("target", "endpoint"),
    "split": ("split", "cv_cycle"),
    "repeat": ("repeat", "cycle"),
    "fold": ("fold",),
    "seed": ("seed",),
    "metric": ("metric", "score"),
    "value": ("value",),
    "unit": ("unit",),
    "train": ("train", "n_train"),
    "test": ("test", "n_test"),
    "split_hash": ("split_hash",),
    "seconds": ("seconds", "train_seconds"),
    **{name: (name,) for name in COSTS if name != "seconds"},
    "molecule": ("id", "row", "molecule", "inchikey", "smiles"),
    "label": ("label", "true", "y_true", "measured", "y"),
    "prediction": ("prediction", "predicted", "y_pred"),
}
"""What a column holds -> the names that it may have, whatever their case."""
PAIRED_BY = ("split", "repeat", "fold")
NEEDED = {"scores": ("method", "metric", "value"), "predictions": ("method", "molecule", "label", "prediction")}
HELP = (
    "a table has a header and the columns method, metric, value, or method, id, label, prediction; and one or more of split, repeat, fold "
    "by which methods are paired (docs/compare.md)"
)
Row = tuple[int, dict[str, str]]
"""Number of the line in the file, from 1, and what each known column holds."""


def lines_of_file(path: Path, method: str = "") -> list[ScoreLine]:
    """All of a file.

    Args:
        method: of all lines, in place of the column.

    Raises:
        UserError: it cannot be read, lacks columns, or a row has no number where there should be one.
    """
    columns, rows = _read(path, method)
    kind = next((kind for kind, names in NEEDED.items() if set(names) <= columns), "")
    if not kind or not columns & set(PAIRED_BY):
        lacks = " or ".join(f"{', '.join(sorted(set(names) - columns)) or 'nothing'} for {kind}" for kind, names in NEEDED.items())
        paired = "" if columns & set(PAIRED_BY) else f"; and one of {', '.join(PAIRED_BY)}"
        raise UserError(f"{path}: no table of scores or predictions: it lacks {lacks}{paired}. {HELP[:1].upper() + HELP[1:]}")
    if not rows:
        raise UserError(f"{path}: a header and no rows")
    return [_score(path, row) for row in rows] if kind == "scores" else _of_predictions(path, rows)


def _read(path: Path, method: str) -> tuple[set[str], list[Row]]:
    """(which of `COLUMNS` there are, the rows)."""
    lines = list(TextFile(path).lines())
    if not lines or not lines[0].strip():
        raise UserError(f"{path}: no table: it is empty, or begins with an empty line")
    delimiter = max(",;\t", key=lines[0].count)
    try:
        table = list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}: no table ({error})") from error
    header = [name.strip().lower() for name in table[0]]
    place = {what: header.index(name) for what, names in COLUMNS.items() for name in reversed(names) if name in header}
    rows: list[Row] = []
    for number, cells in enumerate(table[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise UserError(f"{path}, line {number}: {len(cells)} cells, but the header has {len(header)}")
        row = {what: cells[i].strip() for what, i in place.items()}
        rows.append((number, row | ({"method": method} if method else {})))
    return set(place) | ({"method"} if method else set()), rows


def _number(path: Path, row: Row, column: str) -> float:
    text = row[1][column]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{path}, line {row[0]}: {column} {text!r} is not a finite number; a score that is not defined cannot be compared")
    return value


def _count(path: Path, row: Row, column: str) -> int:
    """A number of molecules; 0 where the cell is empty."""
    text = row[1].get(column, "")
    if text and not (text.isascii() and text.isdigit()):
        raise UserError(f"{path}, line {row[0]}: {column} {text!r} is not a number of molecules")
    return int(text or 0)


def _costs(path: Path, row: Row) -> dict[str, float]:
    """What the run cost, where that is said."""
    found = {}
    for name in COSTS:
        if text := row[1].get(name, ""):
            try:
                found[name] = float(text)
            except ValueError:
                found[name] = math.nan
            if not 0 <= found[name] < math.inf:
                raise UserError(f"{path}, line {row[0]}: {name} {text!r} is no cost: give a number from 0 on, or leave the cell empty")
    return found


def _filled(path: Path, row: Row, *columns: str) -> None:
    for column in columns:
        if not row[1][column]:
            raise UserError(f"{path}, line {row[0]}: no {column}")


def _of_set(path: Path, row: dict[str, str]) -> str:
    return ": ".join(text for text in (row.get("dataset") or path.stem, row.get("target", "")) if text)


def _split(row: dict[str, str]) -> str:
    """By what methods are paired: "3", or "repeat 0, fold 2"."""
    said = [(name, row[name]) for name in PAIRED_BY if row.get(name)]
    return said[0][1] if len(said) == 1 else ", ".join(f"{name} {text}" for name, text in said)


def _score(path: Path, row: Row) -> ScoreLine:
    cells = row[1]
    _filled(path, row, "method", "metric")
    if not (split := _split(cells)):
        raise UserError(f"{path}, line {row[0]}: none of {', '.join(PAIRED_BY)} is filled")
    return ScoreLine(
        method=cells["method"],
        dataset=_of_set(path, cells),
        split=split,
        metric=named(cells["metric"]),
        value=_number(path, row, "value"),
        unit=cells.get("unit", ""),
        seed=cells.get("seed", ""),
        train=_count(path, row, "train"),
        test=_count(path, row, "test"),
        split_into=cells.get("split_hash", ""),
        costs=_costs(path, row),
        where=f"{path}, line {row[0]}",
    )


def _of_predictions(path: Path, rows: Sequence[Row]) -> list[ScoreLine]:
    """Scores of each method on each split, over all targets; molecules are known by their names and labels."""
    groups: dict[tuple[str, str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        cells = row[1]
        _filled(path, row, "method", "molecule")
        if not (split := _split(cells)):
            raise UserError(f"{path}, line {row[0]}: none of {', '.join(PAIRED_BY)} is filled")
        groups[cells["method"], cells.get("dataset") or path.stem, split, cells.get("seed", "")].append(row)
    arrays = {key: _arrays(path, here) for key, here in groups.items()}
    kinds: dict[str, str] = {}
    for (_, dataset, _, _), (predictions, labels, _) in arrays.items():
        kind = kind_of(predictions, labels)
        kinds[dataset] = kind if kinds.get(dataset, kind) == kind else "regression"
    found = []
    for (method, dataset, split, seed), (predictions, labels, digest) in arrays.items():
        first, kind = groups[method, dataset, split, seed][0], kinds[dataset]
        values = scores_of(predictions, labels, kind)
        if PRIMARY[kind] not in values:
            raise UserError(f"{path}, from line {first[0]}: {PRIMARY[kind]} of {method!r} on split {split} is not defined by its labels")
        for metric, value in values.items():
            unit = first[1].get("unit", "") if metric in ("rmse", "mae") else ""
            found.append(
                ScoreLine(
                    method=method,
                    dataset=dataset,
                    split=split,
                    metric=metric,
                    value=value,
                    unit=unit,
                    seed=seed,
                    train=_count(path, first, "train"),
                    test=len(labels),
                    tested=digest,
                    where=f"{path}, line {first[0]}",
                )
            )
    return found


def _arrays(path: Path, rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray, str]:
    """((molecules, targets) predictions, labels, hash of molecules and labels), the same for any order of the rows."""
    targets = sorted({row[1].get("target", "") for row in rows})
    molecules = sorted({row[1]["molecule"] for row in rows})
    place = {name: i for i, name in enumerate(molecules)}
    predictions, labels = (np.full((len(molecules), len(targets)), np.nan) for _ in range(2))
    seen: set[tuple[int, int]] = set()
    for row in rows:
        at = place[row[1]["molecule"]], targets.index(row[1].get("target", ""))
        if at in seen:
            raise UserError(f"{path}, line {row[0]}: molecule {row[1]['molecule']!r} twice in one split of one method")
        seen.add(at)
        if row[1]["label"]:  # a target that was not measured
            labels[at] = _number(path, row, "label")
            predictions[at] = _number(path, row, "prediction")
    return predictions, labels, hash_of(targets, molecules, labels)
