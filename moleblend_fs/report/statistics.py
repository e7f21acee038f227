"""How sure scores are: 95 % intervals by bootstrap over molecules, the same numbers each time."""

from collections.abc import Callable, Iterator

import numpy as np

RESAMPLES, FEWEST = 1000, 100
FEWEST_DRAWN = 3
"""Molecules that an interval needs: of one it would be the value itself, of two it ends at theirs."""
MOST_DRAWN = 5_000_000
"""Molecules drawn for one interval; of larger splits fewer resamples are taken, yet at least `FEWEST`."""
AT_A_TIME = 2_000_000
LOW, HIGH = 2.5, 97.5

Draws = dict[str, np.ndarray]
"""Metric -> its values (resamples,), NaN where a resample does not define it."""


def weights(molecules: int, seed: int) -> Iterator[np.ndarray]:
    """How often each molecule is in a resample, (resamples, molecules) in all, some resamples at a time."""
    generator = np.random.Generator(np.random.PCG64(seed))
    left = max(FEWEST, min(RESAMPLES, MOST_DRAWN // max(molecules, 1)))
    while left:
        here = min(left, max(1, AT_A_TIME // max(molecules, 1)))
        yield generator.multinomial(molecules, np.full(molecules, 1 / molecules), size=here).astype(np.float64)
        left -= here


def draws(prediction: np.ndarray, target: np.ndarray, *, seed: int) -> list[Draws]:
    """Resampled scores of each target, none of fewer than `FEWEST_DRAWN` molecules; a molecule is drawn with all its targets.

    Args:
        prediction: (molecules, targets), probabilities where labels are classes.
        target: (molecules, targets), NaN where missing.
        seed: of the resamples.
    """
    columns = [(p[known], t[known], known) for p, t in zip(prediction.T, target.T, strict=True) if (known := _known(p, t)) is not None]
    parts: list[list[Draws]] = [[] for _ in columns]
    if len(target) >= FEWEST_DRAWN:
        for drawn in weights(len(target), seed):
            for part, (p, t, known) in zip(parts, columns, strict=True):
                part.append(scores(p, t, drawn[:, known]))
    return [{name: np.concatenate([each[name] for each in part]) for name in part[0]} if part else {} for part in parts]


def _known(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.isfinite(prediction) & np.isfinite(target)


def interval(values: np.ndarray | None) -> tuple[float, float] | None:
    """The middle 95 % of the resampled values; None where fewer than nine in ten are defined."""
    if values is None or not len(values) or np.isfinite(values).mean() < 0.9:
        return None
    low, high = np.percentile(values[np.isfinite(values)], [LOW, HIGH])
    return float(low), float(high)


def is_classes(prediction: np.ndarray, target: np.ndarray) -> bool:
    """Whether all labels are 0 or 1, and all predictions probabilities."""
    return bool(len(target)) and bool(np.isin(target, (0, 1)).all()) and bool(((prediction >= 0) & (prediction <= 1)).all())


def scores(prediction: np.ndarray, target: np.ndarray, weight: np.ndarray) -> Draws:
    """Weighted scores, (resamples,) each: those of values, and those of classes where labels and predictions can be such.

    Args:
        prediction, target: (n,), finite.
        weight: (resamples, n).
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        total = weight.sum(axis=1)
        error = prediction - target
        squared = weight @ np.square(error)
        centred = target - (target.mean() if len(target) else 0.0)
        spread = weight @ np.square(centred) - np.square(weight @ centred) / total
        found = {"mae": weight @ np.abs(error) / total, "rmse": np.sqrt(squared / total), "r2": 1 - squared / spread}
        if is_classes(prediction, target):
            found |= _of_ranks(prediction, target, weight) | _of_decisions(prediction, target, weight)
            chance = np.clip(np.where(target > 0.5, prediction, 1 - prediction), 1e-300, 1)
            found["log_loss"] = weight @ -np.log(chance) / total
    return found


def _of_ranks(prediction: np.ndarray, target: np.ndarray, weight: np.ndarray) -> Draws:
    """Areas under the curves of ROC (ties count half) and of precision and recall (average precision)."""
    order = np.argsort(-prediction, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(prediction[order]) != 0])
    one, other = weight[:, order] * target[order], weight[:, order] * (1 - target[order])
    ones, others = np.add.reduceat(one, starts, axis=1), np.add.reduceat(other, starts, axis=1)
    hits, misses = ones.cumsum(axis=1), others.cumsum(axis=1)
    positives, negatives = hits[:, -1:], misses[:, -1:]
    area = ((hits - ones / 2) * others).sum(axis=1) / (positives * negatives)[:, 0]
    precision = np.where(hits + misses > 0, hits / np.maximum(hits + misses, 1e-300), 0)
    average = (ones * precision).sum(axis=1) / positives[:, 0]
    return {"roc_auc": area, "pr_auc": np.where(negatives[:, 0] > 0, average, np.nan)}


def _of_decisions(prediction: np.ndarray, target: np.ndarray, weight: np.ndarray) -> Draws:
    """Scores of the classes that are predicted, 1 where the probability is over one half."""
    said = (prediction > 0.5).astype(np.float64)
    count: Callable[[np.ndarray], np.ndarray] = lambda chosen: weight @ chosen  # noqa: E731
    tp, fp = count(said * target), count(said * (1 - target))
    fn, tn = count((1 - said) * target), count((1 - said) * (1 - target))
    both = (tp + fn > 0) & (tn + fp > 0)
    root = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return {
        "balanced_accuracy": np.where(both, (tp / (tp + fn) + tn / (tn + fp)) / 2, np.nan),
        "f1": np.where(both, np.where(tp + fp + fn > 0, 2 * tp / (2 * tp + fp + fn), 0), np.nan),
        "mcc": np.where(both, np.where(root > 0, (tp * tn - fp * fn) / np.where(root > 0, root, 1), 0), np.nan),
    }


def roc_curve(prediction: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates at every threshold, from (0, 0) to (1, 1)."""
    from sklearn.metrics import roc_curve as of

    false_rate, true_rate, _ = of(target, prediction)
    return false_rate, true_rate


def precision_recall(prediction: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision at every threshold."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(target, prediction)
    return recall, precision


def reliability(prediction: np.ndarray, target: np.ndarray, bins: int = 10) -> list[tuple[float, float, int]]:
    """(mean predicted probability, share of class 1, molecules) of each of `bins` equal ranges of probability that has any."""
    place = np.minimum((prediction * bins).astype(np.int64), bins - 1)
    rows = [(chosen, int(chosen.sum())) for chosen in (place == number for number in range(bins))]
    return [(float(prediction[chosen].mean()), float(target[chosen].mean()), count) for chosen, count in rows if count]
