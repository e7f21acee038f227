"""Sidecars: what is computed of a store's molecules, in one go, in parts, and after a stop; whose it is; what could not be computed."""

import csv
import json
import os
import shutil
from collections import Counter

import numpy as np
import pytest
import rdkit
from rdkit import Chem
from rdkit.Chem import Descriptors, Fragments

from moleblend_fs.chem.automorphisms import automorphisms
from moleblend_fs.chem.descriptors import descriptors
from moleblend_fs.chem.motifs import motif_tree
from moleblend_fs.cli.main import main
from moleblend_fs.data.mixture import open_sidecar
from moleblend_fs.data.motif_lists import as_list, code_of
from moleblend_fs.data.record import decode
from moleblend_fs.data.sidecar import FLAGS, NUMBERS, Sidecar, column_statistics
from moleblend_fs.data.store import Store
from moleblend_fs.data.store_parts import ShardNumber
from moleblend_fs.data.stored_smiles import smiles_of_store
from moleblend_fs.errors import UserError
from moleblend_fs.sources.sidecar import make_sidecar, merge_sidecar
from moleblend_fs.sources.sidecar_kinds import Motifs, Values, kinds
from tests.conftest import preprocessed

EVERY = tuple(kinds())
SMILES = [f"{'C' * k}{x}" for k in range(1, 16) for x in ("O", "N", "c1ccccc1", "[Si](C)(C)C")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of 60 molecules with all sidecars."""
    folder = tmp_path_factory.mktemp("sidecar")
    (folder / "a.smi").write_text("\n".join(SMILES))
    store = preprocessed(folder / "store", "smiles", str(folder / "a.smi"))
    for name in EVERY:
        assert main(["preprocess-sidecar", name, str(store.path), "--workers", "1", "--no-progress"]) == 0
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


def begun(store, kind, path):
    """The folder of a run that was stopped before it had anything."""
    partial = path.with_name(path.name + ".partial")
    partial.mkdir(parents=True)
    about = {"name": kind.name, "records_sha256": store.manifest.records_sha256, "molecules": [0, len(store)]}
    (partial / "request.json").write_text(json.dumps(about | {"columns": list(kind.columns), "rdkit": rdkit.__version__}))
    return partial


@pytest.mark.parametrize("name", ["descriptors", "fragments"])
@pytest.mark.parametrize("rows_left", [0, 10.1])
def test_a_run_goes_on_where_it_was(made, tmp_path, name, rows_left):
    store, path, kind = bare(made, tmp_path), made.path / "sidecars" / name, kinds()[name]
    partial = begun(store, kind, store.path / "sidecars" / name)
    whole = (path / kind.file).read_bytes()
    left, row = int(rows_left * len(whole) / len(store)), len(whole) // len(store)
    marked = b"\0" * (left // row * row)  # would be other values if they were computed again
    (partial / kind.file).write_bytes(marked + whole[len(marked) : left])
    (partial / "failures.jsonl").write_text('[3, "A", "kept"]\n[10, "B", "made again"]\n[1, "C", "unfin')
    assert main(["preprocess-sidecar", name, str(store.path), "--workers", "1", "--no-progress"]) == 0
    assert (store.path / "sidecars" / name / kind.file).read_bytes() == marked + whole[len(marked) :]
    listed = [[str(store.source_row[3]), "A", "kept"]] if rows_left else []
    assert failures_of(store, name) == listed
    assert Sidecar(store, name).manifest.failures == len(listed)


def test_motifs_are_those_of_the_stored_molecules(made):
    """Counted over the store; the list of every molecule, read back, has its tree."""
    sidecar, graphs = Sidecar(made, "motifs"), [decode(record)[1] for record in made.records(range(60))]
    trees = [motif_tree(g.atom_features, g.bonds, g.bond_classes) for g in graphs]
    found = sidecar.manifest.vocabularies["motifs"]
    assert {entry.name: entry.count for entry in found} == Counter(name for tree in trees for name in tree.names)
    assert [(-e.count, e.name) for e in found] == sorted((-e.count, e.name) for e in found)
    assert {entry.code for entry in found} == {code_of(entry.name) for entry in found}
    assert [numbers.tolist() for numbers in sidecar.lists(range(60))] == [as_list(*tree) for tree in trees]
    rows = sidecar.carried([3, 50, 3])
    assert rows.dtype == np.int32
    assert rows[0, : len(as_list(*trees[3]))].tolist() == as_list(*trees[3])
    assert sidecar.manifest.without == 0


class MotifsOfMost(Motifs):
    """Fails at molecules of two atoms."""

    def found(self, atom_features, bonds, bond_classes):
        if len(atom_features) == 2:
            raise KeyError("boom")
        return super().found(atom_features, bonds, bond_classes)


def test_motifs_of_a_molecule_that_fails_are_an_empty_list(made, tmp_path):
    store = bare(made, tmp_path)
    make_sidecar(store, MotifsOfMost(), workers=1, progress=False)
    sidecar = Sidecar(store, "motifs")
    empty = [i for i, numbers in enumerate(sidecar.lists(range(60))) if not len(numbers)]
    assert empty == [i for i, n in enumerate(store.num_atoms.tolist()) if n == 2]
    assert (sidecar.manifest.without, sidecar.manifest.failures) == (2, 2)
    assert {reason for _, _, reason in failures_of(store, "motifs")} == {"KeyError: 'boom'"}


def test_automorphisms_are_those_of_the_stored_molecules(made):
    """Besides the identity; counted over the store, too many among them: a phenyl ring can be turned, three methyl groups be swapped."""
    sidecar, graphs = Sidecar(made, "automorphisms"), [decode(record)[1] for record in made.records(range(60))]
    orders = [automorphisms(g.atom_features[:, 0], g.bonds, g.bond_classes) for g in graphs]
    for numbers, (found, _) in zip(sidecar.lists(range(60)), orders, strict=True):
        assert numbers.tolist() == ([len(found) - 1, *found[1:].reshape(-1).tolist()] if len(found) > 1 else [])
    counted = Counter(f"more than {len(found)}" if more else str(len(found)) for found, more in orders)
    assert {entry.name: entry.count for entry in sidecar.manifest.vocabularies["symmetries"]} == counted
    assert len(counted) > 2


def test_damaged_lists_are_refused(made, tmp_path):
    shutil.copytree(made.path, tmp_path / "copy")
    lists = tmp_path / "copy/sidecars/automorphisms/lists.u2"
    lists.write_bytes(lists.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"lists.u2 has .* bytes instead of .*; delete .*sidecars/automorphisms and run"):
        Sidecar(Store(tmp_path / "copy"), "automorphisms")


@pytest.mark.parametrize("unfinished", ["", '{"molecules": 3, "at'])
def test_counting_goes_on_where_it_was(made, tmp_path, unfinished):
    """Counts of the first 10 molecules are taken as they stand there, those of the others are added."""
    store, kind = bare(made, tmp_path), kinds()["contexts"]
    partial = begun(store, kind, store.path / "sidecars/contexts")
    (partial / kind.file).write_text(json.dumps({"molecules": 10, "atoms": [["X", 7, 1000]], "bonds": []}) + "\n" + unfinished)
    assert main(["preprocess-sidecar", "contexts", str(store.path), "--workers", "1", "--no-progress"]) == 0
    first, *found = Sidecar(store, "contexts").manifest.vocabularies["atoms"]
    assert (first.name, first.code, first.count) == ("X", 7, 1000)
    rest = Counter(name for _, (s,) in rows_of(store, range(10, 60)) for name in rdkits_atoms(s))
    assert {entry.name: entry.count for entry in found} == rest


@pytest.mark.parametrize("name", EVERY)
def test_parts_are_the_whole(made, tmp_path, name):
    store = bare(made, tmp_path)
    words = ["preprocess-sidecar", name, str(store.path), "--no-progress"]
    assert main([*words, "--shard", "1/2", "--workers", "2"]) == 0
    assert main([*words, "--merge"]) == 2
    assert main([*words, "--shard", "0/2", "--workers", "1"]) == 0
    assert main([*words, "--merge"]) == 0
    assert Sidecar(store, name).manifest == Sidecar(made, name).manifest
    assert [path.name for path in (store.path / "sidecars").iterdir()] == [name]
    here, there = ({path.name: path.read_bytes() for path in (s.path / "sidecars" / name).iterdir()} for s in (store, made))
    assert here == there
    assert main(words) == 2


def rows_of(store, part):
    return ((index, (smiles,)) for index, smiles in smiles_of_store(store, part))


def failures_of(store, name):
    with open(store.path / "sidecars" / name / "failures.csv", newline="") as stream:
        header, *lines = csv.reader(stream)
    assert header == ["row", "input", "reason"]
    return lines


def lengths(smiles):
    """(2,) of molecules with an O; others fail in some of the ways that there are."""
    if "Si" in smiles:
        raise ValueError("silicon, of all things")
    if smiles == "CCCN":
        os.kill(os.getpid(), 9)
    if smiles == "CCN":
        raise KeyError("boom")
    return np.array([len(smiles), np.nan])


@pytest.mark.parametrize(("shards", "stored"), [(1, FLAGS), (2, NUMBERS)])
def test_molecules_that_fail_are_listed(made, tmp_path, shards, stored):
    """In the order of the store and with what went wrong; their rows have no value; the others' have."""
    store = bare(made, tmp_path)
    kind = Values(lengths, ("length", "nothing"), stored)
    for index in range(shards):
        make_sidecar(store, kind, workers=1, shard=ShardNumber(index, shards) if shards > 1 else None, progress=False)
    if shards > 1:
        merge_sidecar(store, kind)
    sidecar, listed = Sidecar(store, "lengths"), failures_of(store, "lengths")
    failing = [(i, s) for i, (s,) in rows_of(store, range(60)) if "Si" in s or s in ("CCN", "CCCN")]
    assert [(int(row), given) for row, given, _ in listed] == [(int(store.source_row[i]), s) for i, s in failing]
    reasons = {given: reason for _, given, reason in listed}
    assert len(reasons) == sidecar.manifest.failures == 17
    assert reasons["C[Si](C)(C)C"] == "silicon, of all things"
    assert reasons["CCN"] == "KeyError: 'boom'"
    assert "died (SIGKILL)" in reasons["CCCN"]
    bad = np.isin(np.arange(60), [i for i, _ in failing])
    values = sidecar.raw(range(60))
    gone = np.isnan(values) if kind.kind == NUMBERS else values == 255
    assert gone[:, 0].tolist() == bad.tolist()
    assert sidecar.manifest.without == 17


def test_fragments_are_rdkits(made):
    sidecar = Sidecar(made, "fragments")
    assert len(sidecar.manifest.columns) == 85
    (index, smiles), *_ = list(smiles_of_store(made, [18]))
    counted = {name: getattr(Fragments, name)(Chem.MolFromSmiles(smiles)) for name in sidecar.manifest.columns}
    assert sidecar.raw([index])[0].tolist() == [int(n > 0) for n in counted.values()]
    assert sidecar.carried([index]).dtype == np.uint8
    assert 0 < sidecar.raw([index]).sum() < 10


def rdkits_atoms(smiles):
    """GROVER's names of a molecule's atoms' contexts, from RDKit's own molecule."""
    for atom in Chem.MolFromSmiles(smiles).GetAtoms():
        near = Counter(f"{bond.GetOtherAtom(atom).GetSymbol()}-{bond.GetBondType()}" for bond in atom.GetBonds())
        yield "_".join([atom.GetSymbol(), *(f"{part}{near[part]}" for part in sorted(near))])


def rdkits_bonds(smiles):
    """The same of bonds, without the direction that the store does not have."""

    def told(bond):
        return f"({bond.GetBondType()}-{bond.GetStereo()})"

    for bond in Chem.MolFromSmiles(smiles).GetBonds():
        ends = (bond.GetBeginAtom(), bond.GetEndAtom())
        near = Counter(f"{end.GetSymbol()}-{told(b)}" for end in ends for b in end.GetBonds() if b.GetIdx() != bond.GetIdx())
        yield "_".join([told(bond), *(f"{part}{near[part]}" for part in sorted(near))])


def test_vocabularies_are_counted_over_the_store(made):
    """Against RDKit's molecules; most frequent first, then by name."""
    sidecar = Sidecar(made, "contexts")
    assert sidecar.carried([1, 2]) is None
    for what, names in (("atoms", rdkits_atoms), ("bonds", rdkits_bonds)):
        expected = Counter(name for _, (smiles,) in rows_of(made, range(60)) for name in names(smiles))
        found = sidecar.manifest.vocabularies[what]
        assert {entry.name: entry.count for entry in found} == expected
        assert [(-e.count, e.name) for e in found] == sorted((-e.count, e.name) for e in found)
        assert len({entry.code for entry in found}) == len(found) > 5


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


@pytest.mark.parametrize(
    ("name", "file", "place"), [("descriptors", "values.f4", 400), ("fragments", "values.u1", 7), ("motifs", "starts.i8", 17)]
)
def test_a_damaged_byte_is_found(made, tmp_path, capsys, name, file, place):
    """Which would be learned otherwise."""
    shutil.copytree(made.path, tmp_path / "copy")
    store = Store(tmp_path / "copy")
    open_sidecar(store, name)
    damaged = tmp_path / "copy/sidecars" / name / file
    content = bytearray(damaged.read_bytes())
    content[place] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(UserError, match=f"sidecars/{name}: damaged.*delete .*sidecars/{name} and run"):
        open_sidecar(store, name)
    assert main(["inspect", str(store.path), "--verify"]) == 1
    assert f"sidecars/{name}: damaged" in "".join(capsys.readouterr())


def test_a_vocabulary_that_was_changed_is_found(made, tmp_path):
    shutil.copytree(made.path, tmp_path / "copy")
    manifest = tmp_path / "copy/sidecars/contexts/manifest.json"
    content = json.loads(manifest.read_text())
    content["vocabularies"]["atoms"][0]["code"] += 1
    manifest.write_text(json.dumps(content))
    with pytest.raises(UserError, match="sidecars/contexts: damaged"):
        open_sidecar(Store(tmp_path / "copy"), "contexts")
