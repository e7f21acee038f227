"""--train-subset and --valid-subset: names of a store's splits, one or several separated by commas."""

import logging
import math

import numpy as np

from moleblend_fs.data.manifest import LabelStatistics
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError

logger = logging.getLogger(__name__)


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


def pooled(parts: list[LabelStatistics]) -> LabelStatistics | None:
    """Of parts that share no molecule, from those of each: the variance is the mean of all variances and of the means' own."""
    if len(parts) < 2:
        return parts[0] if parts else None
    count = sum(part.count for part in parts)
    mean = math.fsum(part.count * part.mean for part in parts) / count
    variance = math.fsum(part.count * (part.std**2 + (part.mean - mean) ** 2) for part in parts) / count
    return LabelStatistics(
        count=count, mean=mean, std=math.sqrt(variance), min=min(part.min for part in parts), max=max(part.max for part in parts)
    )
