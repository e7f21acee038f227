"""What metrics.json says of a run: scores of the models and of baselines, coverage of the intervals, and which is best."""

import math
from typing import Any

import numpy as np

from moleblend_fs.data.split_file import all_labels
from moleblend_fs.data.splits import TEST, TRAIN, VALID
from moleblend_fs.data.store import Store
from moleblend_fs.finetune import baselines
from moleblend_fs.finetune.data import Data
from moleblend_fs.finetune.folds import smiles_of
from moleblend_fs.finetune.predicting import FoldResult, not_learned
from moleblend_fs.finetune.progress import Progress
from moleblend_fs.finetune.scoring import HIGHER_IS_BETTER, INTERVALS, coverage, half_widths, score_folds
from moleblend_fs.finetune.settings import Settings
from moleblend_fs.predictions.calibration import TargetCalibration

MODEL_NAME = "moleblend"


def metrics_of(
    data: Data, folds: dict[str, Store], results: list[FoldResult], settings: Settings, *, jobs: int, progress: Progress
) -> dict[str, Any]:
    """The content of metrics.json."""
    names, kind = tuple(label.name for label in data.targets), data.targets[0].kind
    tested = [result for result in results if not np.isnan(result.test.labels).all()]
    metrics: dict[str, Any] = {
        "kind": kind,
        "targets": {label.name: {"kind": label.kind, "unit": label.unit} for label in data.targets},
        "score": INTERVALS[kind][0],
        "molecules": {name: {s: store.manifest.splits[s].molecules for s in (TRAIN, VALID, TEST)} for name, store in folds.items()},
        "level": settings.level,
        "not_learned": not_learned(results),
        "models": {},
    }
    once = np.unique(np.concatenate([r.test.indices for r in results]), return_index=True)[1]
    for name, labels in zip(names, np.concatenate([r.test.labels for r in results])[once].T, strict=True):
        metrics["targets"][name] |= tested_on(labels, kind)
    if kind == "classification":
        metrics["not_calibrated"] = [n for n, *of in zip(names, *(r.calibration for r in results), strict=True) if not all(map(fitted, of))]
    if not tested:
        return metrics | {"first_line": "there is no test split with labels: nothing was scored"}
    metrics["models"][MODEL_NAME] = score_folds([(r.test.indices, r.reported(), r.test.labels) for r in tested], names, kind, settings.seed)
    if kind == "regression":
        metrics["coverage"] = _coverage(tested, names, settings.level)
    said = {r.name: _baselines(data, folds[r.name], settings.seed, jobs) for r in tested}
    for name in baselines.NAMES[kind]:
        metrics["models"][name] = score_folds(
            [(r.test.indices, said[r.name][name], r.test.labels) for r in tested], names, kind, settings.seed
        )
    return metrics | compared(metrics)


def tested_on(labels: np.ndarray, kind: str) -> dict[str, int]:
    """How many test molecules have a label of a target, and of class 1 where these are classes."""
    known = labels[~np.isnan(labels)]
    return {"tested": len(known)} | ({"of_class_1": int(known.sum())} if kind == "classification" else {})


def fitted(calibration: TargetCalibration) -> bool:
    """Whether probabilities are calibrated: see `scoring.platt`."""
    return (calibration.slope, calibration.intercept) != (1.0, 0.0)


def _coverage(tested: list[FoldResult], names: tuple[str, ...], level: float) -> dict[str, float | None]:
    """Share of test labels within their intervals, which were calibrated on validation molecules."""
    halves, predictions, labels = [], [], []
    for r in tested:
        halves.append(half_widths(r.test.std, r.calibration, level, members=len(r.members)))
        predictions.append(r.reported())
        labels.append(r.test.labels)
    return dict(zip(names, coverage(*map(np.concatenate, (predictions, halves, labels))), strict=True))


def _baselines(data: Data, store: Store, seed: int, jobs: int) -> dict[str, np.ndarray]:
    columns = [store.manifest.label_index(label.name) for label in data.targets]
    bits = {split: baselines.fingerprints(smiles_of(store, store.split(split))) for split in (TRAIN, VALID, TEST)}
    labels = {split: all_labels(store, store.split(split))[:, columns] for split in (TRAIN, VALID)}
    return baselines.predictions(bits, labels, data.targets[0].kind, seed=seed, jobs=jobs)


def compared(metrics: dict[str, Any]) -> dict[str, Any]:
    """The best model by the first score, and a sentence that says so first where a baseline wins."""
    score = metrics["score"]
    said, values = _over_targets(metrics)
    own = values[MODEL_NAME]
    if own is not None and not math.isfinite(own):
        return {"best": None, "first_line": f"no {score}: some predictions of test molecules are not finite; a smaller --lr may help"}
    known = {name: value for name, value in values.items() if value is not None}
    if MODEL_NAME not in known:
        return {"best": None, "first_line": f"{score} is not defined on the test molecules (of classes it needs both)"}
    best = (max if HIGHER_IS_BETTER[score] else min)(known, key=lambda name: known[name])
    if best != MODEL_NAME:
        sentence = f"a baseline wins: {best} has test {said} {known[best]:.4g}, the trained model {known[MODEL_NAME]:.4g}"
        return {"best": best, "first_line": sentence}
    others = {name: value for name, value in known.items() if name != MODEL_NAME}
    second = (max if HIGHER_IS_BETTER[score] else min)(others, key=lambda name: others[name]) if others else None
    rest = "" if second is None else f", better than every baseline (best of them: {second}, {others[second]:.4g})"
    return {"best": MODEL_NAME, "first_line": f"test {said} {known[MODEL_NAME]:.4g}{rest}"}


def _over_targets(metrics: dict[str, Any]) -> tuple[str, dict[str, float | None]]:
    """(what is compared, its value for each model): the mean over the targets. Of quantities in several units, or in none that is known,
    shares of what the constant baseline has, as the one with the largest numbers would decide alone."""
    score, models = metrics["score"], metrics["models"]
    units = {target.get("unit", "") for target in metrics.get("targets", {}).values()}
    constant = models.get(baselines.NAMES["regression"][0])
    if len(metrics.get("targets", {})) < 2 or constant is None or (len(units) == 1 and units != {""}):
        return score, {name: of["mean"][score].get("value") for name, of in models.items()}
    least = {name: constant[name][score].get("value") for name in metrics["targets"]}
    scaled = [name for name, value in least.items() if value]
    values: dict[str, float | None] = {}
    for model, of in models.items():
        own = [of[name][score].get("value") for name in scaled]
        known = [value / least[name] for name, value in zip(scaled, own, strict=True) if value is not None]
        values[model] = float(np.mean(known)) if known else None
    return f"{score} as a share of the constant's (mean over the targets)", values
