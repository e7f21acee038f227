"""When two inputs are one molecule."""

import hashlib
import re
from base64 import urlsafe_b64encode

from rdkit import Chem

_MARKS = re.compile(r"\[\d|:\d+\]|\[H")
"""What isotopes, atom maps and hydrogen atoms look like in a SMILES; others need not be looked at atom by atom."""


def unlabelled(mol: Chem.Mol) -> Chem.Mol:
    """The molecule without atom maps, isotopes and hydrogen atoms; itself where it has none of these."""
    # By index: RDKit iterates over GetAtoms() in Python, at several times the cost.
    atoms = map(mol.GetAtomWithIdx, range(mol.GetNumAtoms()))
    if not any(atom.GetAtomicNum() == 1 or atom.GetIsotope() or atom.GetAtomMapNum() for atom in atoms):
        return mol
    mol = Chem.RWMol(mol)
    for atom in mol.GetAtoms():
        atom.SetIsotope(0)
        atom.SetAtomMapNum(0)
    mol = Chem.RemoveHs(mol, sanitize=False)
    # A centre that only isotopes or maps made one is none now.
    Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
    return mol


def molecule_key(mol: Chem.Mol) -> str:
    """22 characters that are the same for all inputs of one molecule: a hash of RDKit's canonical isomeric SMILES, unlabelled.

    Stereoisomers, tautomers and charges are told apart; isotopes and atom maps, which the model does not see, are not.
    """
    smiles = Chem.MolToSmiles(mol)
    if _MARKS.search(smiles):
        smiles = Chem.MolToSmiles(unlabelled(mol))
    return urlsafe_b64encode(hashlib.blake2b(smiles.encode(), digest_size=16).digest()).decode().rstrip("=")
