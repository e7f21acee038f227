"""Uni-Mol's LMDB files: conformers, matched atoms, and a pickle that can do no harm."""

import pickle

import lmdb
import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from moleblend_fs.chem.match import atomic_numbers
from moleblend_fs.chem.smiles_to_graph import BuildOptions
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
        write(tmp_path / f"{name}.lmdb", [record(s, 1.5) for s in part])
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
    records = [record("CCO", [1, -1]), record("CCO", [0, 3]), record("CCO", [1]), record("CCO", [1, 1])]
    source = open_source(write(tmp_path / "a.lmdb", records), labels)
    results = [source.parse(raw) for _, raw in source.rows(0)]
    np.testing.assert_array_equal(results[0].labels, [1, np.nan])
    assert "label 'b' is 3; a class must be 0, 1 or missing" in results[1].reason
    assert "1 target, expected 2" in results[2].reason


def test_classes_without_a_kind_are_asked_about(tmp_path):
    """-1 marks a missing class and is no number; where other values are there, it is one."""
    for name, part in (("train", (0, 1, -1, 1)), ("valid", (-1, 0)), ("test", (1,))):
        write(tmp_path / f"{name}.lmdb", [record("CCO", float(value)) for value in part])
    asked = r"\(2 x -1, Uni-Mol's mark of a missing class, left out\): label 'target' has the values .*--label target:classification"
    with pytest.raises(UserError, match=asked):
        open_source(tmp_path)
    source = open_source(tmp_path, [LabelSpec(name="target", unit="", kind="classification")])
    np.testing.assert_array_equal([source.parse(raw).labels[0] for _, raw in source.rows(0)], [0, 1, np.nan, 1, np.nan, 0, 1])
    source = open_source(tmp_path, [LabelSpec(name="target", unit="", kind="regression")])
    assert [source.parse(raw).labels[0] for _, raw in source.rows(0)] == [0, 1, -1, 1, -1, 0, 1]
    source = open_source(write(tmp_path / "a.lmdb", [record("CCO", value) for value in (0.0, 1.0, -1.0, 0.5)]))
    assert [source.parse(raw).labels[0] for _, raw in source.rows(0)] == [0, 1, -1, 0.5]


def test_one_label_stands_for_all_targets(tmp_path):
    path = write(tmp_path / "a.lmdb", [record("CCO", np.array([0, 1, -1])), record("CCO", [1, -1, 1])])
    with pytest.raises(UserError, match="for all 3 targets at once, --label target:classification"):
        open_source(path)
    source = open_source(path, [LabelSpec(name="y", unit="", kind="classification")])
    assert [(label.name, label.kind) for label in source.labels] == [(f"y_{i}", "classification") for i in range(3)]
    with pytest.raises(UserError, match="3 targets, but --label is given 2 times"):
        open_source(path, [LabelSpec(name=name, unit="", kind="classification") for name in "ab"])


def test_records_without_targets_have_no_labels(tmp_path):
    """The first one, all of the test set, or all; the others keep theirs."""
    bare, none = record("CCN", 0), record("CCN", None)
    del bare["target"]
    write(tmp_path / "train.lmdb", [bare, *(record("CCO", [0.5 + i, 2.5]) for i in range(3))])
    write(tmp_path / "test.lmdb", [bare, none])
    source = open_source(tmp_path)
    labels = np.array([source.parse(raw).labels for _, raw in source.rows(0)])
    np.testing.assert_array_equal(labels, [[np.nan] * 2, [0.5, 2.5], [1.5, 2.5], [2.5, 2.5], [np.nan] * 2, [np.nan] * 2])
    assert open_source(tmp_path / "test.lmdb").labels == ()
    [(_, raw), _] = open_source(tmp_path / "test.lmdb").rows(0)
    assert open_source(tmp_path / "test.lmdb").parse(raw).labels.shape == (0,)


