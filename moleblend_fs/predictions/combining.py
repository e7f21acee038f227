"""Members' outputs -> what is predicted: means, deviations, intervals and calibrated probabilities."""

from dataclasses import dataclass

import numpy as np

from moleblend_fs.data.logits import probability
from moleblend_fs.predictions.calibration import TargetCalibration
from moleblend_fs.predictions.predictive_model import Predictive


@dataclass(frozen=True, slots=True, kw_only=True)
class Combined:
    """Predictions of n molecules, (n, targets) float64 each, in the targets' units; probabilities for classification.

    Attributes:
        values: the members' mean; for classification the calibrated probability of the mean of their logits.
        std: standard deviation of the members' predictions (of probabilities for classification); None for one member.
        low, high: bounds of the conformal interval; NaN for classification, and where there are too few residuals. None without a
            calibration.
    """

    values: np.ndarray
    std: np.ndarray | None
    low: np.ndarray | None
    high: np.ndarray | None


def combine(model: Predictive, outputs: np.ndarray, level: float) -> Combined:
    """Of the members' outputs.

    Args:
        outputs: (members, n, targets), as their property heads give them.
        level: share of values that intervals are to hold.
    """
    scaled = np.stack([out * np.array(about.std) + np.array(about.mean) for out, about in zip(outputs, model.abouts, strict=True)])
    members, n, targets = scaled.shape
    is_class = np.array([kind == "classification" for kind in model.about.kinds])
    shown = np.where(is_class, probability(scaled), scaled)
    std = shown.std(axis=0) if members > 1 else None
    values = scaled.mean(axis=0) if members > 1 else scaled[0]
    low, high = (None, None) if model.calibration is None else (np.full((n, targets), np.nan), np.full((n, targets), np.nan))
    for i, name in enumerate(model.about.targets):
        about = TargetCalibration(kind="classification") if model.calibration is None else model.calibration.targets.get(name)
        if is_class[i]:
            values[:, i] = (about or TargetCalibration(kind="classification")).probability(values[:, i])
        elif about is not None and low is not None and high is not None:
            half = about.half_width(std[:, i] if std is not None else np.zeros(n), level, members=members)
            if half is not None:
                low[:, i], high[:, i] = values[:, i] - half, values[:, i] + half
    return Combined(values=values, std=std, low=low, high=high)
