"""RDKit's own list of 2D descriptors."""

import numpy as np
from rdkit.Chem import Descriptors

from moleblend_fs.chem.parse import parse_smiles
from moleblend_fs.data.graph import Failure


def descriptor_names() -> tuple[str, ...]:
    """In RDKit's order; which there are, and what they mean, depends on its version."""
    return tuple(name for name, _ in Descriptors.descList)


def descriptors(smiles: str) -> np.ndarray:
    """(D,) float32, NaN where RDKit gives no finite number; values beyond float32 are its largest.

    Raises:
        ValueError: the SMILES cannot be read.
    """
    mol = parse_smiles(smiles)
    if isinstance(mol, Failure):
        raise ValueError(mol.reason)
    found = Descriptors.CalcMolDescriptors(mol, missingVal=np.nan, silent=True)
    values = np.array([found[name] for name in descriptor_names()], dtype=np.float64)
    largest = float(np.finfo(np.float32).max)
    return np.where(np.isfinite(values), np.clip(values, -largest, largest), np.nan).astype(np.float32)
