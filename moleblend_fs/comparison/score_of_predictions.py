"""Scores of predictions: the mean over targets of each score that their labels define."""

import hashlib
from collections.abc import Sequence

import numpy as np

from moleblend_fs.files import as_json
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


def hash_of(targets: Sequence[str], molecules: Sequence[str], labels: np.ndarray) -> str:
    """SHA-256 of test molecules, by their names, and of what was measured of them, the same for any order of either.

    Args:
        targets: names, which count where there are several. labels: (molecules, targets), NaN where missing.
    """
    order, by_name = np.argsort(np.array(targets)), np.argsort(np.array(molecules))
    said = [[molecules[i], [None if np.isnan(value) else value for value in labels[i, order].tolist()]] for i in by_name]
    return hashlib.sha256(as_json([sorted(targets) if len(targets) > 1 else [], said]).encode()).hexdigest()
