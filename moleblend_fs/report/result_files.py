"""Files written by `moleblend evaluate --json`: scores, and the predictions behind them."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from moleblend_fs.data.manifest import Manifest
from moleblend_fs.data.store import MANIFEST
from moleblend_fs.data.typed_json import READING, from_json, read_json
from moleblend_fs.errors import UserError
from moleblend_fs.report.drawable_values import drawable_number, drawable_text, run_name, split_name

ABOUT = ("checkpoint", "updates", "inputs", "split_sha256")
"""Fields of a file that say what the whole of it is about."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
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
        smiles: of each molecule; "" where it is not told. rows: of each in the source, or what stands for it.
        about: those of `ABOUT` that the file has, as texts.
    """

    name: str
    store: str
    split: str
    metrics: dict[str, dict[str, float | None]]
    baseline: dict[str, dict[str, float | None]]
    units: dict[str, str] = field(default_factory=dict)
    target: np.ndarray
    prediction: np.ndarray
    smiles: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)

    @property
    def variant(self) -> tuple[str, str]:
        """See `split_name`."""
        return split_name(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    """The parts of a result file that are shown; see `Evaluation`."""

    store: str
    split: str
    metrics: dict[str, dict[str, float | None]]
    predictions: list[dict[str, Any]]
    baseline: dict[str, dict[str, float | None]] = field(default_factory=dict)
    units: dict[str, str] | None = None
    checkpoint: str = ""
    updates: int | None = None
    inputs: str = ""
    split_sha256: str = ""


def read_evaluation(path: Path, root: Path, notes: list[str] | None = None) -> Evaluation | None:
    """One result file, or None if the file is some other JSON.

    Raises:
        UserError: a result file whose parts are not what they should be.
    """
    try:
        raw = read_json(path)
    except READING as error:
        raise UserError(f"not readable as JSON: {error}") from error
    if not isinstance(raw, dict) or not {"store", "split", "metrics", "predictions"} <= set(raw):
        return None
    fields = {name: raw[name] for name in _Result.__dataclass_fields__ if raw.get(name) is not None}
    result = from_json(_Result, fields)

    def column(name: str) -> np.ndarray:
        values = [[math.nan if (x := drawable_number(value)) is None else x for value in row[name]] for row in result.predictions]
        if any(len(row) != len(result.metrics) for row in values):
            raise UserError(f"rows of {name!r} of another length than there are metrics")
        return np.array(values, dtype=np.float64).reshape(-1, len(result.metrics))

    try:
        target, prediction = column("target"), column("prediction")
    except (KeyError, TypeError) as error:
        raise UserError(f"predictions without a target or prediction ({error})") from error
    return Evaluation(
        name=run_name(path, root),
        store=result.store,
        split=drawable_text(result.split),
        metrics=_cleaned(result.metrics),
        baseline=_cleaned(result.baseline),
        units={drawable_text(name): drawable_text(unit) for name, unit in (result.units or units_of(Path(result.store))).items()},
        target=target,
        prediction=prediction,
        smiles=[drawable_text(str(row.get("smiles") or "")) for row in result.predictions],
        rows=[drawable_text(str(row.get("id", ""))) for row in result.predictions],
        about={name: drawable_text(str(fields[name])) for name in ABOUT if name in fields},
    )


def _cleaned(scores: dict[str, dict[str, float | None]]) -> dict[str, dict[str, float | None]]:
    return {drawable_text(target): {name: drawable_number(value) for name, value in metrics.items()} for target, metrics in scores.items()}


def units_of(store: Path) -> dict[str, str]:
    """Label -> unit of a store; empty where the store is gone or cannot be read."""
    try:
        return {label.name: label.unit for label in Manifest.load(store / MANIFEST).labels}
    except UserError:
        return {}
