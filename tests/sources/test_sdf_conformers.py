"""Conformers of a molecule in an SD file: one molecule, whatever their place and the order of their atoms."""

import csv
import shutil

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from moleblend_fs.chem.smiles_to_graph import BuildOptions
from moleblend_fs.cli.main import main
from moleblend_fs.data.record import decode
from moleblend_fs.data.splits import Splitter
from moleblend_fs.data.store import Store, forget
from moleblend_fs.data.store_parts import ShardNumber, merge_shards
from moleblend_fs.sources.labels import parse_label
from moleblend_fs.sources.run import preprocess, preprocess_shard
from moleblend_fs.sources.sdf import SdfSource
from tests.inference.untrained_models import untrained

SMILES = ("CC(C)CO", "C[C@H](N)C(=O)O", "Cc1ccc(F)cc1", "C[C@@H](N)C(=O)O", "OCC(O)CO")
CONFORMERS = 4


@pytest.fixture(scope="module")
def embedded():
    """Name -> molecule with hydrogens and conformers."""
    mols = {}
    for smiles in SMILES:
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        assert len(rdDistGeom.EmbedMultipleConfs(mol, CONFORMERS, randomSeed=2)) == CONFORMERS
        mols[smiles] = mol
    return mols


def write(path, embedded, *, shuffle, energies=True, order=None):
    """One conformer after the other of all molecules in turn, atoms shuffled; the places of the molecules as (smiles, conformer)."""
    rng = np.random.default_rng(4)
    records = [(smiles, c) for c in range(CONFORMERS) for smiles in SMILES]
    with Chem.SDWriter(str(path)) as writer:
        for smiles, number in records:
            mol = Chem.Mol(embedded[smiles], False, number)
            if shuffle:
                mol = Chem.RenumberAtoms(mol, rng.permutation(mol.GetNumAtoms()).tolist())
            mol.SetProp("class", str(SMILES.index(smiles) % 2))
            mol.SetProp("energy", str(number) if energies else "7")
            writer.write(mol)
    return records


def source_of(path, *, labels=(), hydrogens=False, join=True, kind="random"):
    return SdfSource(
        path, labels=[parse_label(x) for x in labels], build=BuildOptions(hydrogens=hydrogens), splitter=Splitter(kind=kind), join=join
    )


def distances(xyz):
    """Sorted, the same for a conformer in whatever order its atoms are."""
    return np.sort(np.linalg.norm(xyz[:, None] - xyz[None], axis=2).ravel())


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("hydrogens", [False, True])
def test_conformers_of_a_molecule_are_grouped_and_their_atoms_matched(tmp_path, embedded, shuffle, hydrogens):
    records = write(tmp_path / "a.sdf", embedded, shuffle=shuffle)
    manifest = preprocess(
        source_of(tmp_path / "a.sdf", labels=["class:classification"], hydrogens=hydrogens), tmp_path / "s", progress=False
    )
    assert (manifest.molecules, manifest.conformers, manifest.failures) == (5, 20, 0)
    assert manifest.rows.left_out == {"conformers of a molecule of another row": 15}
    assert any("20 records are conformers of 5 molecules" in note for note in manifest.notes)
    store = Store(tmp_path / "s")
    assert store.source_row.tolist() == [0, 1, 2, 3, 4]
    for index, smiles in enumerate(SMILES):
        row, graph = decode(store.record(index))
        assert (row, Chem.CanonSmiles(smiles)) == (index, Chem.CanonSmiles(graph.smiles))
        assert graph.labels.tolist() == [index % 2]
        for number, xyz in enumerate(graph.coordinates):
            theirs = embedded[smiles].GetConformer(number).GetPositions()
            heavy = [a.GetIdx() for a in embedded[smiles].GetAtoms() if hydrogens or a.GetAtomicNum() > 1]
            np.testing.assert_allclose(distances(xyz), distances(theirs[heavy]), atol=1e-3)
            # Bonds and what lies two bonds apart are as long in each conformer, to what ETKDG varies them, only if atoms are matched.
            for apart in (1, 2):
                i, j = np.nonzero(graph.spd == apart)
                lengths = np.linalg.norm(graph.coordinates[:, i] - graph.coordinates[:, j], axis=2)
                assert np.abs(lengths - lengths.mean(axis=0)).max() < 0.25
    assert len(records) == 20


def test_the_same_through_shards_and_any_number_of_workers(tmp_path, embedded):
    write(tmp_path / "a.sdf", embedded, shuffle=True)
    source = source_of(tmp_path / "a.sdf", labels=["energy"])
    source.chunk_rows = 3
    hashes = {preprocess(source, tmp_path / str(workers), workers=workers, progress=False).records_sha256 for workers in (1, 2)}
    for index in range(2):
        preprocess_shard(source, tmp_path / "merged", ShardNumber(index, 2), progress=False)
    merged = merge_shards(tmp_path / "merged")
    assert hashes == {merged.records_sha256}
    assert (tmp_path / "merged" / "failures.csv").read_bytes() == (tmp_path / "1" / "failures.csv").read_bytes()


