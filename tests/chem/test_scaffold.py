"""Scaffolds of large molecules, which are found in another way."""

import pytest
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from moleblend_fs.chem import scaffold
from moleblend_fs.chem.scaffold import framework, murcko_scaffold

SMILES = (
    "CCO",
    "CC(=O)NCc1ccc(OC)cc1",
    "O=C1CCC(CC2CC2)C1=NO",
    "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "c1ccc(cc1)C(=O)CCc1ccncc1",
    "C=C1CC(CCC)C1",
    "CS(=O)(=O)c1ccc(cc1)C(=S)N1CCOCC1",
    "CC=CC",
    "C.C1CC1CC",
    "C",
)


@pytest.mark.parametrize("smiles", SMILES)
def test_the_same_atoms_as_rdkit_keeps(smiles):
    mol = Chem.MolFromSmiles(smiles)
    theirs = MurckoScaffold.GetScaffoldForMol(mol)
    atoms = framework(mol)
    assert sorted(mol.GetAtomWithIdx(i).GetSymbol() for i in atoms) == sorted(atom.GetSymbol() for atom in theirs.GetAtoms())
    if atoms:
        ours = Chem.MolFromSmiles(Chem.MolFragmentToSmiles(mol, atomsToUse=atoms))
        assert Chem.MolToSmiles(ours) == Chem.MolToSmiles(theirs)


def test_large_molecules_of_one_scaffold_share_it():
    body = "c1ccc2ccccc2c1" * 60
    plain, decorated, chain = (Chem.MolFromSmiles(smiles) for smiles in (body, f"CCC(=O)O{body}", "C" * 600))
    assert plain.GetNumAtoms() > scaffold.LARGE
    assert murcko_scaffold(plain, chirality=True) == murcko_scaffold(decorated, chirality=True) != ""
    assert murcko_scaffold(chain, chirality=True) == ""
