"""QM9 in its three forms: units, references, matched structures, and what is refused."""

import csv
import lzma
from itertools import islice

import numpy as np
import pytest
from rdkit import Chem

from moleblend_fs.data.graph import Failure
from moleblend_fs.errors import UserError
from moleblend_fs.sources.qm9 import COUNTS, HARTREE_IN_MEV, SPLITTER, TARGETS, labels_in_units, open_qm9

METHANE = {"alpha": 13.21, "gap": 0.5048, "homo": -0.3877, "lumo": 0.1171, "mu": 0.0, "cv": 6.469, "g298": -40.498597}
METHANE |= {"h298": -40.475117, "r2": 35.3641, "u298": -40.476062, "u0": -40.47893, "zpve": 0.044749}


def read(source, count=None):
    return [(row, source.parse(raw)) for row, raw in islice(source.rows(0), count)]


def test_methane_in_the_papers_units():
    """Against the atomisation energies that QM9's own table gives for methane: U0 -395.999595 kcal/mol and so on."""
    labels = labels_in_units([METHANE[t.name] for t in TARGETS], np.array([6, 1, 1, 1, 1]))
    found = dict(zip((t.name for t in TARGETS), labels, strict=True))
    kcal = 43.36410390059322  # meV
    assert found["u0"] == pytest.approx(-395.999594594 * kcal, rel=1e-6)
    assert found["u298"] == pytest.approx(-398.643290011 * kcal, rel=1e-6)
    assert found["h298"] == pytest.approx(-401.014646522 * kcal, rel=1e-6)
    assert found["g298"] == pytest.approx(-372.471772148 * kcal, rel=1e-6)
    assert found["gap"] == pytest.approx(0.5048 * HARTREE_IN_MEV)
    assert found["zpve"] == pytest.approx(1217.68, rel=1e-4)
    assert (found["alpha"], found["mu"], found["cv"], found["r2"]) == (13.21, 0.0, 6.469, 35.3641)


def test_energies_in_other_units_are_refused():
    kcal = [METHANE[t.name] * (627.5 if t.in_hartree else 1) for t in TARGETS]
    with pytest.raises(ValueError, match="not plausible"):
        labels_in_units(kcal, np.array([6, 1, 1, 1, 1]))
    with pytest.raises(ValueError, match="no reference energy for atomic number 16"):
        labels_in_units([METHANE[t.name] for t in TARGETS], np.array([16, 1, 1]))


def test_sample_matches_and_has_physical_bonds(qm9_sample):
    source = open_qm9(str(qm9_sample))
    assert [label.name for label in source.labels][:4] == ["alpha", "gap", "homo", "lumo"]
    for _, graph in read(source, 300):
        assert not isinstance(graph, Failure)
        assert graph.coordinates.shape == (1, graph.num_atoms, 3)
        assert np.isfinite(graph.labels).all()
        length = np.linalg.norm(graph.coordinates[0][graph.bonds[:, 0]] - graph.coordinates[0][graph.bonds[:, 1]], axis=1)
        assert ((length > 0.9) & (length < 1.9)).all()
        gap, homo, lumo = graph.labels[1:4]
        assert gap == pytest.approx(lumo - homo, abs=6)  # the file rounds to 1e-4 Hartree = 2.7 meV


def test_heavy_atoms_only_are_a_sub_graph(qm9_sample):
    full = read(open_qm9(str(qm9_sample)), 40)
    heavy = read(open_qm9(str(qm9_sample), hydrogens=False), 40)
    for (_, with_h), (_, without) in zip(full, heavy, strict=True):
        n = without.num_atoms
        assert (without.atom_features[:, 0] > 0).all()
        np.testing.assert_array_equal(without.coordinates, with_h.coordinates[:, :n])
        np.testing.assert_array_equal(without.spd, with_h.spd[:n, :n])
        np.testing.assert_array_equal(without.labels, with_h.labels)


def test_split_has_the_papers_sizes():
    parts = SPLITTER(rows=np.arange(sum(COUNTS)), prescribed=[], scaffolds=[])
    assert tuple(len(part) for part in parts.values()) == COUNTS
    assert len(np.unique(np.concatenate(list(parts.values())))) == sum(COUNTS)


