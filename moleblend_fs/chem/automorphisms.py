"""Automorphisms of molecules: orders of their atoms in which elements and bonds are where they were."""

import numpy as np
from rdkit import Chem

from moleblend_fs.data.graph import bond_class_features

MOST = 64
"""Automorphisms that are kept of a molecule, the identity among them."""
KINDS = tuple(Chem.BondType.names[name] for name in ("SINGLE", "DOUBLE", "TRIPLE", "QUADRUPLE", "QUINTUPLE"))
"""What stands for single, double, triple, aromatic and other bonds here: RDKit would take an aromatic bond for a single one."""


def automorphisms(elements: np.ndarray, bonds: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, bool]:
    """(k, n) the atoms that stand in place of 0 ... n - 1, the identity first; and whether there are more than `MOST`.

    Args:
        elements: (n,) as features. bonds: (m, 2) atoms. classes: (m,) see `data.graph.bond_class`; their types count.
    """
    mol = Chem.RWMol()
    for element in elements.tolist():
        atom = Chem.Atom(min(element + 1, 118))  # whatever is no element as well
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
    kinds = bond_class_features()[classes.astype(np.int64) - 1, 0] if len(classes) else classes
    for (u, v), kind in zip(bonds.tolist(), kinds.tolist(), strict=True):
        mol.AddBond(u, v, KINDS[kind])
    found = mol.GetSubstructMatches(mol, uniquify=False, maxMatches=MOST + 1)
    identity = tuple(range(len(elements)))
    others = [order for order in found if order != identity]
    return np.array([identity, *others[: MOST - 1]], dtype=np.int64), len(others) >= MOST
