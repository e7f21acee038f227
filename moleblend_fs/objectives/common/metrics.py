"""Scores of predictions, as MoleculeNet, QM9 and PCQM4Mv2 report them."""

from collections.abc import Callable, Collection

import numpy as np

Score = Callable[[np.ndarray, np.ndarray], float | None]
"""(logits or values, labels; NaN = missing) of one target -> its score, or None where the labels do not define it."""


def of_both_classes(function: Callable[[np.ndarray, np.ndarray], float]) -> Score:
    """A score of (labels, logits) that needs molecules of both classes; NaN where a logit is not finite."""

    def score(logit: np.ndarray, label: np.ndarray) -> float | None:
        present = ~np.isnan(label)
        truth, chosen = label[present], logit[present]
        if len(np.unique(truth)) != 2:
            return None
        return float(function(truth, chosen)) if np.isfinite(chosen).all() else float("nan")

    return score


def of_sklearn(name: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """A function of (labels, predictions) of sklearn.metrics, which takes a second to import: only where it is called."""

    def function(truth: np.ndarray, predicted: np.ndarray) -> float:
        from sklearn import metrics

        return getattr(metrics, name)(truth, predicted)

    return function


def of_decisions(function: Callable[[np.ndarray, np.ndarray], float]) -> Score:
    """A score of (labels, predicted classes), where a probability over 0.5, that is a logit over 0, is class 1."""
    return of_both_classes(lambda truth, logit: function(truth, (logit > 0).astype(np.float64)))


roc_auc = of_both_classes(of_sklearn("roc_auc_score"))
"""Area under the ROC curve."""
pr_auc = of_both_classes(of_sklearn("average_precision_score"))
"""Average precision: area under the curve of precision and recall, without interpolation."""
balanced_accuracy = of_decisions(of_sklearn("balanced_accuracy_score"))
"""Mean of the shares of each class that are predicted right."""
f1 = of_decisions(of_sklearn("f1_score"))
"""Harmonic mean of precision and recall of class 1."""
mcc = of_decisions(of_sklearn("matthews_corrcoef"))
"""Matthews' correlation coefficient of labels and predicted classes."""


def log_loss(logit: np.ndarray, label: np.ndarray) -> float | None:
    """Mean of -log(predicted probability of the true class), nats, from the logits, so that it is exact for any; None without labels."""
    present = ~np.isnan(label)
    wrong_way = np.where(label[present] > 0.5, -logit[present], logit[present])
    with np.errstate(invalid="ignore"):  # of logits that are no numbers: neither is the loss
        return float(np.logaddexp(0, wrong_way).mean()) if present.any() else None


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


SCORES: dict[str, dict[str, Score]] = {
    "classification": {
        "roc_auc": roc_auc,
        "pr_auc": pr_auc,
        "balanced_accuracy": balanced_accuracy,
        "f1": f1,
        "mcc": mcc,
        "log_loss": log_loss,
    },
    "regression": {"mae": mae, "rmse": rmse, "r2": r2},
}


def scores(
    prediction: np.ndarray, label: np.ndarray, names: tuple[str, ...], kind: str, only: Collection[str] | None = None
) -> dict[str, dict[str, float | None]]:
    """Scores of each target.

    Args:
        prediction: (molecules, targets), logits or values in the targets' units.
        label: (molecules, targets), NaN where missing.
        names: the targets. kind: "classification" or "regression".
        only: compute no others than these.

    Returns:
        target -> score name -> value, None where it is not defined.
    """
    columns = zip(names, prediction.astype(np.float64).T, label.astype(np.float64).T, strict=True)
    chosen = {score: function for score, function in SCORES[kind].items() if only is None or score in only}
    return {name: {score: function(p, t) for score, function in chosen.items()} for name, p, t in columns}


def average(per_target: dict[str, dict[str, float | None]], score: str) -> float | None:
    """Mean of a score over the targets for which it is defined; None if there is none."""
    defined = [value for row in per_target.values() if (value := row[score]) is not None]
    return float(np.mean(defined)) if defined else None
