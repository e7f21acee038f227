"""`moleblend embed` of stores, and `predict --embeddings`: which row of the source each representation is of."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from moleblend_fs.cli.main import main
from moleblend_fs.data.store import Store
from tests.cli.test_predict import write_mixed
from tests.conftest import preprocessed
from tests.inference.untrained_models import untrained


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return untrained(tmp_path_factory.mktemp("models") / "model", width=64)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Store:
    return write_mixed(tmp_path_factory.mktemp("mixed") / "store")


def embedded(model: Path, store: Store, out: Path, *options: str) -> Path:
    assert main(["embed", str(model), str(store.path), str(out), "--no-progress", *options]) == 0
    return out


@pytest.fixture(scope="module")
def by_row(model, mixed, tmp_path_factory) -> dict[int, np.ndarray]:
    """Row of the source -> the representation of its molecule, as `predict --embeddings` gives it."""
    out = tmp_path_factory.mktemp("whole") / "x.npy"
    assert main(["predict", str(model), str(mixed.path), str(out), "--embeddings", "2d"]) == 0
    return dict(zip(mixed.source_row.tolist(), np.load(out), strict=True))


def test_every_row_of_the_source_has_its_row(model, mixed, by_row, tmp_path, capsys):
    values = np.load(embedded(model, mixed, tmp_path / "out.npy"))
    assert "no representation of 12 of 24 rows" in capsys.readouterr().err
    assert values.shape == (24, 64)
    assert np.flatnonzero(np.isfinite(values).all(axis=1)).tolist() == sorted(by_row)
    for row, expected in by_row.items():
        assert np.array_equal(values[row], expected)
    arrays = np.load(embedded(model, mixed, tmp_path / "out.npz"))
    assert arrays["row"].tolist() == list(range(24))
    assert np.array_equal(arrays["values"], values, equal_nan=True)
    assert arrays["status"][4] == "ok; no conformer: too strained"
    assert arrays["status"][5] == "no molecule: reason 2"


@pytest.mark.parametrize("options", [("--split", "test"), ("--split", "test", "--split-file", "folds.json", "--fold", "b")])
def test_rows_of_a_split_are_named(model, mixed, by_row, tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    folds = {"a": {"train": [0], "test": [2]}, "b": {"train": [0, 4], "test": [22, 2, 8]}}
    Path("folds.json").write_text(json.dumps({"folds": folds}))
    rows = [2, 8, 22] if "--fold" in options else mixed.source_row[mixed.split("test")].tolist()
    arrays = np.load(embedded(model, mixed, tmp_path / "out.npz", *options))
    assert arrays["row"].tolist() == rows
    with open(embedded(model, mixed, tmp_path / "out.csv", *options), newline="") as stream:
        lines = list(csv.DictReader(stream, strict=True))
    assert [int(line["row"]) for line in lines] == rows
    assert [line["smiles"] for line in lines] == arrays["smiles"].tolist()
    for place, row in enumerate(rows):
        assert np.array_equal(arrays["values"][place], by_row[row])


def test_the_array_of_a_split_is_as_the_page_says(model, mixed, by_row, tmp_path, capsys):
    """Line i is molecule split_NAME.npy[i], and that its row of the source is not i is said."""
    words = ["predict", str(model), str(mixed.path), str(tmp_path / "x.npy"), "--embeddings", "2d", "--split", "test"]
    assert main(words) == 0
    assert "has the molecules of split 'test' alone" in capsys.readouterr().err
    rows = np.load(mixed.path / "source_row.npy")[np.load(mixed.path / "split_test.npy")]
    assert np.array_equal(np.load(tmp_path / "x.npy"), np.stack([by_row[row] for row in rows.tolist()]))


def test_atoms_of_a_store(model, mixed, tmp_path):
    arrays = np.load(embedded(model, mixed, tmp_path / "out.npz", "--level", "atom", "--split", "train"))
    indices = mixed.split("train")
    assert np.diff(arrays["starts"]).tolist() == mixed.num_atoms[indices].tolist()
    assert arrays["row"].tolist() == mixed.source_row[indices].tolist()


def test_what_does_not_go_together_is_told(model, mixed, tmp_path, capsys):
    (tmp_path / "in.csv").write_text("smiles\nCCO\n")
    out = str(tmp_path / "out.npy")
    cases = {
        "--split goes with a store": [str(tmp_path / "in.csv"), out, "--split", "test"],
        "--split-file goes with a store, --smiles is none": [out, "--split-file", "x.json", "--smiles", "C"],
        "--hydrogens goes with tables and lists": [str(mixed.path), out, "--hydrogens", "none"],
        "no split 'tset'; it has: ": [str(mixed.path), out, "--split", "tset"],
        "not a store": [str(tmp_path), out],
    }
    for message, words in cases.items():
        assert main(["embed", str(model), *words, "--no-progress"]) == 2, message
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_records_that_became_conformers_have_rows_of_their_own(model, tmp_path):
    """The header of an array says how many rows there are before they are read."""
    ethanol, methane = (Chem.AddHs(Chem.MolFromSmiles(smiles)) for smiles in ("CCO", "C"))
    for mol in (ethanol, methane):
        AllChem.EmbedMultipleConfs(mol, 2, randomSeed=7)
    with Chem.SDWriter(str(tmp_path / "in.sdf")) as writer:
        for mol, conformer in ((ethanol, 0), (methane, 0), (ethanol, 1)):
            writer.write(mol, confId=conformer)
    store = preprocessed(tmp_path / "store", "sdf", str(tmp_path / "in.sdf"), "--split", "none")
    assert (len(store), store.joined_rows[:, 0].tolist()) == (2, [2])
    values = np.load(embedded(model, store, tmp_path / "out.npy"))
    assert np.array_equal(values[2], values[0])
    assert not np.array_equal(values[1], values[0])
    arrays = np.load(embedded(model, store, tmp_path / "out.npz"))
    assert arrays["row"].tolist() == [0, 1, 2]
    assert arrays["status"][2] == "ok; a conformer of the molecule of row 0"
