"""DATA that is a store: its labels in any order, what it cannot be told, and splits that a file names."""

import csv
import json
from collections import Counter

import numpy as np
import pytest

from moleblend_fs.data.graph import LabelSpec
from moleblend_fs.data.split_file import resplit
from moleblend_fs.errors import UserError
from moleblend_fs.finetune.baselines import fingerprints
from moleblend_fs.finetune.data import prepare
from moleblend_fs.finetune.folds import groups_of, smiles_of
from moleblend_fs.finetune.run import finetune
from moleblend_fs.finetune.settings import Settings
from moleblend_fs.finetune.split_similarity import overlap
from tests.fairseq_plugins.conftest import write_graphs
from tests.finetune.conftest import ESOL, QUICK
from tests.model.molecules import graph

ONCE = QUICK | {"epochs": 1, "weights": "none"}
IMPOSSIBLE = "C[C@]12C[C@@]1(C)C2"
"""A bridge on opposite faces has no structure."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two labels that are a thousand apart."""
    folder = tmp_path_factory.mktemp("stores")
    rows = [line.rsplit(",", 1) for line in ESOL.strip().splitlines()]
    (folder / "t.csv").write_text("smiles,a,b\n" + "".join(f"{smiles},{y},{1000 + float(y)}\n" for smiles, y in rows))
    return prepare(folder / "t.csv", Settings(targets=("a", "b")), folder, "none", workers=1, progress=False).store


def read(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_labels_in_another_order_than_the_stores(store, tmp_path):
    """And rows that a file of splits leaves out are not said to have been trained on."""
    (tmp_path / "rows.json").write_text(json.dumps({"train": list(range(14)), "valid": [14, 15], "test": list(range(16, 20))}))
    asked = Settings(targets=("b", "a"), split="file", split_file=str(tmp_path / "rows.json"), **ONCE)
    done = finetune(store.path, tmp_path / "run", asked, jobs=1)
    for row in read(done.out / "predictions_test.csv"):
        assert abs(float(row["b (predicted)"]) - 1000) < 50
        assert abs(float(row["a (predicted)"])) < 50
    assert all(done.metrics["models"]["moleblend"][name]["rmse"]["value"] < 50 for name in "ab")
    status = Counter(row["status"] for row in read(done.out / "predictions_oof.csv"))
    untold = len(store) - 20
    assert status["in no split: neither trained on nor tested"] == untold > 0
    assert status["trained on: no out-of-fold prediction"] == 14


def test_folds_of_a_file_that_test_every_molecule_are_a_cross_validation(store, tmp_path):
    halves = [list(range(0, len(store), 2)), list(range(1, len(store), 2))]
    folds = {
        name: {"train": train[3:], "valid": train[:3], "test": test}
        for name, train, test in zip("kl", halves, reversed(halves), strict=True)
    }
    (tmp_path / "folds.json").write_text(json.dumps({"folds": folds}))
    asked = Settings(targets=("a",), split="file", split_file=str(tmp_path / "folds.json"), **ONCE)
    done = finetune(store.path, tmp_path / "run", asked, jobs=1)
    rows = read(done.out / "predictions_oof.csv")
    assert len(rows) == len(store)
    assert {(row["status"], row["split"]) for row in rows} == {("ok", "test")}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"targets": ("a", "a:regression")}, "'a' is given as several kinds or units"),
        ({"targets": ("a:classification",)}, "'a' is stored as regression, not classification"),
        ({"kind": "classification"}, "'a' is stored as regression, not classification"),
        ({"split": "column", "split_column": "part"}, "--split-column part is for tables"),
        ({"smiles_column": "smiles"}, "--smiles-column smiles is for tables"),
        ({"max_atoms": 5}, "--max-atoms 5 is for tables"),
        ({"conformers": 3}, "--conformers 3 is for tables"),
        ({"hydrogens": "explicit", "weights": "none"}, "--hydrogens explicit, but the store .* was made without hydrogens as atoms"),
        ({"inputs": "3d"}, r"24 molecules have no 3D structure \(counted from 0, rows 0, 1, 2, 3, 4, ...\)"),
    ],
)
def test_what_a_store_cannot_be_told(store, tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        prepare(store.path, Settings(**{"targets": ("a",)} | given), tmp_path, "none", workers=1, progress=False)


def test_what_a_store_can_be_told(store, tmp_path):
    same = Settings(targets=("a:regression",), kind="regression", hydrogens="none", weights="none")
    assert prepare(store.path, same, tmp_path, "none", workers=1, progress=False).targets == (store.manifest.labels[0],)


def test_molecules_without_a_structure_are_named_before_anything_is_trained(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(f"smiles,y\nCCO,1.5\n{IMPOSSIBLE},2\nCCN,3\n")
    with pytest.raises(UserError, match=r"1 molecule has no 3D structure \(counted from 0, row 1\); leave it out, or take --inputs 2d\+3d"):
        finetune(path, tmp_path / "run", Settings(targets=("y",), inputs="3d", **ONCE), jobs=1)
    asked = Settings(targets=("y",), inputs="2d+3d")
    assert len(prepare(path, asked, tmp_path / "other", "none", workers=1, progress=False).store) == 3


def test_a_stored_smiles_that_rdkit_cannot_read_costs_no_run(tmp_path):
    """Another version of RDKit may have made the store: the baselines ended with an error of RDKit's when all was trained."""
    lines = [("CCO", "train"), ("CCN", "train"), ("CCO", "test"), ("CCC", "test")]
    molecules = [(graph(smiles, row, labels=[float(row)]), split) for row, (smiles, split) in enumerate(lines)]
    molecules[1][0].smiles = molecules[3][0].smiles = "c1ccccc"
    store = write_graphs(tmp_path / "store", molecules, (LabelSpec(name="y", unit="", kind="regression"),))
    texts = smiles_of(store)
    assert texts[1] == texts[3] == "c1ccccc"
    assert (fingerprints(texts).sum(axis=1) > 0).tolist() == [True, False, True, False]
    fold = resplit(store, {"train": np.array([0, 1]), "valid": np.array([], dtype=int), "test": np.array([2, 3])}, {})
    [shared, *_] = overlap(store, {"fold0": fold})
    assert (shared.pair, shared.same) == ("test, in train", 2)
    with pytest.raises(UserError, match="cannot read the stored SMILES 'c1ccccc': make the store again, or give --split-file"):
        groups_of(texts, "random")
