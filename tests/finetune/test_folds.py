"""Splits of `moleblend finetune`: complete, disjoint, whole groups, and the files that they are read from."""

import json

import numpy as np
import pytest
from rdkit import Chem

from moleblend_fs.chem.scaffold import murcko_scaffold
from moleblend_fs.data.split_file import resplit
from moleblend_fs.data.splits import TEST, TRAIN, VALID, Splitter
from moleblend_fs.errors import UserError
from moleblend_fs.finetune.data import prepare
from moleblend_fs.finetune.folds import balanced, carved, check_labels, clusters, dealt, groups_of, make_folds, smiles_of
from moleblend_fs.finetune.settings import Settings


@pytest.fixture(scope="module")
def store(table, tmp_path_factory):
    """25 molecules, two rows failed."""
    return prepare(table, Settings(targets=("logS",)), tmp_path_factory.mktemp("folds"), "none", workers=1, progress=False).store


def complete(fold, store) -> bool:
    """Whether every molecule's row is in one split, and in one alone."""
    return sorted(np.concatenate(list(fold.values())).tolist()) == sorted(store.source_row.tolist())


@pytest.mark.parametrize("kind", ["scaffold", "scaffold-balanced", "random", "butina"])
def test_a_single_split_is_complete_and_keeps_groups_whole(store, kind):
    file = make_folds(store, Settings(targets=("logS",), split=kind))
    fold = file.folds["fold0"]
    assert complete(fold, store)
    assert len(fold[TRAIN]) > len(fold[VALID]) > 0
    groups = dict(zip(store.source_row.tolist(), groups_of(smiles_of(store), kind), strict=True))
    of = {name: {groups[row] for row in rows.tolist()} for name, rows in fold.items()}
    assert not (of[TRAIN] & of[VALID])
    assert not (of[TRAIN] & of[TEST])
    assert not (of[VALID] & of[TEST])
    again = make_folds(store, Settings(targets=("logS",), split=kind)).folds["fold0"]
    assert all(np.array_equal(fold[name], again[name]) for name in fold)


def test_scaffolds_largest_first_are_preprocessings(store):
    smiles = smiles_of(store)
    scaffolds = [murcko_scaffold(Chem.MolFromSmiles(text), chirality=True) for text in smiles]
    parts = Splitter(kind="scaffold")(rows=store.source_row, prescribed=[None] * len(store), scaffolds=scaffolds)
    fold = make_folds(store, Settings(targets=("logS",))).folds["fold0"]
    assert {name: rows.tolist() for name, rows in fold.items()} == {n: store.source_row[i].tolist() for n, i in parts.items()}


@pytest.mark.parametrize("kind", ["", "random"])
def test_each_molecule_is_tested_once_in_each_repeat(store, kind):
    file = make_folds(store, Settings(targets=("logS",), split=kind, folds=3, repeats=2))
    assert list(file.folds) == [f"repeat{r}-fold{k}" for r in range(2) for k in range(3)]
    for repeat in range(2):
        folds = [file.folds[f"repeat{repeat}-fold{k}"] for k in range(3)]
        assert sorted(np.concatenate([fold[TEST] for fold in folds]).tolist()) == store.source_row.tolist()
        assert all(complete(fold, store) and len(fold[VALID]) for fold in folds)
    first, second = (file.folds[f"repeat{r}-fold0"][TEST].tolist() for r in range(2))
    assert first != second


