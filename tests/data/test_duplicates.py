"""Molecules that are there more than once: kept together by random splits, counted, their labels compared; and where rows went."""

import numpy as np
import pytest

from moleblend_fs.data.accounting import RowCounts, split_notes
from moleblend_fs.data.duplicates import find_duplicates
from moleblend_fs.data.graph import LabelSpec
from moleblend_fs.data.splits import SplitNames, Splitter
from moleblend_fs.errors import UserError

SPECS = (LabelSpec(name="y", unit="", kind="regression"), LabelSpec(name="c", unit="", kind="classification"))
NAN = np.nan


def split(keys, **options):
    count = len(keys)
    return Splitter(kind="random", **options)(rows=np.arange(count), prescribed=[None] * count, scaffolds=[None] * count, keys=keys)


@pytest.mark.parametrize("seed", range(5))
def test_equal_molecules_are_in_one_part(seed):
    keys = [f"k{i % 112}" for i in range(6720)]
    parts = split(keys, seed=seed)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(6720))
    found = {name: {keys[i] for i in part} for name, part in parts.items()}
    assert not found["train"] & found["valid"]
    assert not (found["train"] | found["valid"]) & found["test"]
    # Half a group of 60 either side of the sizes without groups.
    assert [len(part) for part in parts.values()] == pytest.approx([5376, 672, 672], abs=60)
    apart = split(keys, seed=seed, together=False)
    assert {keys[i] for i in apart["test"]} <= {keys[i] for i in apart["train"]}


@pytest.mark.parametrize("count", [1, 2, 9, 10, 1001])
def test_without_equal_molecules_the_split_is_the_plain_permutation(count):
    expected = np.random.Generator(np.random.PCG64(3)).permutation(count)
    parts = split([f"k{i}" for i in range(count)], seed=3)
    valid, test = round(0.1 * count), round(0.1 * count)
    cut = count - valid - test
    assert parts["train"].tolist() == sorted(expected[:cut].tolist())
    assert parts["valid"].tolist() == sorted(expected[cut : cut + valid].tolist())
    assert split([None] * count, seed=3)["test"].tolist() == parts["test"].tolist() == sorted(expected[cut + valid :].tolist())


def test_a_few_repeats_move_few_molecules():
    keys = [f"k{i}" for i in range(1000)]
    keys[7] = keys[900]
    parts = split(keys)
    assert [len(part) for part in parts.values()] == pytest.approx([800, 100, 100], abs=1)
    assert sum({7, 900} <= set(part.tolist()) for part in parts.values()) == 1


def test_what_is_counted():
    keys = ["a", "b", "a", "c", "b", "a", None, None]
    splits = {"train": np.array([0, 1, 3]), "valid": np.array([2, 6]), "test": np.array([4, 5, 7])}
    labels = np.array([[1.0, 0], [2.0, 1], [1.5, 0], [9.0, 1], [2.0, 1], [NAN, 1], [5.0, 0], [6.0, 1]])
    found = find_duplicates(keys, splits, labels, SPECS)
    assert (found.molecules, found.different) == (5, 2)
    assert found.shared == {"valid in train": 1, "test in train": 2, "test in valid": 1}
    assert found.disagreeing == {"y": (1, 0.5), "c": (1, 1.0)}
    for text in ("5 molecules are 2 different ones", "1 of valid in train", "2 of test in train", "y 1 (by up to 0.5)", "c 1"):
        assert text in found.text()


def test_nothing_repeated_is_nothing_to_say():
    found = find_duplicates(["a", "b"], {"train": np.array([0]), "test": np.array([1])}, np.zeros((2, 0)), ())
    assert (found.molecules, found.shared, found.text()) == (0, {}, "")


def test_rows_must_add_up():
    RowCounts(read=10, stored=6, failed=1, left_out={"blank": 2, "merged conformers": 1}).check()
    with pytest.raises(UserError, match=r"do not add up: 10 rows read = 6 stored \+ 1 failed \+ 2 blank"):
        RowCounts(read=10, stored=6, failed=1, left_out={"blank": 2}).check()


def parts(**sizes):
    return {name: np.arange(size) for name, size in sizes.items()}


def test_empty_and_strange_splits_are_told():
    scaffold, random = Splitter(kind="scaffold"), Splitter(kind="random")
    (note,) = split_notes(scaffold, parts(train=5, valid=45, test=0))
    assert "EMPTY: test" in note
    assert "5 : 45 : 0 molecules, asked for were the shares 0.8 : 0.1 : 0.1" in note
    (note,) = split_notes(random, parts(train=3, valid=0, test=0))
    assert "EMPTY: valid, test" in note
    assert split_notes(random, parts(train=80, valid=10, test=10)) == []
    assert split_notes(Splitter(kind="random", fractions=(1.0, 0.0, 0.0)), parts(train=9, valid=0, test=0)) == []
    assert split_notes(Splitter(kind="none"), parts(train=9)) == []
    assert "no split is called train, but fold0, fold1" in split_notes(Splitter(kind="prescribed"), parts(fold0=3, fold1=4))[0]
    assert split_notes(Splitter(kind="prescribed"), parts(train=3, fold1=4)) == []


SPELLINGS = {
    **dict.fromkeys(("train", "Train", "TRAIN", "training", "trn"), "train"),
    **dict.fromkeys(("valid", "val", "Validation", "DEV", "development"), "valid"),
    **dict.fromkeys(("test", "Testing", "tst"), "test"),
}


@pytest.mark.parametrize("text", SPELLINGS)
def test_usual_spellings(text):
    names = SplitNames("column 'part'", [text, "fold0"])
    assert (names(f" {text} "), names("fold0"), names(" ")) == (SPELLINGS[text], "fold0", None)
    assert bool(names.note) == (text not in ("train", "valid", "test"))


def test_two_spellings_are_merged_only_where_that_is_certain():
    names = SplitNames("c", ["Train", "train", "dev", "valid", "test-dev"])
    assert [names(text) for text in ("Train", "train", "dev", "valid", "test-dev")] == ["train", "train", "dev", "valid", "test-dev"]


def test_the_splitter_refuses_names_too():
    with pytest.raises(UserError, match="'a/b'"):
        Splitter(kind="prescribed")(rows=np.arange(1), prescribed=["a/b"], scaffolds=[None])
