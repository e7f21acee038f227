"""What finished runs left behind: fairseq's JSON logs and the results of `moleblend evaluate`."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from moleblend_fs.data.manifest import Manifest
from moleblend_fs.data.store import MANIFEST
from moleblend_fs.errors import UserError
from moleblend_fs.files import resolved

VARIANTS = ("scratch", "pretrained")
"""Runs whose folder names differ only by one of these endings (after "_") are compared side by side."""

Curve = tuple[np.ndarray, np.ndarray]
"""Updates (n,) and values (n,)."""


def split_name(name: str) -> tuple[str, str]:
    """("gap_2d", "scratch") of a run called gap_2d_scratch; the second is "" for names without such an ending."""
    stem, _, ending = name.rpartition("_")
    return (stem, ending) if stem and ending in VARIANTS else (name, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLog:
    """The curves of one training run.

    Attributes:
        name: the log's folder, relative to the folder of runs.
        train: quantity -> values at every log interval.
        valid: quantity -> values at every validation.
    """

    name: str
    train: dict[str, Curve]
    valid: dict[str, Curve]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One file written by `moleblend evaluate --json`.

    Attributes:
        name: the file's folder, relative to the folder of runs.
        store: path of the store.
        split: which split was scored.
        metrics: target -> metric -> value, None where it is not defined.
        baseline: target -> metric -> value of the predictor that always says the training mean.
        units: target -> unit; "" where it is not known.
        target, prediction: (molecules, targets), NaN where missing.
    """

    name: str
    store: str
    split: str
    metrics: dict[str, dict[str, float | None]]
    baseline: dict[str, dict[str, float | None]]
    units: dict[str, str] = field(default_factory=dict)
    target: np.ndarray
    prediction: np.ndarray

    @property
    def variant(self) -> tuple[str, str]:
        """See `split_name`."""
        return split_name(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """All that was found under one folder, sorted by name."""

    folder: Path
    logs: list[TrainingLog]
    evaluations: list[Evaluation]

    @property
    def stores(self) -> list[Path]:
        """Stores under the folder, and those that the evaluations name, as far as they still exist."""
        found = [path.parent for path in sorted(self.folder.rglob(MANIFEST))]
        found += [Path(evaluation.store) for evaluation in self.evaluations]
        return list(dict.fromkeys(resolved(path) for path in found if (path / MANIFEST).is_file()))


def find_runs(folder: Path) -> Runs:
    """Read every log (*.log, *.jsonl) and evaluation (*.json) under a folder; files of other kinds are passed over."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder that holds the runs' save folders")
    logs = [log for path in sorted([*folder.rglob("*.log"), *folder.rglob("*.jsonl")]) if (log := read_log(path, folder))]
    evaluations = [result for path in sorted(folder.rglob("*.json")) if (result := read_evaluation(path, folder))]
    if not logs and not evaluations:
        raise UserError(
            f"{folder}: neither a training log (fairseq-train --log-format json --log-file RUN/train.log) "
            "nor a result (moleblend evaluate --json RUN/test.json) was found"
        )
    logs.sort(key=lambda log: split_name(log.name))
    evaluations.sort(key=lambda evaluation: evaluation.variant)
    return Runs(folder=folder, logs=logs, evaluations=evaluations)


def read_log(path: Path, root: Path) -> TrainingLog | None:
    """The curves in one log file, or None if it holds none.

    fairseq's log file has plain lines between the JSON ones, and adds one more handler at each epoch, so that lines come
    once, twice, three times ...; a resumed run appends. Of several values at one update the last is kept.
    """
    train: dict[str, dict[int, float]] = {}
    valid: dict[str, dict[int, float]] = {}
    for entry in json_lines(path):
        if "valid_num_updates" in entry:
            updates, kind, prefix = entry["valid_num_updates"], valid, "valid_"
        elif "num_updates" in entry:
            updates, kind, prefix = entry["num_updates"], train, ""
        else:
            continue
        for name, text in entry.items():
            value = number(text)
            if name.startswith(prefix) and value is not None:
                kind.setdefault(name.removeprefix(prefix), {})[int(float(updates))] = value
    if not train and not valid:
        return None
    return TrainingLog(name=run_name(path, root), train=curves(train), valid=curves(valid))


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file that are JSON objects."""
    with open(path, errors="replace") as stream:
        for line in stream:
            line = line[line.find("{") :].strip() if "{" in line else ""
            if line.endswith("}"):
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if isinstance(entry, dict):
                    yield entry


def number(text: Any) -> float | None:
    """A finite number, or None."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def curves(values: dict[str, dict[int, float]]) -> dict[str, Curve]:
    """Points sorted by update."""
    return {name: (np.array(sorted(points)), np.array([points[u] for u in sorted(points)])) for name, points in values.items()}


def run_name(path: Path, root: Path) -> str:
    """A file's folder relative to the root, or the file's own name at the root itself."""
    folder = path.parent.relative_to(root)
    return path.stem if folder == Path() else folder.as_posix()


def read_evaluation(path: Path, root: Path) -> Evaluation | None:
    """One result file, or None if the file is some other JSON."""
    try:
        raw = json.loads(path.read_text())
    except ValueError:
        return None
    if not isinstance(raw, dict) or not {"store", "split", "metrics", "predictions"} <= set(raw):
        return None
    rows = raw["predictions"]

    def column(name: str) -> np.ndarray:
        return np.array([[math.nan if x is None else x for x in row[name]] for row in rows], dtype=np.float64)

    return Evaluation(
        name=run_name(path, root),
        store=raw["store"],
        split=raw["split"],
        metrics=raw["metrics"],
        baseline=raw.get("baseline", {}),
        units=raw.get("units") or units_of(Path(raw["store"])),
        target=column("target"),
        prediction=column("prediction"),
    )


def units_of(store: Path) -> dict[str, str]:
    """Label -> unit of a store; nothing if it has gone."""
    manifest = store / MANIFEST
    return {label.name: label.unit for label in Manifest.load(manifest).labels} if manifest.is_file() else {}
