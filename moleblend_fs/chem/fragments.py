"""RDKit's fragments: functional groups and the like that a molecule has (GROVER's graph-level labels)."""

import numpy as np
from rdkit.Chem import Fragments, Mol

from moleblend_fs.chem.parse import parse_smiles
from moleblend_fs.data.graph import Failure

_FOUND = {name: function for name, function in sorted(vars(Fragments).items()) if name.startswith("fr_")}


def fragment_names() -> tuple[str, ...]:
    """RDKit's, sorted: 85; which there are, and what they mean, depends on its version."""
    return tuple(_FOUND)


def fragments(smiles: str) -> np.ndarray:
    """(85,) uint8, 1 for each fragment that is there at least once.

    Raises:
        ValueError: the SMILES cannot be read.
    """
    mol = parse_smiles(smiles)
    if isinstance(mol, Failure):
        raise ValueError(mol.reason)
    molecule: Mol = mol
    return np.array([function(molecule) > 0 for function in _FOUND.values()], dtype=np.uint8)
