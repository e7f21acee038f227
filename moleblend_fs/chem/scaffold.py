"""Bemis-Murcko scaffolds, for scaffold splits."""

from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from moleblend_fs.chem.identity import unlabelled

LARGE = 500
"""Atoms above which RDKit's own takes seconds (minutes for 4,000)."""


def murcko_scaffold(mol: Chem.Mol, *, chirality: bool) -> str:
    """SMILES of the molecule's ring systems and linkers, without atom maps and isotopes; "" where it has no ring.

    Args:
        chirality: whether the scaffold keeps stereochemistry (Hu et al. 2020 do), so that stereoisomers may fall into different splits.
    """
    mol = unlabelled(mol)
    if mol.GetNumAtoms() > LARGE:
        return Chem.MolFragmentToSmiles(mol, atomsToUse=kept, isomericSmiles=chirality) if (kept := framework(mol)) else ""
    return MurckoScaffold.MurckoScaffoldSmiles(mol=mol, includeChirality=chirality)


def framework(mol: Chem.Mol) -> list[int]:
    """The atoms of a molecule's scaffold: rings, what lies between them, and what is bonded to either by a double bond."""
    degree = [atom.GetDegree() for atom in mol.GetAtoms()]
    kept = set(range(len(degree)))
    leaves = [i for i, bonds in enumerate(degree) if bonds < 2]
    while leaves:
        leaf = leaves.pop()
        kept.discard(leaf)
        for neighbour in (atom.GetIdx() for atom in mol.GetAtomWithIdx(leaf).GetNeighbors()):
            degree[neighbour] -= 1
            if neighbour in kept and degree[neighbour] == 1:
                leaves.append(neighbour)
    doubly = [
        {bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()}
        for bond in mol.GetBonds()
        if bond.GetBondType() == Chem.BondType.DOUBLE and not bond.IsInRing()
    ]
    return sorted(kept.union(*(ends for ends in doubly if len(ends & kept) == 1)))