@pytest.fixture(scope="module")
def original(qm9_sample, tmp_path_factory):
    """The layout of gdb9.tar.gz, written from the first molecules of the sample: SD records, CSV, uncharacterized.txt."""
    folder = tmp_path_factory.mktemp("gdb9")
    with lzma.open(qm9_sample, "rt") as stream:
        rows = list(islice(csv.DictReader(stream), 25))
    source = open_qm9(str(qm9_sample))
    with Chem.SDWriter(str(folder / "gdb9.sdf")) as writer:
        for number, (row, (_, raw)) in enumerate(zip(rows, source.rows(0), strict=False)):
            mol, xyz = source.structure(raw)
            conformer = Chem.Conformer(mol.GetNumAtoms())
            for i, position in enumerate(xyz.tolist()):
                conformer.SetAtomPosition(i, position)
            mol.AddConformer(conformer)
            mol.SetProp("_Name", f"gdb_{number + 1}")
            writer.write(mol)
            row["smiles"] = row["SMILES"]
    for name, extra in (("gdb9.sdf.csv", []), ("qm9.csv", ["smiles"])):
        with open(folder / name, "w") as stream:
            table = csv.writer(stream)
            table.writerow(["mol_id", *extra, *(t.name for t in TARGETS)])
            for number, row in enumerate(rows):
                table.writerow([f"gdb_{number + 1}", *(row[e] for e in extra), *(row[t.column] for t in TARGETS)])
    (folder / "uncharacterized.txt").write_text("header\n   Index  SMILES\n" + "       3  C  C  C\n")
    return folder


@pytest.mark.parametrize("with_smiles", [True, False])
def test_original_files_give_the_same_molecules(original, qm9_sample, with_smiles, tmp_path):
    names = ["gdb9.sdf", "qm9.csv" if with_smiles else "gdb9.sdf.csv", "uncharacterized.txt"]
    for name in names:
        (tmp_path / name).symlink_to(original / name)
    source = open_qm9(str(tmp_path))
    assert [path.name for path in source.files()] == names
    found = read(source)
    assert isinstance(found[2][1], Failure)
    assert "uncharacterized.txt" in found[2][1].reason
    wanted = read(open_qm9(str(qm9_sample)), 25)
    assert len(found) == 25
    for row in (r for r in range(25) if r != 2):
        ours, theirs = found[row][1], wanted[row][1]
        np.testing.assert_allclose(ours.labels, theirs.labels, rtol=1e-6)
        np.testing.assert_allclose(ours.coordinates, theirs.coordinates, atol=1e-4)  # SD files have four decimals
        np.testing.assert_array_equal(ours.spd, theirs.spd)


def test_resumed_rows_are_the_same(original):
    source = open_qm9(str(original))
    whole, rest = list(source.rows(0)), list(source.rows(7))
    assert whole[7:] == rest
    assert [row for row, _ in rest] == list(range(7, 25))


def test_mismatch_is_a_failure_with_its_reason(qm9_sample):
    source = open_qm9(str(qm9_sample))
    raws = [raw for _, raw in islice(source.rows(0), 2)]
    other = source.parse(raws[0]._replace(smiles="CCCCO"))
    assert isinstance(other, Failure)
    assert "do not match" in other.reason
    assert "coordinates" in source.parse(raws[0]._replace(positions="[[0,0,0]]")).reason
    assert isinstance(source.parse(raws[0]._replace(targets=["x"] * 12)), Failure)
    for factor in ("1e300", "1e10"):
        huge = source.parse(raws[0]._replace(positions=raws[0].positions.replace("1", factor)))
        assert isinstance(huge, Failure)


def test_wrong_input(tmp_path):
    for path, message in ((tmp_path / "no.csv", "no such file"), (tmp_path, r"gdb9\.sdf")):
        with pytest.raises(UserError, match=message):
            open_qm9(str(path))
    (tmp_path / "a.csv").write_text("smiles,gap\nC,1\n")
    with pytest.raises(UserError, match="no column 'SMILES'"):
        open_qm9(str(tmp_path / "a.csv"))
