"""RDKit molecule -> molecular graph with OGB's features.

The features equal `ogb.utils.features.atom_to_feature_vector` and `bond_to_feature_vector` (the tests compare them), by table
look-ups instead of list searches, and without importing ogb. Values outside OGB's lists get its last index, "misc".
"""

import numpy as np
from rdkit import Chem

from moleblend_fs.chem.geometry import check_conformers
from moleblend_fs.chem.identity import molecule_key
from moleblend_fs.chem.paths import shortest_paths
from moleblend_fs.data.graph import NUM_BOND_STEREO, Failure, MolecularGraph

MAX_ATOMS = 4096
"""Largest molecule; its pair features take 100 MB."""

_MISC_ATOMIC_NUMBER = 118
_MISC_CHIRALITY = 4
_MISC_DEGREE = 11
_MISC_CHARGE = 11
_MISC_HYDROGENS = 9
_MISC_RADICALS = 5
_MISC_HYBRIDISATION = 5
_MISC_BOND_TYPE = 4

_CHIRALITY = {
    Chem.ChiralType.CHI_UNSPECIFIED: 0,
    Chem.ChiralType.CHI_TETRAHEDRAL_CW: 1,
    Chem.ChiralType.CHI_TETRAHEDRAL_CCW: 2,
    Chem.ChiralType.CHI_OTHER: 3,
}
_HYBRIDISATION = {
    Chem.HybridizationType.SP: 0,
    Chem.HybridizationType.SP2: 1,
    Chem.HybridizationType.SP3: 2,
    Chem.HybridizationType.SP3D: 3,
    Chem.HybridizationType.SP3D2: 4,
}
_BOND_TYPE = {Chem.BondType.SINGLE: 0, Chem.BondType.DOUBLE: 1, Chem.BondType.TRIPLE: 2, Chem.BondType.AROMATIC: 3}
_BOND_STEREO = {
    Chem.BondStereo.STEREONONE: 0,
    Chem.BondStereo.STEREOZ: 1,
    Chem.BondStereo.STEREOE: 2,
    Chem.BondStereo.STEREOCIS: 3,
    Chem.BondStereo.STEREOTRANS: 4,
    Chem.BondStereo.STEREOANY: 5,
}


def atom_features(mol: Chem.Mol) -> np.ndarray:
    """OGB's nine features of every atom, (n, 9) uint8."""
    values: list[int] = []
    # By index: RDKit iterates over GetAtoms() and GetBonds() in Python, at several times the cost.
    for atom in map(mol.GetAtomWithIdx, range(mol.GetNumAtoms())):
        number, degree, charge = atom.GetAtomicNum(), atom.GetTotalDegree(), atom.GetFormalCharge()
        hydrogens, radicals = atom.GetTotalNumHs(), atom.GetNumRadicalElectrons()
        values += (
            number - 1 if 1 <= number <= 118 else _MISC_ATOMIC_NUMBER,
            _CHIRALITY.get(atom.GetChiralTag(), _MISC_CHIRALITY),
            min(degree, _MISC_DEGREE),
            charge + 5 if -5 <= charge <= 5 else _MISC_CHARGE,
            min(hydrogens, _MISC_HYDROGENS),
            min(radicals, _MISC_RADICALS),
            _HYBRIDISATION.get(atom.GetHybridization(), _MISC_HYBRIDISATION),
            atom.GetIsAromatic(),
            atom.IsInRing(),
        )
    return np.frombuffer(bytes(values), np.uint8).reshape(-1, 9)


def bond_arrays(mol: Chem.Mol) -> tuple[np.ndarray, np.ndarray]:
    """Bonds (m, 2) uint16 in RDKit's order, and their classes (m,) uint8 (see `data.graph.bond_class`)."""
    ends: list[int] = []
    classes: list[int] = []
    for bond in map(mol.GetBondWithIdx, range(mol.GetNumBonds())):
        ends += (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
        kind = _BOND_TYPE.get(bond.GetBondType(), _MISC_BOND_TYPE)
        # Stereo kinds that RDKit got after OGB (atropisomers) count as "any", the last of OGB's list.
        stereo = _BOND_STEREO.get(bond.GetStereo(), NUM_BOND_STEREO - 1)
        classes.append(1 + 12 * kind + 2 * stereo + bond.GetIsConjugated())
    return np.array(ends, dtype=np.uint16).reshape(-1, 2), np.array(classes, dtype=np.uint8)


def size_failure(mol: Chem.Mol, shown: str, max_atoms: int) -> Failure | None:
    """The failure of a molecule without atoms or with too many."""
    n = mol.GetNumAtoms()
    return None if 1 <= n <= max_atoms else Failure(input=shown, reason=f"{n} atoms; a molecule must have 1 to {max_atoms}")


def graph_from_mol(
    mol: Chem.Mol,
    *,
    smiles: str,
    labels: np.ndarray,
    coordinates: np.ndarray | None = None,
    scaffold: str | None = None,
    split: str | None = None,
    note: str | None = None,
    max_atoms: int = MAX_ATOMS,
    measured: Chem.Mol | None = None,
    kept: np.ndarray | None = None,
    converged: int | None = None,
    canonical_order: list[int] | None = None,
    keyed: bool = True,
) -> MolecularGraph | Failure:
    """The graph of a sanitised molecule; atoms in the molecule's own order.

    Args:
        mol: n atoms; hydrogens are atoms of the graph where they are atoms of `mol`.
        coordinates: (conformers, n, 3) in Angstrom, or None. Those that cannot be the molecule's are left out, with a note.
        labels: (labels,) with NaN where missing.
        measured: the molecule whose atoms `coordinates` are of, where that is another one: `mol` with its hydrogens.
        kept: (n,) which of its atoms are those of `mol`; by default the first.
        keyed: whether the graph is to have a key.
        smiles, scaffold, split, converged, canonical_order, note: kept as they are, see `MolecularGraph`.

    Returns:
        A failure for a molecule without atoms, or with more than `max_atoms`.
    """
    if (wrong_size := size_failure(mol, smiles, max_atoms)) is not None:
        return wrong_size
    n = mol.GetNumAtoms()
    if coordinates is not None:
        coordinates, problem = check_conformers(measured or mol, coordinates)
        note = "; ".join(filter(None, (note, problem))) or None
        if coordinates is not None:
            coordinates = np.ascontiguousarray(coordinates[:, :n] if kept is None else coordinates[:, kept])
    bonds, classes = bond_arrays(mol)
    spd, path_bonds = shortest_paths(n, bonds, classes)
    return MolecularGraph(
        atom_features=atom_features(mol),
        bonds=bonds,
        bond_classes=classes,
        spd=spd,
        path_bonds=path_bonds,
        coordinates=coordinates,
        labels=np.asarray(labels, dtype=np.float64),
        smiles=smiles,
        scaffold=scaffold,
        split=split,
        key=molecule_key(mol) if keyed else None,
        note=note,
        converged=converged,
        canonical_order=canonical_order,
    )