def test_large_groups_train():
    """Half of all molecules are one group: it fits into no small part."""
    groups = ["big"] * 50 + [str(i) for i in range(50)]
    parts = balanced(groups, (0.8, 0.1, 0.1), seed=3)
    assert [len(parts[name]) for name in (TRAIN, VALID, TEST)] == [80, 10, 10]
    assert set(range(50)) <= set(parts[TRAIN].tolist())
    assert balanced(groups, (0.9, 0.1, 0.0), seed=3)[TEST].tolist() == []
    sizes = sorted(len(part) for part in dealt(groups, 3, seed=0))
    assert sizes == [25, 25, 50]
    rest, taken = carved(np.arange(50, 100), groups, 7, seed=0)
    assert len(taken) == 7
    assert sorted([*rest, *taken]) == list(range(50, 100))
    for seed in range(20):
        rest, taken = carved(np.arange(100), groups, 7, seed=seed)
        assert len(taken) == 7, "the large group is drawn first by some of these seeds"
    assert [len(part) for part in carved(np.arange(10), ["a"] * 6 + ["b"] * 4, 2, seed=0)] == [6, 4], "none fits: the smallest"


def test_similar_molecules_are_one_cluster():
    chains = [Chem.MolFromSmiles("C" * n) for n in (8, 9, 10)]
    others = [Chem.MolFromSmiles(text) for text in ("c1ccc2ccccc2c1", "NS(=O)(=O)O")]
    found = clusters([*chains, *others])
    assert len(set(found[:3])) == 1
    assert len(set(found)) == 3


def test_a_file_of_rows_gets_a_split_that_selects(store, tmp_path):
    path = tmp_path / "rows.json"
    rows = store.source_row.tolist()
    path.write_text(json.dumps({"train": rows[:20], "test": rows[20:]}))
    fold = make_folds(store, Settings(targets=("logS",), split="file", split_file=str(path))).folds["fold0"]
    assert complete(fold, store)
    assert fold[TEST].tolist() == rows[20:]
    assert len(fold[VALID]) == 2
    path.write_text(json.dumps({"train": rows[:20], "holdout": rows[20:]}))
    with pytest.raises(UserError, match="got holdout"):
        make_folds(store, Settings(targets=("logS",), split="file", split_file=str(path)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"folds": 0}, "--folds must be at least 1"),
        ({"repeats": 2}, "one and the same split"),
        ({"split": "column"}, "goes with --split-column"),
        ({"split_file": "x.json"}, "--split file with --split-file"),
        ({"split": "store", "folds": 3}, "leave --folds"),
        ({"fractions": (0.5, 0.2, 0.2)}, "sum to 1"),
        ({"level": 1.0}, "--level"),
        ({"lr": -1.0}, "--lr must be above 0"),
    ],
)
def test_settings_that_contradict_themselves(given, message):
    with pytest.raises(UserError, match=message):
        Settings(**given)


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (["1.5", "2.5", "3.5", "", "4.5", "", "", ""], "regression", ""),
        (
            ["", "", "", "", "1.5", "2.5", "3.5", "4.5"],
            "regression",
            "fold0: no training molecule has a value of y; leave such targets out",
        ),
        (["1.5", "2.5", "3.5", "4.5", "", "", "5.5", "6.5"], "regression", "fold0: no molecule of the valid split, which chooses"),
        (["1", "1", "1", "", "0", "1", "0", "1"], "classification", r"fold0: the training molecules are all of one class \(y: 1\)"),
        (["1", "0", "1", "", "0", "1", "0", "1"], "classification", ""),
        (["2", "2", "2", "2", "2", "2", "2", "2"], "regression", ""),
    ],
)
def test_what_cannot_be_learned_is_told_before_training(tmp_path, values, kind, message):
    """Four molecules train, two select; a member said so of a store that the user had not made."""
    (tmp_path / "mine.csv").write_text("smiles,y\n" + "".join(f"{'C' * (i + 1)},{value}\n" for i, value in enumerate(values)))
    made = prepare(tmp_path / "mine.csv", Settings(targets=(f"y:{kind}",)), tmp_path / "run", "none", workers=1, progress=False).store
    split = resplit(made, {TRAIN: np.arange(4), VALID: np.arange(4, 6), TEST: np.arange(6, 8)}, {})
    if not message:
        check_labels({"fold0": split}, ["y"])
        return
    with pytest.raises(UserError, match=message):
        check_labels({"fold0": split}, ["y"])
