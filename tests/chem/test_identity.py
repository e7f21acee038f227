"""Keys and scaffolds: equal for one molecule however it is written, apart for different ones."""

import pytest
from rdkit import Chem

from moleblend_fs.chem.identity import molecule_key, unlabelled
from moleblend_fs.chem.scaffold import murcko_scaffold

SAME = [
    ("CCO", "OCC", "C(O)C", "[CH3:1][CH2:2][OH:3]", "[13CH3]CO", "[2H]OCC", "[H]OC([H])([H])C([H])([H])[H]", "CC[18OH]"),
    ("c1ccccc1O", "C1=CC=CC=C1O", "[cH:1]1ccccc1O", "Oc1c([2H])cccc1"),
    ("C[C@H](N)C(=O)O", "N[C@@H](C)C(=O)O", "[13CH3][C@H](N)C(=O)O"),
    ("CCO", "C[C@H]([2H])O", "C[C@@]([H])([2H])O"),  # a centre by its isotope alone
    ("C1CC1", "[CH2:7]1CC1", "[14CH2]1CC1"),
]
DIFFERENT = [
    ("CCO", "CCN"),
    ("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"),
    ("CC(=O)O", "CC(=O)[O-]"),
    (r"F/C=C/F", r"F/C=C\F"),
    ("CCO", "CCO.O"),
    ("[H][H]", "[H+]"),
]


@pytest.mark.parametrize("group", SAME)
@pytest.mark.parametrize("explicit", [False, True])
def test_one_molecule_has_one_key(group, explicit):
    mols = [Chem.MolFromSmiles(smiles) for smiles in group]
    assert len({molecule_key(Chem.AddHs(mol) if explicit else mol) for mol in mols}) == 1
    assert len({molecule_key(Chem.RenumberAtoms(mol, list(range(mol.GetNumAtoms()))[::-1])) for mol in mols}) == 1


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_different_molecules_have_different_keys(a, b):
    assert molecule_key(Chem.MolFromSmiles(a)) != molecule_key(Chem.MolFromSmiles(b))


def test_molecules_without_labels_are_left_as_they_are():
    mol = Chem.MolFromSmiles("c1ccccc1CC")
    assert unlabelled(mol) is mol
    labelled = Chem.MolFromSmiles("[13CH3:4]C")
    unlabelled(labelled)
    assert labelled.GetAtomWithIdx(0).GetIsotope() == 13  # a copy was changed


@pytest.mark.parametrize("chirality", [False, True])
def test_scaffolds_heed_neither_maps_nor_isotopes(chirality):
    plain = "CC(N)c1ccc(OC2CCNCC2)cc1"
    wanted = murcko_scaffold(Chem.MolFromSmiles(plain), chirality=chirality)
    assert wanted == "c1ccc(OC2CCNCC2)cc1"
    mol = Chem.MolFromSmiles(plain)
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(atom.GetIdx() + 1)
    mapped = Chem.MolFromSmiles(Chem.MolToSmiles(mol))
    isotopes = Chem.MolFromSmiles("CC(N)c1c([2H])[13cH]c(O[14CH]2CC[15NH]CC2)cc1")
    for other in (mapped, isotopes, Chem.AddHs(Chem.MolFromSmiles(plain))):
        assert murcko_scaffold(other, chirality=chirality) == wanted
