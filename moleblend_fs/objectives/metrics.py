"""Scores of predictions, as MoleculeNet, QM9 and PCQM4Mv2 report them."""

from collections.abc import Callable

import numpy as np
from sklearn.metrics import roc_auc_score


def roc_auc(score: np.ndarray, label: np.ndarray) -> float | None:
    """Area under the ROC curve of one task over its present labels (NaN = missing); None unless both classes are present."""
    present = ~np.isnan(label)
    truth = label[present]
    if len(np.unique(truth)) != 2:
        return None
    return float(roc_auc_score(truth, score[present]))


def mae(prediction: np.ndarray, label: np.ndarray) -> float | None:
    """Mean absolute error over present labels; None if there is none."""
    present = ~np.isnan(label)
    return float(np.abs(prediction[present] - label[present]).mean()) if present.any() else None


def rmse(prediction: np.ndarray, label: np.ndarray) -> float | None:
    """Root mean squared error over present labels; None if there is none."""
    present = ~np.isnan(label)
    return float(np.sqrt(np.square(prediction[present] - label[present]).mean())) if present.any() else None


def r2(prediction: np.ndarray, label: np.ndarray) -> float | None:
    """Coefficient of determination over present labels; None unless they vary."""
    present = ~np.isnan(label)
    truth = label[present]
    if len(truth) < 2 or np.ptp(truth) == 0:
        return None
    return float(1 - np.square(prediction[present] - truth).sum() / np.square(truth - truth.mean()).sum())


SCORES: dict[str, dict[str, Callable[[np.ndarray, np.ndarray], float | None]]] = {
    "classification": {"roc_auc": roc_auc},
    "regression": {"mae": mae, "rmse": rmse, "r2": r2},
}


def scores(prediction: np.ndarray, label: np.ndarray, names: tuple[str, ...], kind: str) -> dict[str, dict[str, float | None]]:
    """Scores of each target.

    Args:
        prediction: (molecules, targets), logits or values in the targets' units.
        label: (molecules, targets), NaN where missing.
        names: the targets. kind: "classification" or "regression".

    Returns:
        target -> score name -> value, None where it is not defined.
    """
    columns = zip(names, prediction.astype(np.float64).T, label.astype(np.float64).T, strict=True)
    return {name: {score: function(p, t) for score, function in SCORES[kind].items()} for name, p, t in columns}


def average(per_target: dict[str, dict[str, float | None]], score: str) -> float | None:
    """Mean of a score over the targets for which it is defined; None if there is none."""
    defined = [value for row in per_target.values() if (value := row[score]) is not None]
    return float(np.mean(defined)) if defined else None
