"""Molecules and values of Python programs as files: each value beside its molecule."""

import csv
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from moleblend_fs import Finetuner, MoleBlendClassifier, MoleBlendRegressor
from moleblend_fs.errors import UserError
from moleblend_fs.finetune.data_in_memory import written
from moleblend_fs.finetune.settings import Settings
from moleblend_fs.sources.sdf_records import sdf_items, sdf_records

pandas = pytest.importorskip("pandas")
SMILES = ["CCO", "CC", "C"]


def rows(molecules, y, targets, folder):
    with open(written(molecules, y, targets, folder, structures=False), newline="") as stream:
        return list(csv.reader(stream))


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        ([1.5, None, 3], ["1.5", "", "3"]),
        (pandas.array([1, None, 3], dtype="Int64"), ["1", "", "3"]),
        (pandas.Series([1, None, 3], dtype="float32"), ["1.0", "", "3.0"]),
        (np.array([[0.1], [np.nan], [3.0]]), ["0.1", "", "3.0"]),
        (iter([1, "", 3]), ["1", "", "3"]),
        (pandas.DataFrame({"other": [1, None, 3]}, dtype="Int64"), ["1", "", "3"]),
    ],
)
def test_values_and_what_is_missing(tmp_path, y, expected):
    assert rows(SMILES, y, ["a"], tmp_path) == [["smiles", "a"], *map(list, zip(SMILES, expected, strict=True))]


def test_columns_of_y_are_taken_by_name(tmp_path):
    found = rows(SMILES, pandas.DataFrame({"b": [1, 2, 3], "a": [7, 8, 9]}), ["a", "b"], tmp_path)
    assert found == [["smiles", "a", "b"], ["CCO", "7", "1"], ["CC", "8", "2"], ["C", "9", "3"]]


def test_a_tables_other_columns_stay_and_missing_molecules_are_rows(tmp_path):
    table = {"id": [1, 2, 3], "smiles": ["CCO", None, Chem.MolFromSmiles("C")], "a": [0, 0, 0]}
    assert rows(table, [4, 5, 6], ["a"], tmp_path) == [["id", "smiles", "a"], ["1", "CCO", "4"], ["2", "", "5"], ["3", "C", "6"]]


@pytest.mark.parametrize(
    ("molecules", "y", "targets", "message"),
    [
        (SMILES, np.arange(6.0).reshape(2, 3), ["a", "b"], r"y has the shape \(2, 3\), for 3 molecules and 2 targets \(a, b\)"),
        (SMILES, np.arange(6.0), ["a", "b"], r"y has the shape \(6,\)"),
        (SMILES, [1.0, 2.0], ["a"], r"y has the shape \(2,\), for 3 molecules"),
        (SMILES, pandas.DataFrame({"c": [1, 2, 3], "d": [1, 2, 3]}), ["a", "b"], "y has the columns c, d, and the targets are called a, b"),
        (pandas.Series(SMILES), pandas.Series([1, 2, 3], index=[2, 1, 0]), ["a"], "the molecules in another order"),
        ({"smiles": SMILES}, [1, 2, 3], ["smiles"], "'smiles' is the column of SMILES"),
        (SMILES, [1, 2, 3], ["smiles"], "'smiles' is the column of SMILES"),
        ([], [], ["a"], "no molecules were given"),
        (set(SMILES), [1, 2, 3], ["a"], "has no order"),
    ],
)
def test_values_that_may_be_of_other_molecules_are_refused(tmp_path, molecules, y, targets, message):
    with pytest.raises(UserError, match=message):
        written(molecules, y, targets, tmp_path, structures=False)


def test_structures_are_kept_beside_missing_molecules_and_in_tables(tmp_path):
    """One that is missing made all the others lose their structures."""
    mol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    series, frame = pandas.Series([mol, None]), pandas.DataFrame({"note": ["x\n\ny", "z"], "ROMol": [mol, mol]})
    for given, notes in (([mol, None], None), (series, None), (frame, "x y")):
        records = list(sdf_records(written(given, [1.5, None], ["a"], tmp_path, structures=True)))
        assert len(records) == 2
        found = Chem.MolFromMolBlock(records[0], removeHs=False).GetConformer().GetPositions()
        np.testing.assert_allclose(found, mol.GetConformer().GetPositions(), atol=1e-4)
        assert sdf_items(records[0]).get("a") == ["1.5"]
        assert sdf_items(records[1]).get("a") == [""]
        assert sdf_items(records[0]).get("note", [None]) == [notes]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"split": "scafold"}, "--split must be one of scaffold, random"),
        ({"hydrogens": "yes"}, "--hydrogens must be one of explicit, none, got 'yes'"),
        ({"kind": "reg"}, "--kind must be one of"),
        ({"arch": "giant"}, "--arch must be one of tiny"),
        ({"regression_loss": "rmse"}, "--regression-loss must be one of mse, mae"),
        ({"epochs": 1.5}, "--epochs must be a whole number, got 1.5"),
        ({"epochs": "5"}, "--epochs must be a whole number, got '5'"),
        ({"lr": "fast"}, "--lr must be a number"),
        ({"ensemble": True}, "--ensemble must be a whole number, got True"),
        ({"seed": -1}, "--seed must be a whole number from 0 to"),
        ({"seed": None}, "--seed must be a whole number, got None"),
        ({"seed": 2**32 - 1_000_002, "ensemble": 2}, "--seed must be a whole number from 0 to 4293967293"),
        ({"fractions": (0.9, 0.1)}, "--split-fractions must be three shares"),
        ({"fractions": ("a", "b", "c")}, "--split-fractions must be three shares"),
    ],
)
def test_settings_from_python_are_checked_as_options_are(given, message):
    with pytest.raises(UserError, match=message):
        Settings(**given)


def test_paths_are_settings():
    """JSON holds texts alone; a bare word would be the name of published weights."""
    settings = Settings(weights=Path("small"), split="file", split_file=Path("splits") / "mine.json")
    assert (settings.weights, settings.split_file) == ("./small", "splits/mine.json")
    assert Settings(weights=Path("/runs/x.pt")).weights == "/runs/x.pt"


def test_numbers_of_numpy_are_settings():
    """A grid of scikit-learn's holds them; JSON does not."""
    settings = Settings(epochs=np.int64(3), lr=np.float32(0.5), dropout=None)
    assert (type(settings.epochs), type(settings.lr), settings.dropout) == (int, float, None)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1, None], "no class for molecule 2"),
        (pandas.array([1, None, 0], dtype="Int64"), "no class for molecule 1"),
        ([0, 1, float("nan")], "no class for molecule 2"),
    ],
)
def test_classes_that_are_missing(y, message):
    with pytest.raises(ValueError, match=message):
        MoleBlendClassifier().fit(SMILES, y)


@pytest.mark.parametrize(("y", "message"), [(None, r"the shape \(\)"), ([1, np.inf, 2], "infinite for molecule 1")])
def test_values_that_are_none(y, message):
    with pytest.raises(ValueError, match=message):
        MoleBlendRegressor().fit(SMILES, y)


def test_a_finetuner_that_was_not_fitted_says_so():
    with pytest.raises(ValueError, match="call fit first"):
        Finetuner().predict(["CCO"])