@pytest.mark.parametrize(
    ("target", "expected"),
    [(2, [2]), ("0.25", [0.25]), ([None, "NA"], [np.nan] * 2), (np.float32(0.5), [0.5]), ([[1.5], [2.5]], [1.5, 2.5]), (True, [1])],
)
def test_targets_in_many_forms(tmp_path, target, expected):
    labels = [LabelSpec(name=str(i), unit="", kind="regression") for i in range(len(expected))]
    source = open_source(write(tmp_path / "a.lmdb", [record("CCO", target)]), labels)
    np.testing.assert_array_equal(source.parse(next(source.rows(0))[1]).labels, expected)


@pytest.mark.parametrize("target", ["1_5", {"a": 1}, [[1, 2]], 1e300, np.inf, 2**127, b"1"])
def test_targets_that_are_none_are_failures(tmp_path, target):
    labels = [LabelSpec(name="y", unit="", kind="regression")]
    source = open_source(write(tmp_path / "a.lmdb", [record("CCO", target), record("CCO", 1.0)]), labels)
    first, second = (source.parse(raw) for _, raw in source.rows(0))
    assert isinstance(first, Failure) != (target == 2**127)
    assert second.labels.tolist() == [1]


@pytest.mark.parametrize(
    "keys",
    [
        [b"0", b"1", b"3", b"7", b"12"],
        [b"%06d" % i for i in range(5)],
        [i.to_bytes(4, "big") for i in range(5)],
        [b"mol_%d" % i for i in range(5)],
        [b"1", b"2", b"3", b"4", b"z\xff"],
    ],
)
def test_keys_in_any_form(tmp_path, keys):
    """Each record is a row of its own, in the order of the keys, and rows go on where they were."""
    source = open_source(write(tmp_path / "a.lmdb", [record("CCO", 0.5 + i) for i in range(5)], keys=keys))
    rows = list(source.rows(0))
    assert [row for row, _ in rows] == list(range(5)) == list(range(source.num_rows()))
    assert [source.parse(raw).labels[0] for _, raw in rows] == [0.5 + i for i in range(5)]
    assert list(source.rows(3)) == rows[3:]


@pytest.mark.parametrize(
    "form", [np.array, lambda symbols: np.array(symbols, dtype="S2"), atomic_numbers, lambda symbols: atomic_numbers(symbols).tolist()]
)
def test_atoms_in_many_forms(tmp_path, form):
    item = record("CCO", 0.5)
    item["atoms"] = form(item["atoms"])
    source = open_source(write(tmp_path / "a.lmdb", [item]))
    assert source.parse(next(source.rows(0))[1]).coordinates.shape == (2, 3, 3)


def test_one_conformer_needs_no_list(tmp_path):
    item = record("CCO", 0.5)
    item["coordinates"] = item["coordinates"][0]
    source = open_source(write(tmp_path / "a.lmdb", [item]))
    assert source.parse(next(source.rows(0))[1]).coordinates.shape == (1, 3, 3)


def test_an_entry_that_is_no_record_is_a_failure(tmp_path):
    path = write(tmp_path / "b.lmdb", [record("CCO", 1.5), b"1", 7], keys=[b"0", b"__len__", b"length"])
    source = open_source(path)
    results = [source.parse(raw) for _, raw in source.rows(0)]
    assert [isinstance(result, Failure) for result in results] == [False, True, True]
    assert [result.input for result in results[1:]] == [f"{path}, record __len__", f"{path}, record length"]


def test_a_malicious_record_is_one_failure(tmp_path):
    data = pickle.dumps(record("CCO", 0.5)).replace(b"f4", b"V8")
    assert data != pickle.dumps(record("CCO", 0.5))
    source = open_source(write(tmp_path / "a.lmdb", [data, record("CCO", 1.5), b"cos\nsystem\n(X\x01\x00\x00\x00xtR."]))
    first, second, third = (source.parse(raw) for _, raw in source.rows(0))
    assert first.reason.startswith("refused, its pickle asks for an array of dtype 'V8'; only plain containers")
    assert second.labels.tolist() == [1.5]
    assert third.reason.startswith("refused, its pickle asks for os.system; only plain containers")


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


