"""Scores of predictions: the mean over targets of each score that their labels define."""

import numpy as np

from moleblend_fs.objectives.common.metrics import average, scores

PRIMARY = {"regression": "rmse", "classification": "roc_auc"}
"""The score by which methods are compared where none is asked for."""
SURE = 1e-12
"""Probabilities are kept so far from 0 and 1 that their logits are finite."""


def kind_of(predictions: np.ndarray, labels: np.ndarray) -> str:
    """Classification where all labels are 0 or 1 and all predictions probabilities."""
    known = labels[~np.isnan(labels)]
    said = predictions[~np.isnan(predictions)]
    is_classes = len(known) > 0 and np.isin(known, (0, 1)).all() and ((said >= 0) & (said <= 1)).all()
    return "classification" if is_classes else "regression"


def scores_of(predictions: np.ndarray, labels: np.ndarray, kind: str) -> dict[str, float]:
    """Score -> mean over the targets for which it is defined and a number.

    Args:
        predictions: (molecules, targets), values or probabilities of class 1.
        labels: (molecules, targets), NaN where missing.
    """
    if kind == "classification":
        kept = np.clip(predictions, SURE, 1 - SURE)
        predictions = np.log(kept / (1 - kept))
    names = tuple(map(str, range(labels.shape[1])))
    found = scores(predictions, labels, names, kind)
    values = {metric: average(found, metric) for metric in found[names[0]]}
    return {metric: value for metric, value in values.items() if value is not None and np.isfinite(value)}
