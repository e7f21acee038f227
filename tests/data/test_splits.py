"""Splits: deterministic, disjoint, complete. (The scaffold split is compared with Hu et al.'s in tests/sources.)"""

import numpy as np
import pytest

from moleblend_fs.data.splits import Splitter
from moleblend_fs.errors import UserError


def split(splitter, count, prescribed=None, scaffolds=None):
    return splitter(rows=np.arange(count), prescribed=prescribed or [None] * count, scaffolds=scaffolds or [None] * count)


@pytest.mark.parametrize("count", [1, 2, 9, 10, 1000])
def test_random_is_complete_disjoint_and_seeded(count):
    parts = split(Splitter(kind="random"), count)
    together = np.concatenate(list(parts.values()))
    assert sorted(together.tolist()) == list(range(count))
    again, other = split(Splitter(kind="random"), count), split(Splitter(kind="random", seed=1), count)
    assert all(np.array_equal(parts[name], again[name]) for name in parts)
    if count == 1000:
        assert {name: len(part) for name, part in parts.items()} == {"train": 800, "valid": 100, "test": 100}
        assert not np.array_equal(parts["test"], other["test"])
        # A test part drawn at random has a mean index near the middle: 5 standard errors are 145.
        assert abs(parts["test"].mean() - 499.5) < 145


def test_scaffolds_stay_together_largest_first():
    scaffolds = ["a"] * 5 + ["b"] * 3 + ["c"] + ["d"]
    parts = split(Splitter(kind="scaffold"), 10, scaffolds=scaffolds)
    assert parts["train"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    # Of two groups of one, the later one comes first.
    assert (parts["valid"].tolist(), parts["test"].tolist()) == ([9], [8])
    with pytest.raises(ValueError, match="needs the scaffold"):
        split(Splitter(kind="scaffold"), 2)


def test_prescribed_and_none():
    parts = split(Splitter(kind="prescribed"), 4, prescribed=["train", "dev", "train", None])
    assert {name: part.tolist() for name, part in parts.items()} == {"train": [0, 2], "dev": [1]}
    assert split(Splitter(kind="none"), 3)["train"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.2), (1.1, -0.1, 0.0), (0.5, 0.5)])
def test_fractions_are_checked(fractions):
    with pytest.raises(UserError, match="--split-fractions"):
        Splitter(kind="random", fractions=fractions)
    described = Splitter(kind="random", fractions=(0.7, 0.2, 0.1)).describe()
    assert described == {"kind": "random", "fractions": (0.7, 0.2, 0.1), "seed": 0, "together": True}
