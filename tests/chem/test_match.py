"""Structures matched to molecules atom by atom, on shuffled conformers whose true order is known."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from moleblend_fs.chem.match import atomic_numbers, match_structure, numbers_of, verify

SMILES = ("C", "O", "CCO", "C1CC1C#N", "CC(=O)NC1CC1", "c1ccoc1C=O", "FC(F)(F)C(O)C#C", "[NH3+]CC([O-])=O", "N#CC1=CNC=N1")


def structure(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=7) == 0
    return mol, np.array([a.GetAtomicNum() for a in mol.GetAtoms()]), mol.GetConformer().GetPositions()


@pytest.mark.parametrize("smiles", SMILES)
@pytest.mark.parametrize("shuffle", ["none", "hydrogens", "all"])
def test_found_order_is_a_symmetry_of_the_molecule(smiles, shuffle):
    mol, numbers, xyz = structure(smiles)
    rng = np.random.default_rng(3)
    heavy = int((numbers > 1).sum())
    permutation = {
        "none": np.arange(len(numbers)),
        "hydrogens": np.concatenate([np.arange(heavy), heavy + rng.permutation(len(numbers) - heavy)]),
        "all": rng.permutation(len(numbers)),
    }[shuffle]
    order = match_structure(mol, numbers[permutation], xyz[permutation])
    assert not isinstance(order, str)
    # Atom i of the molecule got the place of atom found[i] of the true structure: that must map bonds to bonds.
    found = permutation[order]
    assert sorted(found) == list(range(len(numbers)))
    for bond in mol.GetBonds():
        assert mol.GetBondBetweenAtoms(int(found[bond.GetBeginAtomIdx()]), int(found[bond.GetEndAtomIdx()])) is not None
    if shuffle == "none":
        np.testing.assert_allclose(xyz[permutation][order][:heavy], xyz[:heavy])


@pytest.mark.parametrize("smiles", ["[H][H].O", "[Cl-].[H+]", "[H][H]", "[H+].O"])
def test_hydrogens_without_a_heavy_atom(smiles):
    """Identity is right for them; a search may give up, with a reason, but not fail otherwise."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMolecule(mol, randomSeed=7)
    numbers, xyz = numbers_of(mol), mol.GetConformer().GetPositions()
    assert verify(mol, numbers, xyz, np.arange(len(numbers))) is None
    order = match_structure(mol, numbers, xyz)
    assert isinstance(order, str) or verify(mol, numbers, xyz, order) is None


def test_other_composition_is_refused():
    mol, _, _ = structure("CCO")
    _, numbers, xyz = structure("CCN")
    assert "structure H7 C2 N1" in match_structure(mol, numbers, xyz)


def test_isomers_are_refused():
    """Same formula, other bonds: dimethyl ether is not ethanol."""
    mol, _, _ = structure("CCO")
    _, numbers, xyz = structure("COC")
    assert isinstance(match_structure(mol, numbers, xyz), str)


def test_stretched_bond_and_stray_hydrogen_are_refused():
    mol, numbers, xyz = structure("CCO")
    order = np.arange(len(numbers))
    assert verify(mol, numbers, xyz, order) is None
    stretched = xyz.copy()
    stretched[2] += (xyz[2] - xyz[1]) * 1.0
    assert "Angstrom long" in verify(mol, numbers, stretched, order)
    swapped = xyz.copy()
    swapped[[3, 8]] = xyz[[8, 3]]
    assert verify(mol, numbers, swapped, order) is not None
    assert "no numbers" in match_structure(mol, numbers, np.full_like(xyz, np.nan))


def test_unknown_element():
    with pytest.raises(KeyError):
        atomic_numbers(["C", "Qq"])
