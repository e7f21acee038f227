"""The skeleton of a molecule: formula and connectivity, without stereochemistry, isotopes, protonation and mobile hydrogens."""

from rdkit import Chem

from moleblend_fs.chem.parse import parse_smiles
from moleblend_fs.data.graph import Failure

LENGTH = 14
"""Characters of an InChIKey's first block."""


def skeleton(mol: Chem.Mol) -> str:
    """First block of the InChIKey; the canonical SMILES without stereochemistry of a molecule that InChI cannot express."""
    key = Chem.MolToInchiKey(mol)
    return key[:LENGTH] if key else Chem.MolToSmiles(mol, isomericSmiles=False)


def skeleton_of(smiles: str) -> str | None:
    """The skeleton of a SMILES; None where that cannot be read or has no atom."""
    mol = parse_smiles(smiles)
    return None if isinstance(mol, Failure) or not mol.GetNumAtoms() else skeleton(mol)
