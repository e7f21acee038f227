"""Molecules that are in a store more than once: how many, whether splits share them, whether their labels agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from moleblend_fs.data.graph import LabelSpec
from moleblend_fs.wording import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """What is repeated in a store.

    Attributes:
        molecules: molecules that are there at least twice, each counted.
        different: how many different ones these are.
        shared: "valid in train" -> molecules of valid that are also in train, for each pair of splits that share any.
        disagreeing: label -> (different molecules whose values of it are not all equal, largest difference).
    """

    molecules: int = 0
    different: int = 0
    shared: dict[str, int] = field(default_factory=dict)
    disagreeing: dict[str, tuple[int, float]] = field(default_factory=dict)

    def text(self) -> str:
        """One line for people; "" where nothing is repeated."""
        if not self.molecules:
            return ""
        shared = ", ".join(f"{count:,} of {pair}" for pair, count in self.shared.items()) or "none across splits"
        labels = ", ".join(f"{name} {count:,} (by up to {by:.3g})" for name, (count, by) in list(self.disagreeing.items())[:6])
        more = f" and {counted(len(self.disagreeing) - 6, 'more label')}" if len(self.disagreeing) > 6 else ""
        return (
            f"{self.molecules:,} molecules are {counted(self.different, 'molecule repeated', 'different ones repeated')}; {shared}"
            + f"; different values of {labels}{more}" * bool(labels)
        )


def find_duplicates(
    keys: Sequence[str | None], splits: Mapping[str, np.ndarray], labels: np.ndarray, specs: Sequence[LabelSpec]
) -> Duplicates:
    """Count what is repeated.

    Args:
        keys: (N,) equal for equal molecules; None for one like no other.
        splits: name -> molecule indices.
        labels: (N, L), NaN where missing.
        specs: the labels.
    """
    group = np.unique([key or f" {index}" for index, key in enumerate(keys)], return_inverse=True)[1]
    sizes = np.bincount(group)
    repeated = sizes[group] > 1
    shared = {}
    names = list(splits)
    for a, first in enumerate(names):
        there = np.isin(group, group[splits[first]])
        for second in names[a + 1 :]:
            if count := int(there[splits[second]].sum()):
                shared[f"{second} in {first}"] = count
    disagreeing = {}
    for spec, column in zip(specs, labels.T, strict=True):
        present = repeated & ~np.isnan(column)
        low, high = np.full(len(sizes), np.inf), np.full(len(sizes), -np.inf)
        np.minimum.at(low, group[present], column[present])
        np.maximum.at(high, group[present], column[present])
        if (apart := low < high).any():
            disagreeing[spec.name] = (int(apart.sum()), float((high[apart] - low[apart]).max()))
    return Duplicates(molecules=int(repeated.sum()), different=int((sizes > 1).sum()), shared=shared, disagreeing=disagreeing)
