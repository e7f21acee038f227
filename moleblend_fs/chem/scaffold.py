"""Bemis-Murcko scaffolds, for scaffold splits."""

from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from moleblend_fs.chem.identity import unlabelled


def murcko_scaffold(mol: Chem.Mol, *, chirality: bool) -> str:
    """SMILES of the molecule's ring systems and linkers, without atom maps and isotopes; "" where it has no ring.

    Args:
        chirality: whether the scaffold keeps stereochemistry (Hu et al. 2020 do), so that stereoisomers may fall into different splits.
    """
    return MurckoScaffold.MurckoScaffoldSmiles(mol=unlabelled(mol), includeChirality=chirality)
