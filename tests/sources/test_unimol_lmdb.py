"""Uni-Mol's LMDB files: conformers, matched atoms, and a pickle that can do no harm."""

import pickle

import lmdb
import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from moleblend_fs.chem.build import BuildOptions
from moleblend_fs.data.graph import Failure, LabelSpec
from moleblend_fs.data.splits import Splitter
from moleblend_fs.errors import UserError
from moleblend_fs.sources.unimol_lmdb import UniMolLmdb

SMILES = ("CCO", "CC(=O)N", "c1ccccc1O", "C", "CC(C)C#N")


def record(smiles, target, conformers=2, flat=True):
    """As Uni-Mol's own script makes it: hydrogens added, ETKDG conformers, a flat drawing last."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    ids = rdDistGeom.EmbedMultipleConfs(mol, conformers, randomSeed=1)
    coordinates = [mol.GetConformer(i).GetPositions().astype(np.float32) for i in ids]
    if flat:
        coordinates.append(np.concatenate([coordinates[0][:, :2], np.zeros((mol.GetNumAtoms(), 1))], axis=1).astype(np.float32))
    return {"smi": smiles, "target": target, "atoms": [a.GetSymbol() for a in mol.GetAtoms()], "coordinates": coordinates, "id": 0}


def write(path, records, protocol=None, keys=None):
    with lmdb.open(str(path), subdir=False, map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for i, item in enumerate(records):
            value = item if isinstance(item, bytes) else pickle.dumps(item, protocol=protocol)
            transaction.put(keys[i] if keys else str(i).encode(), value)
    return path


def open_source(path, labels=(), hydrogens=False):
    return UniMolLmdb(path, labels=labels, build=BuildOptions(hydrogens=hydrogens), splitter=Splitter(kind="random"))


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("hydrogens", [True, False])
def test_conformers_and_targets(tmp_path, protocol, hydrogens):
    records = [record(s, np.array([i, 2.5])) for i, s in enumerate(SMILES)]
    source = open_source(write(tmp_path / "a.lmdb", records, protocol), hydrogens=hydrogens)
    assert [label.name for label in source.labels] == ["target_0", "target_1"]
    assert source.num_rows() == len(SMILES)
    for row, raw in source.rows(0):
        graph = source.parse(raw)
        assert not isinstance(graph, Failure)
        assert graph.labels.tolist() == [row, 2.5]
        assert graph.coordinates.shape[0] == 2  # the flat drawing is no structure
        np.testing.assert_array_equal(graph.coordinates[1], records[row]["coordinates"][1][: graph.num_atoms])


def test_folder_gives_splits_and_rows_go_on_where_they_were(tmp_path):
    for name, part in (("train", SMILES[:3]), ("valid", SMILES[3:4]), ("test", SMILES[4:])):
        write(tmp_path / f"{name}.lmdb", [record(s, 1.0) for s in part])
    source = open_source(tmp_path)
    rows = list(source.rows(0))
    assert [(row, raw.split) for row, raw in rows] == [(0, "train"), (1, "train"), (2, "train"), (3, "valid"), (4, "test")]
    assert [source.parse(raw).smiles for _, raw in rows] == list(SMILES)
    for start in range(6):
        assert list(source.rows(start)) == rows[start:]


def test_more_than_ten_records_keep_their_numbers(tmp_path):
    """LMDB sorts "10" before "2"."""
    source = open_source(write(tmp_path / "a.lmdb", [record("CCO", float(i)) for i in range(12)]))
    assert [source.parse(raw).labels[0] for _, raw in source.rows(0)] == list(range(12))


def test_missing_classes_and_wrong_ones(tmp_path):
    labels = [LabelSpec(name=name, unit="", kind="classification") for name in "ab"]
    records = [record("CCO", [1, -1]), record("CCO", [0, 3]), record("CCO", [1])]
    source = open_source(write(tmp_path / "a.lmdb", records), labels)
    results = [source.parse(raw) for _, raw in source.rows(0)]
    np.testing.assert_array_equal(results[0].labels, [1, np.nan])
    assert "class 3" in results[1].reason
    assert "1 targets, expected 2" in results[2].reason


def test_shuffled_atoms_are_matched_and_foreign_ones_refused(tmp_path):
    shuffled, foreign, flat = record("CC(C)C#N", 1.0), record("CCO", 1.0), record("CCO", 1.0)
    order = np.random.default_rng(0).permutation(len(shuffled["atoms"]))
    plain = shuffled["coordinates"][0].copy()
    shuffled["atoms"] = [shuffled["atoms"][i] for i in order]
    shuffled["coordinates"] = [c[order] for c in shuffled["coordinates"]]
    foreign["smi"] = "COC"
    flat["coordinates"] = flat["coordinates"][-1:]
    source = open_source(write(tmp_path / "a.lmdb", [shuffled, foreign, flat]))
    first, second, third = (source.parse(raw) for _, raw in source.rows(0))
    bonds = first.bonds
    np.testing.assert_allclose(
        np.sort(np.linalg.norm(first.coordinates[0][bonds[:, 0]] - first.coordinates[0][bonds[:, 1]], axis=1)),
        np.sort(np.linalg.norm(plain[bonds[:, 0]] - plain[bonds[:, 1]], axis=1)),
        rtol=1e-5,
    )
    assert "do not match" in second.reason
    assert third.coordinates is None
    assert third.note.startswith("no conformer:")


def test_records_without_hydrogens(tmp_path):
    item = record("CC(C)C#N", 1.0)
    heavy = [i for i, symbol in enumerate(item["atoms"]) if symbol != "H"]
    item["atoms"] = [item["atoms"][i] for i in heavy]
    item["coordinates"] = [c[heavy] for c in item["coordinates"]]
    path = write(tmp_path / "a.lmdb", [item])
    [(_, raw)] = open_source(path).rows(0)
    assert open_source(path).parse(raw).coordinates.shape == (2, 5, 3)
    assert "lacks hydrogens" in open_source(path, hydrogens=True).parse(raw).reason


def test_damaged_files(tmp_path):
    for path, message in ((tmp_path, r"no train\.lmdb"), (tmp_path / "x.lmdb", "no such file")):
        with pytest.raises(UserError, match=message):
            open_source(path)
    (tmp_path / "text.lmdb").write_text("smiles,y\n" * 5000)
    with pytest.raises(UserError, match="not an LMDB file"):
        open_source(tmp_path / "text.lmdb")
    whole = write(tmp_path / "whole.lmdb", [record("CC(C)C#N", 1.0) for _ in range(60)])
    (tmp_path / "cut.lmdb").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(UserError, match="cut short"):
        open_source(tmp_path / "cut.lmdb")
    odd = write(tmp_path / "odd.lmdb", [record("CCO", 1.0), b"junk", [1, 2], {"smi": "C"}])
    source = open_source(odd)
    results = [source.parse(raw) for _, raw in source.rows(0)]
    assert [isinstance(r, Failure) for r in results] == [False, True, True, True]
    assert "record 1" in results[1].input
