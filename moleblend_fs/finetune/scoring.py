"""Scores with bootstrap intervals, over one split or the mean of several, and calibration on molecules that no member was trained on."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from moleblend_fs.data.logits import probability
from moleblend_fs.objectives.common.metrics import average, scores
from moleblend_fs.predictions.calibration import TargetCalibration

RESAMPLES = {"regression": 1000, "classification": 200}
INTERVALS = {"regression": ("rmse", "mae", "r2"), "classification": ("roc_auc", "pr_auc")}
"""Scores that have an interval; the first is the one by which models are compared."""
HIGHER_IS_BETTER = {"rmse": False, "mae": False, "r2": True, "roc_auc": True, "pr_auc": True}
MEAN = "mean"
"""What stands for the mean over the targets among them."""
FEWEST_OF_A_CLASS = 10
"""Molecules of each class that calibration of probabilities needs."""
FEWEST_DRAWN = 3
"""Molecules that an interval needs: of one it would be the value itself, of two it ends at theirs."""
LEAST_DEFINED = 0.9
"""Share of the resamples that must define a score for an interval: of the others it would be another score's."""
Tested = tuple[np.ndarray, np.ndarray, np.ndarray]
"""(numbers, predictions, labels) of one fold's test molecules: (n,), (n, targets) logits for classes, (n, targets) NaN where missing."""
Scores = dict[str, dict[str, float | None]]
"""Target -> score -> value, None where the labels do not define it."""


def score_folds(folds: Sequence[Tested], names: tuple[str, ...], kind: str, seed: int) -> dict[str, dict[str, Any]]:
    """Target (and "mean" over targets) -> score -> {"value", "low", "high"}.

    Values are means over the folds. The 95 % interval is the percentile bootstrap over molecules: each is drawn as often in every fold
    that tests it, all targets together. None where the labels do not define a score; no interval of fewer than `FEWEST_DRAWN` molecules.
    """
    parts = [scores(p, t, names, kind) for _, p, t in folds]
    drawn: dict[tuple[str, str], list[float]] = defaultdict(list)
    for resampled in _resamples(folds, names, kind, seed):
        for target, row in _mean_over_folds(resampled, names).items():
            for score, number in row.items():
                if number is not None and _defined_alike(resampled, parts, names if target == MEAN else (target,), score):
                    drawn[target, score].append(number)
    least = LEAST_DEFINED * RESAMPLES[kind]
    return {
        target: {score: _with_interval(number, drawn[target, score], least) for score, number in row.items()}
        for target, row in _mean_over_folds(parts, names).items()
    }


def _resamples(folds: Sequence[Tested], names: tuple[str, ...], kind: str, seed: int) -> Iterator[list[Scores]]:
    """The folds' scores, of molecules drawn with replacement among all that are tested."""
    molecules, places = np.unique(np.concatenate([numbers for numbers, *_ in folds]), return_inverse=True)
    if len(molecules) < FEWEST_DRAWN:
        return
    of_folds = np.split(places, np.cumsum([len(numbers) for numbers, *_ in folds])[:-1])
    generator = np.random.Generator(np.random.PCG64(seed))
    for _ in range(RESAMPLES[kind]):
        times = np.bincount(generator.integers(len(molecules), size=len(molecules)), minlength=len(molecules))
        rows = [np.repeat(np.arange(len(place)), times[place]) for place in of_folds]
        yield [scores(p[own], t[own], names, kind, INTERVALS[kind]) for (_, p, t), own in zip(folds, rows, strict=True)]


def _defined_alike(resampled: Sequence[Scores], parts: Sequence[Scores], targets: tuple[str, ...], score: str) -> bool:
    """Whether a score is defined of all targets and folds of which it is defined without resampling."""
    pairs = [(again[target][score], part[target][score]) for again, part in zip(resampled, parts, strict=True) for target in targets]
    return all(again is not None for again, first in pairs if first is not None)


def _with_interval(value: float | None, drawn: list[float], least: float) -> dict[str, float | None]:
    if value is None or len(drawn) < least:
        return {"value": value}
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"value": value, "low": float(low), "high": float(high)}


def _mean_over_folds(parts: Sequence[Scores], names: tuple[str, ...]) -> Scores:
    result: Scores = {}
    for name in names:
        result[name] = {score: _mean([part[name][score] for part in parts]) for score in parts[0][name]}
    result[MEAN] = {score: average(result, score) for score in parts[0][names[0]]}
    return result


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def calibrate(prediction: np.ndarray, std: np.ndarray, label: np.ndarray, kind: str, *, scaled: bool) -> list[TargetCalibration]:
    """Of each target, from molecules that the members were not trained on.

    Args:
        prediction, std, label: (n, targets): the members' mean (logits for classes) and spread; NaN where a label is missing.
        scaled: whether residuals are also given over the spread.
    """
    return [_of_target(p, s, y, kind, scaled=scaled) for p, s, y in zip(prediction.T, std.T, label.T, strict=True)]


def _of_target(prediction: np.ndarray, std: np.ndarray, label: np.ndarray, kind: str, *, scaled: bool) -> TargetCalibration:
    known = ~np.isnan(label) & np.isfinite(prediction)
    prediction, std, label = prediction[known], std[known], label[known]
    if kind == "classification":
        slope, intercept = platt(prediction, label)
        return TargetCalibration(kind="classification", slope=slope, intercept=intercept)
    absolute = np.sort(np.abs(label - prediction))
    if not scaled or not len(absolute):
        return TargetCalibration(kind="regression", absolute_residuals=tuple(absolute.tolist()))
    floor = float(np.median(absolute)) or 1e-6
    relative = np.sort(np.abs(label - prediction) / (std + floor))
    return TargetCalibration(
        kind="regression", absolute_residuals=tuple(absolute.tolist()), scaled_residuals=tuple(relative.tolist()), std_floor=floor
    )


def platt(logit: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """(slope, intercept) of Platt's scaling; 1 and 0 where there are too few molecules of a class, or more would be turned around."""
    if min(np.sum(label == 0), np.sum(label == 1)) < FEWEST_OF_A_CLASS:
        return 1.0, 0.0
    model = LogisticRegression(C=1.0).fit(logit[:, None], label)
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    return (slope, intercept) if slope > 0 else (1.0, 0.0)


def calibrated(prediction: np.ndarray, of_targets: Sequence[TargetCalibration]) -> np.ndarray:
    """(n, targets) predictions as they are reported: values, or calibrated logits."""
    return prediction * np.array([each.slope for each in of_targets]) + np.array([each.intercept for each in of_targets])


def half_widths(std: np.ndarray, of_targets: Sequence[TargetCalibration], level: float, *, members: int) -> np.ndarray:
    """(n, targets) half the width of each prediction's interval; NaN for classes, and where there are too few residuals."""
    found = [each.half_width(std[:, i], level, members=members) if each.kind == "regression" else None for i, each in enumerate(of_targets)]
    return np.stack([np.full(len(std), np.nan) if width is None else width for width in found], axis=1)


def shown(prediction: np.ndarray, kind: str) -> np.ndarray:
    """Values, or probabilities of class 1."""
    return probability(prediction) if kind == "classification" else prediction


def coverage(prediction: np.ndarray, half: np.ndarray, label: np.ndarray) -> list[float | None]:
    """Share of the labels of each target that lie in their intervals; None where there is none."""
    inside = np.abs(label - prediction) <= half
    known = ~np.isnan(label) & ~np.isnan(half)
    return [float(i[k].mean()) if k.any() else None for i, k in zip(inside.T, known.T, strict=True)]