@pytest.mark.parametrize("hydrogens", [True, False])
def test_every_conformer_is_looked_at(tmp_path, hydrogens):
    """Not only the first; one that is none costs itself, and is told of."""
    whole = record("CC(C)C#N", 1.0, conformers=6, flat=False)
    good = whole["coordinates"]
    order = np.roll(np.arange(len(whole["atoms"])), 1)
    broken = [good[0] * np.nan, good[1] / 0.529177, good[2][order], np.zeros_like(good[3]), good[4] * 1e30]
    mixed, first, none = (dict(whole) for _ in range(3))
    mixed["coordinates"] = [good[0], *broken, good[5]]
    first["coordinates"] = [broken[0], good[1]]
    none["coordinates"] = [broken[0], broken[3]]
    source = open_source(write(tmp_path / "a.lmdb", [mixed, first, none]), hydrogens=hydrogens)
    mixed, first, none = (source.parse(raw) for _, raw in source.rows(0))
    np.testing.assert_array_equal(mixed.coordinates, np.stack([good[0], good[5]])[:, : mixed.num_atoms])
    assert mixed.note.startswith("5 of 7 conformers left out; of number 2: a coordinate is not a number")
    np.testing.assert_array_equal(first.coordinates, good[1][None, : first.num_atoms])
    assert first.note.startswith("1 of 2 conformers left out")
    assert none.coordinates is None
    assert none.note.startswith("no conformer: a coordinate is not a number")


def test_flat_molecules_keep_their_flat_conformers(tmp_path):
    """Benzene and water in the plane z = 0 are structures; their drawings are none."""
    from rdkit.Chem import rdDepictor

    records = []
    for smiles in ("c1ccccc1", "O"):
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        rdDistGeom.EmbedMolecule(mol, randomSeed=1)
        xyz = mol.GetConformer().GetPositions()
        xyz = (xyz - xyz.mean(axis=0)) @ np.linalg.svd(xyz - xyz.mean(axis=0))[2].T
        xyz[:, 2] = 0
        rdDepictor.Compute2DCoords(mol)
        drawn = mol.GetConformer().GetPositions()
        item = {"smi": smiles, "target": 1.0, "atoms": [a.GetSymbol() for a in mol.GetAtoms()]}
        records += [item | {"coordinates": [xyz]}, item | {"coordinates": [xyz, drawn]}, item | {"coordinates": [drawn]}]
    source = open_source(write(tmp_path / "a.lmdb", records), hydrogens=True)
    found = [source.parse(raw) for _, raw in source.rows(0)]
    assert [0 if graph.coordinates is None else len(graph.coordinates) for graph in found] == [1, 1, 0] * 2
    assert all("drawing" in graph.note for graph in found[2::3])


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


@pytest.mark.filterwarnings("error")
def test_structures_beyond_all_measure_and_smiles_that_are_no_text(tmp_path):
    far = record("CCO", [1.0], flat=False)
    far["coordinates"] = [np.asarray(xyz) * 1e30 for xyz in far["coordinates"]]
    store = UniMolLmdb(
        write(tmp_path / "a.lmdb", [far, {**record("CCN", [2.0]), "smi": b"CCN"}, {**record("CCN", [2.0]), "smi": None}]),
        labels=[LabelSpec(name="y", unit="", kind="regression")],
        build=BuildOptions(),
        splitter=Splitter(kind="none"),
    )
    first, *others = (store.parse(raw) for _, raw in store.rows(0))
    assert first.coordinates is None
    assert "more than 1e+06 Angstrom" in first.note
    assert "its smi is of type bytes" in others[0].reason
    assert "its smi is of type NoneType" in others[1].reason
