"""The tables of a run: columns of the input that are called as ours stay, and ours are found whatever they are called."""

import csv

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from moleblend_fs.comparison import run_folders
from moleblend_fs.data.finetune_tables import own_columns, read_lines
from moleblend_fs.finetune.data import prepare
from moleblend_fs.finetune.predicting import FoldResult, Said
from moleblend_fs.finetune.settings import Settings
from moleblend_fs.finetune.tables import write_tables
from moleblend_fs.predictions.calibration import TargetCalibration
from tests.conftest import preprocessed

THEIRS = ["smiles", "y", "y (std)", "y (predicted)", "y (predicted) (moleblend)", "row", "fold", "split", "status", "z"]


@pytest.mark.parametrize("members", [1, 2])
def test_columns_of_the_input_that_are_called_as_ours(tmp_path, members):
    rows = [["C" * (i + 1), str(i / 4), "a", "b", "c", str(90 + i), "f", "s", "no molecule: mine", str(i)] for i in range(4)]
    with open(tmp_path / "in.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([THEIRS, *rows, ["bad", "1", *rows[0][2:]]])
    settings = Settings(targets=("y", "z"), kind="regression")
    data = prepare(tmp_path / "in.csv", settings, tmp_path, "none", workers=1, progress=False)

    def said(*indices: int) -> Said:
        values = np.array([[10.0 + i, 20.0 + i] for i in indices])
        return Said(indices=np.array(indices), prediction=values, std=values / 100, labels=values)

    known = [TargetCalibration(kind="regression", absolute_residuals=(0.1,) * 30)] * 2
    names = tuple("ab")[:members]
    result = FoldResult(name="fold0", valid=said(0), test=said(1, 3), calibration=known, skills=dict.fromkeys(names, 1.0), members=names)
    write_tables(tmp_path, data, [result], np.array([2]), members=members, level=0.9, cross=False)
    with open(tmp_path / "predictions_test.csv", newline="") as stream:
        header, *written = csv.reader(stream)
    assert header[: len(THEIRS)] == THEIRS
    assert len(set(header)) == len(header)
    assert [line[: len(THEIRS)] for line in written] == [rows[1], rows[3], ["bad", "1", *rows[0][2:]]]
    lines = list(read_lines(tmp_path / "predictions_test.csv", ["y", "z"]))
    assert [(line.row, line.fold, line.split) for line in lines] == [("1", "fold0", "test"), ("3", "fold0", "test"), ("4", "", "")]
    assert [line.predicted for line in lines[:2]] == [{"y": "11", "z": "21"}, {"y": "13", "z": "23"}]
    assert [line.given["row"] for line in lines] == ["91", "93", "90"]
    assert lines[2].status.startswith("no molecule: RDKit")
    assert run_folders.test_predictions(tmp_path / "predictions_test.csv", ["y", "z"])["fold0"] == [
        ("1", [0.25, 1.0], [11.0, 21.0]),
        ("3", [0.75, 3.0], [13.0, 23.0]),
    ]
    with pytest.raises(ValueError, match="no table of predictions of x"):
        list(read_lines(tmp_path / "predictions_test.csv", ["x"]))


@pytest.mark.parametrize("of_store", [False, True])
def test_records_that_became_conformers_have_a_line_that_names_their_molecule(tmp_path, of_store):
    ethanol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    rdDistGeom.EmbedMultipleConfs(ethanol, 3, randomSeed=1)
    other = Chem.AddHs(Chem.MolFromSmiles("CCN"))
    rdDistGeom.EmbedMolecule(other, randomSeed=1)
    with Chem.SDWriter(str(tmp_path / "in.sdf")) as writer:
        for mol, conformer, y in ((ethanol, 0, "1"), (other, -1, "2"), (ethanol, 1, "1"), (ethanol, 2, "5")):
            mol.SetProp("y", y)
            writer.write(mol, confId=conformer)
    given = tmp_path / "in.sdf"
    if of_store:
        preprocessed(tmp_path / "s", "sdf", str(given), "--label", "y:regression")
        given = tmp_path / "s"
    data = prepare(given, Settings(targets=("y",), kind="regression", inputs="3d"), tmp_path, "none", workers=1, progress=False)
    write_tables(tmp_path, data, [], np.array([0]), members=1, level=0.9, cross=False)
    with open(tmp_path / "predictions_oof.csv", newline="") as stream:
        written = list(csv.DictReader(stream))
    assert [line["row"] for line in written] == ["0", "1", "2", "3"]
    assert [line["status"] for line in written[2:]] == [
        "a conformer of the molecule of row 0",
        "a conformer of the molecule of row 0, whose labels are kept: y is 5, there 1",
    ]
    assert written[2]["smiles"] == written[0]["smiles"] != written[1]["smiles"]


def test_names_are_told_apart():
    assert own_columns(["a", "b (moleblend)"], ["a", "b", "a"]) == ["a (moleblend)", "b", "a (moleblend) (moleblend)"]