def test_labels_that_contradict_are_reported(tmp_path, embedded):
    write(tmp_path / "a.sdf", embedded, shuffle=True)
    manifest = preprocess(source_of(tmp_path / "a.sdf", labels=["energy"]), tmp_path / "s", progress=False)
    assert (manifest.molecules, manifest.failures, manifest.rows.failed) == (5, 15, 0)
    with open(tmp_path / "s" / "failures.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["row"]) for row in rows] == list(range(5, 20))
    assert rows[-1]["reason"] == "a conformer of the molecule of row 4, whose labels are kept: energy is 3, there 0"
    assert [decode(record)[1].labels.tolist() for record in map(Store(tmp_path / "s").record, range(5))] == [[0.0]] * 5
    write(tmp_path / "b.sdf", embedded, shuffle=True, energies=False)
    assert preprocess(source_of(tmp_path / "b.sdf", labels=["energy"]), tmp_path / "t", progress=False).failures == 0


def test_as_molecules_of_their_own_on_demand(tmp_path, embedded):
    write(tmp_path / "a.sdf", embedded, shuffle=True)
    manifest = preprocess(source_of(tmp_path / "a.sdf", labels=["energy"], join=False), tmp_path / "s", progress=False)
    assert (manifest.molecules, manifest.conformers, manifest.failures) == (20, 20, 0)
    store, split_of = Store(tmp_path / "s"), {}
    for name in manifest.splits:
        for index in store.split(name).tolist():
            split_of.setdefault(decode(store.record(index))[1].smiles, set()).add(name)
    assert all(len(names) == 1 for names in split_of.values())  # a molecule is in one part of a random split


def test_conformers_that_are_none_are_left_out_of_their_molecule(tmp_path, embedded):
    write(tmp_path / "a.sdf", embedded, shuffle=False)
    flattened(tmp_path / "a.sdf", tmp_path / "b.sdf", 5)
    manifest = preprocess(source_of(tmp_path / "b.sdf"), tmp_path / "s", progress=False)
    assert (manifest.molecules, manifest.conformers, manifest.failures) == (5, 19, 1)
    assert manifest.rows.text() == "20 rows read = 5 stored + 0 failed + 15 conformers of a molecule of another row"


def flattened(path, out, *records):
    """An SD file with all atoms of some records in one place."""
    mols = list(Chem.SDMolSupplier(str(path), removeHs=False))
    with Chem.SDWriter(str(out)) as writer:
        for number, mol in enumerate(mols):
            for atom in range(mol.GetNumAtoms() if number in records else 0):
                mol.GetConformer().SetAtomPosition(atom, [0, 0, 0])
            mol.SetProp("_Name", f"X{number}")
            writer.write(mol)


def predicted(out, *words):
    assert main(["predict", *map(str, words[:2]), str(out), *map(str, words[2:]), "--workers", "0", "--no-progress"]) == 0
    with open(out, newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def joined(tmp_path_factory, embedded):
    """(SD file, store of it): records 2 and 7 have no structure, and labels contradict."""
    folder = tmp_path_factory.mktemp("joined")
    write(folder / "a.sdf", embedded, shuffle=True)
    flattened(folder / "a.sdf", folder / "b.sdf", 2, 7)
    preprocess(source_of(folder / "b.sdf", labels=["energy"]), folder / "s", progress=False)
    return folder / "b.sdf", folder / "s"


@pytest.mark.parametrize("inputs", ["2d", "3d", "2d+3d"])
def test_every_record_is_predicted_from_its_own_structure(tmp_path, capsys, joined, inputs):
    path, store = joined
    model = untrained(tmp_path / "model", targets=("gap",), inputs=inputs)
    capsys.readouterr()
    lines = predicted(tmp_path / "store.csv", model, store, "--source", path)
    assert "no line" not in capsys.readouterr().err
    direct = predicted(tmp_path / "file.csv", model, path)
    assert [(int(line["row"]), line["title"]) for line in lines] == [(row, f"X{row}") for row in range(20)]
    for row, (line, its) in enumerate(zip(lines, direct, strict=True)):
        assert Chem.CanonSmiles(line["smiles"]) == Chem.CanonSmiles(its["smiles"])
        told = [f"a conformer of the molecule of row {row % 5}, whose labels are kept: energy is {row // 5}, there 0"] * (row > 4)
        if row == 2:  # its molecule has the structures of the others
            assert line["status"].startswith("ok; no conformer")
            continue
        its_status = its["status"].split("; ")[0]
        none = ["no conformer: all atoms lie at one point"] * (row == 7)
        assert line["status"] == "; ".join([its_status, *none, *told])
        assert (line["gap"] == "") == (its["gap"] == "") == (row == 7 and inputs == "3d")
        assert line["gap"] == "" or float(line["gap"]) == pytest.approx(float(its["gap"]), rel=1e-5)


def test_a_table_of_one_split_says_which_rows_it_lacks(tmp_path, capsys, joined):
    model = untrained(tmp_path / "model")
    part = Store(joined[1]).manifest.splits["train"].molecules
    assert len(predicted(tmp_path / "out.csv", model, joined[1], "--split", "train")) == part
    said = capsys.readouterr().err
    assert f"{3 * part} rows of the source have no line: they are conformers of a molecule of another row; leave --split out" in said
    assert "belong to no split" not in said


def test_a_damaged_list_of_joined_rows_is_told(tmp_path, capsys, joined):
    shutil.copytree(joined[1], tmp_path / "s")
    rows = Store(tmp_path / "s").joined_rows
    assert rows[:, 0].tolist() == list(range(5, 20))
    np.save(tmp_path / "s" / "joined_rows.npy", rows[::-1])
    assert main(["predict", str(untrained(tmp_path / "model")), str(tmp_path / "s"), str(tmp_path / "out.csv")]) == 2
    assert f"{tmp_path}/s/joined_rows.npy: other rows than the manifest has; copy the store again" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "s"), "--verify"]) == 1
    assert "joined_rows.npy: other rows" in capsys.readouterr().err
    forget(tmp_path / "s" / "records.lmdb")
