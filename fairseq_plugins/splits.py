"""The splits that --train-subset and --valid-subset name: which molecules they are, and whether a validation split can choose a checkpoint.

All is reported before training, from the counts in the store's manifest.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch.distributed as dist

from moleblend_fs.data.manifest import LabelStatistics, pooled
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError

logger = logging.getLogger(__name__)

SCORE_NAMES = {"classification": ("roc_auc",), "regression": ("mae", "rmse")}
"""Scores that training logs for the validation split; several targets are averaged."""
ROUNDING = 1e-13
"""Standard deviation, relative to the largest value, below which values are equal but for rounding."""
FARTHEST = 1e15
"""Standard deviations from the mean whose square still fits into float32."""
SHOWN = 5
"""Targets that a message names, at most."""


def tidy(subset: str) -> str:
    """A list of names without blanks around the commas and empty parts, which fairseq would take for names."""
    return ",".join(name.strip() for name in subset.split(",") if name.strip())


def names(store: Store, subset: str) -> list[str]:
    """The splits that an option names, each once."""
    return [subset] if subset in store.splits else list(dict.fromkeys(tidy(subset).split(",")))


def indices(store: Store, subset: str) -> np.ndarray:
    """(n,) molecule indices of all splits that are named, each molecule once, in store order; UserError names the splits that there are."""
    parts = [np.asarray(store.split(name)) for name in names(store, subset)]
    return parts[0] if len(parts) == 1 else np.unique(np.concatenate(parts))


def check(store: Store, train: str, valid: str | None) -> None:
    """Tell at the start of splits that are not there or have no molecule, and warn of what is trained and validated on.

    Args:
        train, valid: what the options say; None without validation.
    """
    for option, subset in (("--train-subset", train), ("--valid-subset", valid)):
        if subset is None:
            continue
        instead = f"choose another with {option}" + (", or train with --disable-validation" if subset is valid else "")
        for name in names(store, subset):
            if name not in store.splits:
                raise UserError(f"{store.path}: no split {name!r}; it has: {', '.join(store.splits) or 'none'}; {instead}")
            if store.manifest.splits[name].molecules == 0:
                raise UserError(f"{store.path}: split {name!r} is empty; {instead}, or make the store again with other splits")
    both = [name for name in names(store, train) if valid is not None and name in names(store, valid)]
    if both:
        logger.warning("%s: trained on and validated on, so that the score tells nothing of other molecules", ", ".join(both))


def statistics(store: Store, subset: str, column: int) -> LabelStatistics | None:
    """Of a label over the molecules of all splits that are named; None where it has no value there."""
    return pooled([found for name in names(store, subset) if (found := store.manifest.statistics[name][column]) is not None])


def scale(store: Store, subset: str, column: int) -> tuple[float, float]:
    """Mean and standard deviation of a label over the splits of training (1 for equal values); UserError if it has no value."""
    found = statistics(store, subset, column)
    if found is None:
        label = store.manifest.labels[column].name
        raise UserError(f"label {label!r} has no value in the training split ({subset}) of {store.path}")
    return found.mean, found.std if found.std > ROUNDING * max(abs(found.min), abs(found.max)) else 1.0


def check_range(store: Store, subset: str, column: int, mean: float, std: float) -> None:
    """Values of validation must be finite when they are scaled and squared in float32; UserError names the label.

    Args:
        mean, std: of training.
    """
    found = statistics(store, subset, column)
    if found is not None and (far := max(abs(found.min - mean), abs(found.max - mean)) / std) > FARTHEST:
        raise UserError(
            f"label {store.manifest.labels[column].name!r} of the validation split lies {far:.3g} standard deviations from the "
            f"mean of the training split ({mean:.6g}, {std:.3g}): a value is wrong, or in another unit"
        )


class Labelled(NamedTuple):
    """How many molecules of a split have a label, and which class.

    Attributes:
        name: of the target. kind: "regression" or "classification".
        labels: molecules that have it. positive: those of class 1.
    """

    name: str
    kind: str
    labels: int
    positive: int = 0

    @property
    def has_score(self) -> bool:
        """Whether a score is defined: ROC-AUC needs both classes."""
        return 0 < self.positive < self.labels if self.kind == "classification" else self.labels > 0

    def __str__(self) -> str:
        if self.labels == 0:
            return f"{self.name}: no labels"
        return f"{self.name}: {self.labels - self.positive} of class 0, {self.positive} of class 1"


def count_labels(store: Store, split: str, columns: Sequence[int]) -> list[Labelled]:
    """Counts of each target's labels in a split."""
    counts = []
    for column in columns:
        label, found = store.manifest.labels[column], store.manifest.statistics[split][column]
        if found is None:
            counts.append(Labelled(label.name, label.kind, 0))
        else:
            # Classes are 0 and 1, so that their mean is the share of class 1.
            positive = round(found.mean * found.count) if label.kind == "classification" else 0
            counts.append(Labelled(label.name, label.kind, found.count, positive))
    return counts


def check_validation(store: Store, split: str, columns: Sequence[int], metric: str) -> None:
    """Warn of targets that a validation split gives no score for.

    Args:
        metric: what chooses the checkpoint, "loss" or a score.

    Raises:
        UserError: no target has that metric.
    """
    counts = count_labels(store, split, columns)
    without = [each for each in counts if not each.has_score]
    if not without:
        return
    classes = counts[0].kind == "classification"
    named = "; ".join(str(each) for each in without[:SHOWN]) + (f"; and {len(without) - SHOWN} more" if len(without) > SHOWN else "")
    labelled = any(each.labels for each in counts)
    if len(without) == len(counts) and (metric != "loss" or not labelled):
        needed = f"{metric} needs molecules of both classes" if classes and labelled else "no molecule has a label to learn"
        by_loss = "choose by the loss (--select-by loss), " if classes and labelled else ""
        raise UserError(
            f"split {split!r} cannot choose checkpoint_best.pt: {needed} ({named}). Make {store.path} with another split "
            f"(`moleblend preprocess`: --split, --split-seed), name another with --valid-subset, {by_loss}"
            "or train with --disable-validation: the result is checkpoint_last.pt then"
        )
    if not dist.is_initialized() or dist.get_rank() == 0:
        logger.warning(
            "scores on split %r are means over %d of %d targets; the others have none, for want of %s (%s)",
            split,
            len(counts) - len(without),
            len(counts),
            "molecules of both classes" if classes else "labels",
            named,
        )


def check_metric(metric: str, maximize: bool, kind: str) -> None:
    """UserError where --best-checkpoint-metric is neither the loss nor a score, or would keep the worst checkpoint."""
    if metric == "loss":
        return
    names = SCORE_NAMES[kind]
    if metric not in names:
        raise UserError(f"--best-checkpoint-metric {metric}: {kind} has {' and '.join(names)}, or see --select-by")
    if maximize != (metric == "roc_auc"):
        needs = "needs" if metric == "roc_auc" else "goes without"
        raise UserError(f"--best-checkpoint-metric {metric} {needs} --maximize-best-checkpoint-metric: the worst checkpoint would be kept")
