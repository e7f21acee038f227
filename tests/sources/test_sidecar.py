"""Sidecars: RDKit's descriptors of a store's molecules, in one go, in parts, and after a stop; whose they are; their statistics."""

import json
import shutil

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import Descriptors

from moleblend_fs.chem.descriptors import descriptors
from moleblend_fs.cli.main import main
from moleblend_fs.data.sidecar import Sidecar, column_statistics
from moleblend_fs.data.store import Store
from moleblend_fs.data.structures import smiles_of_store
from moleblend_fs.errors import UserError
from tests.conftest import preprocessed

SMILES = [f"{'C' * k}{x}" for k in range(1, 16) for x in ("O", "N", "c1ccccc1", "[Si](C)(C)C")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of 60 molecules with its descriptors."""
    folder = tmp_path_factory.mktemp("sidecar")
    (folder / "a.smi").write_text("\n".join(SMILES))
    store = preprocessed(folder / "store", "smiles", str(folder / "a.smi"))
    assert main(["preprocess-sidecar", "descriptors", str(store.path), "--workers", "1", "--no-progress"]) == 0
    return store


def bare(made, tmp_path):
    """A copy of the store without its sidecar."""
    shutil.copytree(made.path, tmp_path / "copy", ignore=shutil.ignore_patterns("sidecars"))
    return Store(tmp_path / "copy")


def test_values_are_rdkits(made):
    sidecar = Sidecar(made, "descriptors")
    assert sidecar.manifest.columns == tuple(name for name, _ in Descriptors.descList)
    (index, smiles), *_ = list(smiles_of_store(made, [17]))
    mol = Chem.MolFromSmiles(smiles)
    expected = np.array([function(mol) for _, function in Descriptors.descList], dtype=np.float32)
    np.testing.assert_array_equal(sidecar.raw([index])[0], expected)


def test_standardised_over_the_training_split(made):
    sidecar, train = Sidecar(made, "descriptors"), made.split("train")
    raw, scaled = sidecar.raw(train).astype(np.float64), sidecar.standardised(train)
    column = sidecar.manifest.columns.index("MolWt")
    lower, upper = np.quantile(raw[:, column], [0.005, 0.995])
    moved = np.clip(raw[:, column], lower, upper)
    np.testing.assert_allclose(scaled[:, column], (moved - moved.mean()) / moved.std(), atol=1e-5)
    constant = [i for i, s in enumerate(sidecar.manifest.statistics) if s.std == 0]
    assert constant
    assert np.isnan(scaled[:, constant]).all()
    varying = np.delete(scaled, constant, axis=1)
    assert np.nanmax(np.abs(np.nanmean(varying, axis=0))) < 1e-5


def test_statistics_leave_out_what_is_not_finite():
    values = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, np.nan], [9.0, 1.0]], dtype=np.float32)
    first, second = column_statistics(values, np.array([0, 1, 2]))
    assert (first.mean, first.std) == (pytest.approx(2.0), pytest.approx(0.99))
    assert second.std == 0


def test_what_is_not_finite_is_missing(monkeypatch):
    names = [name for name, _ in Descriptors.descList]
    found = dict.fromkeys(names, 1.0) | {names[0]: float("inf"), names[1]: 1e60, names[2]: float("nan")}
    monkeypatch.setattr(Descriptors, "CalcMolDescriptors", lambda *_, **__: found)
    values = descriptors("CC")
    assert np.isnan(values[[0, 2]]).all()
    assert values[1] == np.finfo(np.float32).max
    assert (values[3:] == 1).all()


@pytest.mark.parametrize("bytes_left", [0, 4 * 217 * 10 + 3])
def test_a_run_goes_on_where_it_was(made, tmp_path, bytes_left):
    store, path = bare(made, tmp_path), made.path / "sidecars/descriptors"
    partial = store.path / "sidecars/descriptors.partial"
    partial.mkdir(parents=True)
    about = {"name": "descriptors", "records_sha256": store.manifest.records_sha256, "molecules": [0, len(store)]}
    versions = json.loads((path / "manifest.json").read_text())["versions"]
    import rdkit

    assert versions["rdkit"] == rdkit.__version__
    about |= {"columns": list(Sidecar(made, "descriptors").manifest.columns), "rdkit": rdkit.__version__}
    (partial / "request.json").write_text(json.dumps(about))
    whole = (path / "values.f4").read_bytes()
    marked = b"\0" * (bytes_left // (4 * 217) * 4 * 217)  # would be other values if they were computed again
    (partial / "values.f4").write_bytes(marked + whole[len(marked) : bytes_left])
    assert main(["preprocess-sidecar", "descriptors", str(store.path), "--workers", "1", "--no-progress"]) == 0
    assert (store.path / "sidecars/descriptors/values.f4").read_bytes() == marked + whole[len(marked) :]


def test_parts_are_the_whole(made, tmp_path):
    store = bare(made, tmp_path)
    words = ["preprocess-sidecar", "descriptors", str(store.path), "--no-progress"]
    assert main([*words, "--shard", "1/2", "--workers", "2"]) == 0
    assert main([*words, "--merge"]) == 2
    assert main([*words, "--shard", "0/2", "--workers", "1"]) == 0
    assert main([*words, "--merge"]) == 0
    assert Sidecar(store, "descriptors").manifest == Sidecar(made, "descriptors").manifest
    assert [path.name for path in (store.path / "sidecars").iterdir()] == ["descriptors"]
    assert main(words) == 2


def test_sidecars_of_other_stores_are_refused(made, tmp_path):
    (tmp_path / "b.smi").write_text("CCO\nCC\n")
    other = preprocessed(tmp_path / "other", "smiles", str(tmp_path / "b.smi"))
    with pytest.raises(UserError, match="make it with `moleblend preprocess-sidecar descriptors"):
        Sidecar(other, "descriptors")
    shutil.copytree(made.path / "sidecars", other.path / "sidecars")
    with pytest.raises(UserError, match="made from another store"):
        Sidecar(other, "descriptors")


@pytest.mark.parametrize("damage", ["cut", "gone", "manifest"])
def test_damaged_sidecars_are_refused(made, tmp_path, damage):
    shutil.copytree(made.path, tmp_path / "copy")
    folder = tmp_path / "copy/sidecars/descriptors"
    if damage == "cut":
        (folder / "values.f4").write_bytes((folder / "values.f4").read_bytes()[:-1])
    elif damage == "gone":
        (folder / "values.f4").unlink()
    else:
        (folder / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"delete .*sidecars/descriptors and run"):
        Sidecar(Store(tmp_path / "copy"), "descriptors")
