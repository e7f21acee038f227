"""Which atom of a structure is which atom of a molecule: found, and verified by elements, hydrogens and bond lengths."""

from collections.abc import Iterator

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDetermineBonds
from rdkit.Geometry import Point3D

from moleblend_fs.chem.geometry import BOND_TOLERANCE, RADIUS, SHORTEST

_TABLE = Chem.GetPeriodicTable()
_NUMBER = {_TABLE.GetElementSymbol(z): z for z in range(1, 119)}
_MAX_MATCHES = 64


def atomic_numbers(symbols: list[str]) -> np.ndarray:
    """(n,) int64 of element symbols; KeyError for an unknown one."""
    return np.array([_NUMBER[symbol] for symbol in symbols], dtype=np.int64)


def numbers_of(mol: Chem.Mol) -> np.ndarray:
    """(n,) int64 atomic numbers of a molecule."""
    return np.array([atom.GetAtomicNum() for atom in map(mol.GetAtomWithIdx, range(mol.GetNumAtoms()))], dtype=np.int64)


def match_structure(mol: Chem.Mol, numbers: np.ndarray, xyz: np.ndarray) -> np.ndarray | str:
    """Find for every atom of a molecule its place in a structure.

    The structure's heavy atoms are tried in their own order, then by comparing bond graphs. Either way the result is
    verified: same elements, every hydrogen nearest to the heavy atom it is bonded to, every bond no longer than the
    covalent radii allow.

    Args:
        mol: n atoms, all hydrogens explicit and after the heavy atoms.
        numbers: (n,) atomic numbers of the structure.
        xyz: (n, 3) its coordinates in Angstrom.

    Returns:
        (n,) int64, `order` such that xyz[order] are the molecule's coordinates; or the reason why there is none.
    """
    wanted = numbers_of(mol)
    if not np.array_equal(np.sort(wanted), np.sort(numbers)):
        return f"the SMILES is {_formula(wanted)}, the structure {_formula(numbers)}"
    if not np.isfinite(xyz).all():
        return "the structure has coordinates that are no numbers"
    order = _in_order(mol, wanted, numbers, xyz)
    reason = order if isinstance(order, str) else verify(mol, numbers, xyz, order)
    if reason is None:
        return order
    for order in _by_bonds(mol, numbers, xyz):
        if verify(mol, numbers, xyz, order) is None:
            return order
    return reason


def verify(mol: Chem.Mol, numbers: np.ndarray, xyz: np.ndarray, order: np.ndarray) -> str | None:
    """Why `order` cannot be right, or None where elements, hydrogens and bond lengths all agree."""
    wanted = numbers_of(mol)
    if not np.array_equal(numbers[order], wanted):
        return "elements differ in order"
    bonds = _bonds(mol)
    placed = xyz[order]
    length = np.linalg.norm(placed[bonds[:, 0]] - placed[bonds[:, 1]], axis=1)
    limit = RADIUS[wanted[bonds]].sum(axis=1) + BOND_TOLERANCE
    wrong = (length > limit) | (length < SHORTEST)
    if wrong.any():
        b = int(np.flatnonzero(wrong)[0])
        i, j = bonds[b].tolist()
        return f"bond {mol.GetAtomWithIdx(i).GetSymbol()}{i}-{mol.GetAtomWithIdx(j).GetSymbol()}{j} would be {length[b]:.2f} Angstrom long"
    parent = _neighbour(mol, len(wanted))
    # Free protons and the atoms of H2 are not bonded to a heavy atom.
    heavy, hydrogen = np.flatnonzero(wanted != 1), np.flatnonzero((wanted == 1) & (parent >= 0) & (wanted[parent] != 1))
    if len(hydrogen):
        apart = np.linalg.norm(placed[hydrogen][:, None] - placed[heavy][None], axis=2)
        if not np.array_equal(heavy[apart.argmin(axis=1)], parent[hydrogen]):
            return "a hydrogen is nearest to another atom than the one it is bonded to"
    return None


def _in_order(mol: Chem.Mol, wanted: np.ndarray, numbers: np.ndarray, xyz: np.ndarray) -> np.ndarray | str:
    """Heavy atoms in the structure's order, each hydrogen at its nearest heavy atom."""
    heavy, hydrogen = np.flatnonzero(numbers != 1), np.flatnonzero(numbers == 1)
    count = len(heavy)
    if not np.array_equal(numbers[heavy], wanted[:count]):
        return "heavy atoms stand in another order"
    if count == 0 or len(hydrogen) == 0:
        return np.concatenate([heavy, hydrogen])
    nearest = np.linalg.norm(xyz[hydrogen][:, None] - xyz[heavy][None], axis=2).argmin(axis=1)
    # AddHs puts the hydrogens after the heavy atoms, grouped by their heavy atom.
    expected = _neighbour(mol, len(wanted))[count:]
    if (expected < 0).any() or (expected >= count).any():
        return "a hydrogen is not bonded to a heavy atom"
    grouped = nearest.argsort(kind="stable")
    slots = expected.argsort(kind="stable")
    if not np.array_equal(nearest[grouped], expected[slots]):
        have, want = np.bincount(nearest, minlength=count), np.bincount(expected, minlength=count)
        i = int(np.flatnonzero(have != want)[0])
        return f"atom {mol.GetAtomWithIdx(i).GetSymbol()}{i} has {have[i]} hydrogens near it and {want[i]} in the SMILES"
    order = np.empty(len(numbers), dtype=np.int64)
    order[:count] = heavy
    order[count + slots] = hydrogen[grouped]
    return order


def _by_bonds(mol: Chem.Mol, numbers: np.ndarray, xyz: np.ndarray) -> Iterator[np.ndarray]:
    """Orders in which the molecule's bond graph lies in the structure's own (perceived from distances)."""
    structure = Chem.RWMol()
    conformer = Chem.Conformer(len(numbers))
    for i, z in enumerate(numbers.tolist()):
        structure.AddAtom(Chem.Atom(z))
        conformer.SetAtomPosition(i, Point3D(*xyz[i].tolist()))
    structure.AddConformer(conformer)
    try:
        rdDetermineBonds.DetermineConnectivity(structure)
    except (RuntimeError, ValueError):
        return
    pattern = Chem.RWMol()
    for z in numbers_of(mol).tolist():
        pattern.AddAtom(Chem.Atom(z))
    for bond in mol.GetBonds():
        pattern.AddBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), Chem.BondType.SINGLE)
    for graph in (structure, pattern):
        for bond in graph.GetBonds():
            bond.SetBondType(Chem.BondType.SINGLE)
    for match in structure.GetSubstructMatches(pattern, uniquify=False, useChirality=False, maxMatches=_MAX_MATCHES):
        yield np.array(match, dtype=np.int64)


def _bonds(mol: Chem.Mol) -> np.ndarray:
    """(m, 2) int64 ends of the bonds."""
    bonds = map(mol.GetBondWithIdx, range(mol.GetNumBonds()))
    return np.array([(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in bonds], dtype=np.int64).reshape(-1, 2)


def _neighbour(mol: Chem.Mol, num_atoms: int) -> np.ndarray:
    """(n,) int64, the atom that each one-bonded atom, such as a hydrogen, is bonded to; -1 where there is no bond."""
    bonds = _bonds(mol)
    result = np.full(num_atoms, -1)
    result[bonds] = bonds[:, ::-1]
    return result


def _formula(numbers: np.ndarray) -> str:
    counts = np.bincount(numbers)
    return " ".join(f"{_TABLE.GetElementSymbol(z)}{counts[z]}" for z in np.flatnonzero(counts).tolist())
