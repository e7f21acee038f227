"""Features against OGB's own functions on real and on odd molecules, and against the golden files."""

import csv
import gzip

import numpy as np
import pytest
from ogb.utils.features import atom_to_feature_vector, bond_to_feature_vector
from rdkit import Chem

from moleblend_fs.chem.mol_to_graph import atom_features, bond_arrays, graph_from_mol
from moleblend_fs.chem.parse import silence_rdkit
from moleblend_fs.chem.smiles_to_graph import BuildOptions, graph_from_smiles
from moleblend_fs.data.graph import Failure, bond_class, bond_class_features

ODD = (
    "*C(=O)*",  # no element
    "[Cl-]->[Pt+2](<-[Cl-])(<-N)<-N",  # dative bonds
    "CC.[Na+].[Cl-]",
    "[CH2]C",  # radical
    "[O][O]",
    "[Fe]",
    "[U+6]",  # charge outside of OGB's list
    "F[P-](F)(F)(F)(F)F",
    "S(F)(F)(F)(F)(F)F",
    "[2H]C([3H])O",
    "C1=CC=CC=CC=C1",
    "C/C=C/C=C\\C",
    "C[C@H](N)C(=O)O",
    "F/C=C/F",
    "[H][H]",
    "[Xe]",
    "[BH4-]",
    "[C-]#[O+]",
    "[CH3:1][OH:2]",
    "CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC",
    "C[Pt@SP1](F)(Cl)Br",  # chirality that OGB calls misc
    "C[As@TB1](F)(Cl)(Br)N",
    "[CH]#[CH]~C",  # unspecified bond
)


def smiles_of(path, limit=None):
    with gzip.open(path, "rt") as stream:
        return [row["smiles"] for row, _ in zip(csv.DictReader(stream), range(limit or 10**9), strict=False)]


def compare(smiles: str) -> bool:
    mol = Chem.MolFromSmiles(smiles)
    if mol is None or mol.GetNumAtoms() == 0:
        return False
    for molecule in (mol, Chem.AddHs(mol)) if len(smiles) < 12 else (mol,):
        wanted = [atom_to_feature_vector(atom) for atom in molecule.GetAtoms()]
        np.testing.assert_array_equal(atom_features(molecule), wanted, err_msg=smiles)
        bonds, classes = bond_arrays(molecule)
        assert bonds.tolist() == [[b.GetBeginAtomIdx(), b.GetEndAtomIdx()] for b in molecule.GetBonds()]
        features = [bond_to_feature_vector(bond) for bond in molecule.GetBonds()]
        np.testing.assert_array_equal(bond_class_features()[classes.astype(int) - 1], np.array(features).reshape(-1, 3), err_msg=smiles)
    return True


def test_odd_molecules_equal_ogb():
    silence_rdkit()
    assert sum(map(compare, ODD)) >= len(ODD) - 1  # some RDKit versions refuse one


@pytest.mark.parametrize(
    ("name", "limit"), [("bbbp", None), ("clintox", None), ("tox21", 2500), ("hiv", 1200), ("lipo", 500), ("sider", 500)]
)
def test_real_molecules_equal_ogb(shared, name, limit):
    silence_rdkit()
    smiles = smiles_of(shared / "data" / "moleculenet" / f"{name}.csv.gz", limit)
    assert sum(map(compare, smiles)) > 0.98 * len(smiles)


def test_bond_classes_are_ogbs_features():
    features = bond_class_features()
    np.testing.assert_array_equal(bond_class(features), np.arange(1, 61))


@pytest.mark.parametrize("name", ["pretrain", "finetune_2d", "finetune_2d3d"])
def test_golden_features(shared, name):
    golden = np.load(shared / "golden" / f"{name}.npz")
    for m in range(int(golden["n_molecules"])):
        wanted = golden[f"m{m}/atom_features"]
        # Molecules with structures were made from their mol blocks, the others from SMILES.
        mol = Chem.MolFromMolBlock(str(golden[f"m{m}/molblock"])) if f"m{m}/coordinates" in golden else None
        graph = graph_from_mol(mol or Chem.MolFromSmiles(str(golden[f"m{m}/smiles"])), smiles="", labels=np.zeros(0))
        assert not isinstance(graph, Failure)
        np.testing.assert_array_equal(graph.atom_features, wanted)
        np.testing.assert_array_equal(graph.bonds, golden[f"m{m}/edge_index"][:, ::2].T)
        np.testing.assert_array_equal(graph.bond_classes, bond_class(golden[f"m{m}/edge_features"][::2]))
        np.testing.assert_array_equal(graph.spd, np.where(golden[f"m{m}/spd"] == 510, 255, golden[f"m{m}/spd"]))


def test_hydrogens_follow_the_heavy_atoms():
    labels = np.array([1.0, np.nan])
    plain = graph_from_smiles("CCO", labels=labels, options=BuildOptions())
    full = graph_from_smiles("CCO", labels=labels, options=BuildOptions(hydrogens=True))
    assert (plain.num_atoms, full.num_atoms) == (3, 9)
    assert full.atom_features[:, 0].tolist() == [5, 5, 7] + [0] * 6
    assert full.degree.tolist() == [4, 4, 2] + [1] * 6
    np.testing.assert_array_equal(full.spd[:3, :3], plain.spd)


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("C1CC", "unclosed ring"),
        ("CO(C)C", "Explicit valence for atom # 1 O, 3, is greater than permitted"),
        ("c1cccc1", "kekulize"),
        ("CC(x", "syntax error"),
        ("", "no SMILES"),
    ],
)
def test_failures_say_why(smiles, reason, capfd):
    silence_rdkit()
    failure = graph_from_smiles(smiles, labels=np.zeros(0), options=BuildOptions())
    assert isinstance(failure, Failure)
    assert failure.input == smiles
    assert reason in failure.reason
    assert "\n" not in failure.reason
    assert capfd.readouterr() == ("", "")  # RDKit's log goes into the reason, not to the terminal


def test_too_many_atoms_fail():
    failure = graph_from_smiles("C" * 4097, labels=np.zeros(0), options=BuildOptions())
    assert isinstance(failure, Failure)
    assert "4097 atoms" in failure.reason
