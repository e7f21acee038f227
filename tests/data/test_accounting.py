"""What is told of splits, in whole sentences; what the manifest says of how they were made; which record is damaged."""

import numpy as np
import pytest

from moleblend_fs.data.accounting import split_notes
from moleblend_fs.data.record import StoredRecord, decode, summary
from moleblend_fs.data.splits import Splitter
from moleblend_fs.errors import UserError


def notes(kind, sizes, names=("train", "valid", "test"), **options):
    splits = {name: np.arange(size) for name, size in zip(names, sizes, strict=True)}
    return split_notes(Splitter(kind=kind, **options), splits)


@pytest.mark.parametrize(
    ("kind", "sizes", "told"),
    [
        ("random", (80, 10, 10), None),
        ("random", (75, 15, 10), None),
        ("random", (1_500, 300, 200), None),
        (
            "random",
            (60, 30, 10),
            "train : valid : test are 60 : 30 : 10 molecules, asked for were the shares 0.8 : 0.1 : 0.1 "
            "(equal molecules stay together, and some are large)",
        ),
        (
            "scaffold",
            (1_000, 0, 4),
            "EMPTY: valid; train : valid : test are 1,000 : 0 : 4 molecules, asked for were the shares 0.8 : 0.1 : 0.1 "
            "(whole scaffolds stay together, and some are large)",
        ),
        (
            "random",
            (3, 0, 0),
            "EMPTY: valid, test; train : valid : test are 3 : 0 : 0 molecules, asked for were the shares 0.8 : 0.1 : 0.1 (few molecules)",
        ),
        (
            "scaffold",
            (10, 8, 1),
            "train : valid : test are 10 : 8 : 1 molecules, asked for were the shares 0.8 : 0.1 : 0.1 (few molecules)",
        ),
        (
            "scaffold",
            (10, 8, 2),
            "train : valid : test are 10 : 8 : 2 molecules, asked for were the shares 0.8 : 0.1 : 0.1 "
            "(whole scaffolds stay together, and some are large)",
        ),
    ],
)
def test_splits_that_are_empty_or_far_from_what_was_asked_for(kind, sizes, told):
    assert notes(kind, sizes) == ([] if told is None else [told])


def test_splits_that_nobody_asked_for_may_be_empty():
    assert notes("random", (90, 10, 0), fractions=(0.9, 0.1, 0.0)) == []
    assert notes("random", (0, 0, 0)) == []


def test_prescribed_splits_are_only_asked_for_a_train():
    assert notes("prescribed", (1, 99), ("train", "dev")) == []
    assert notes("none", (5,), ("train",)) == []
    told = "no split is called train, but a, b: name the one to train on with --train-subset"
    assert notes("prescribed", (1, 2), ("a", "b")) == [told]


@pytest.mark.parametrize(
    ("kind", "shaped_by"),
    [
        ("scaffold", {"fractions": (0.7, 0.2, 0.1), "chirality": False}),
        ("random", {"fractions": (0.7, 0.2, 0.1), "seed": 4, "together": False}),
        ("prescribed", {}),
        ("none", {}),
    ],
)
def test_the_manifest_says_what_shaped_a_split_and_nothing_else(kind, shaped_by):
    splitter = Splitter(kind=kind, fractions=(0.7, 0.2, 0.1), seed=4, chirality=False, together=False)
    assert splitter.describe() == {"kind": kind, **shaped_by}


@pytest.mark.parametrize("read", [decode, summary])
def test_a_damaged_record_is_named_where_its_place_is_known(read):
    with pytest.raises(UserError, match=r"^a record: damaged \("):
        read(b"no deflated bytes")
    with pytest.raises(UserError, match=r"^x/records.lmdb, molecule 7: damaged \(.*copy the store again"):
        read(StoredRecord.at("x/records.lmdb, molecule 7", b"no deflated bytes"))
