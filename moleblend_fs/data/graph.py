"""A molecule as arrays: what chemistry hands over and what a record stores."""

from dataclasses import dataclass, replace

import numpy as np

ELEMENTS = 119
"""Values of the atomic-number feature: 118 elements, and any other."""
FEATURISATION_VERSION = 1
"""Raised whenever the same molecule would give other features, paths or classes."""

UNREACHABLE = 255
"""Shortest path distance of a pair with no path (uint8)."""
MAX_SPD = 254
"""Longest distance that is stored exactly; longer paths are stored as this."""
MAX_HOPS = 5
"""Bonds of a shortest path that are kept, counted from its first atom."""

NUM_BOND_TYPES, NUM_BOND_STEREO, NUM_CONJUGATED = 5, 6, 2
NUM_BOND_CLASSES = 1 + NUM_BOND_TYPES * NUM_BOND_STEREO * NUM_CONJUGATED
"""Distinct (type, stereo, conjugated) triples of OGB's bond features, and class 0 for "no bond"."""


def bond_class(features: np.ndarray) -> np.ndarray:
    """Class 1 + 12 type + 2 stereo + conjugated of OGB's three bond features, shape (..., 3) -> (...), uint8."""
    features = np.asarray(features, dtype=np.int64).reshape(*np.shape(features)[:-1], 3)
    limits = (NUM_BOND_TYPES, NUM_BOND_STEREO, NUM_CONJUGATED)
    if features.size and (features.min() < 0 or (features.reshape(-1, 3).max(axis=0) >= limits).any()):
        raise ValueError(f"bond features must lie in [0, {limits}), got {features.reshape(-1, 3).max(axis=0)}")
    return (1 + 12 * features[..., 0] + 2 * features[..., 1] + features[..., 2]).astype(np.uint8)


def bond_class_features() -> np.ndarray:
    """The (type, stereo, conjugated) of classes 1 ... 60, shape (60, 3): the inverse of `bond_class`."""
    classes = np.arange(NUM_BOND_CLASSES - 1)
    return np.stack([classes // 12, classes // 2 % 6, classes % 2], axis=1)


@dataclass(slots=True, kw_only=True)
class MolecularGraph:
    """One molecule of n atoms and m bonds with its pair features.

    Attributes:
        atom_features: (n, 9) uint8, OGB's atom features in OGB's order.
        bonds: (m, 2) uint16, atom indices, each bond once.
        bond_classes: (m,) uint8, see `bond_class`.
        spd: (n, n) uint8, shortest path distance in bonds; `UNREACHABLE` where there is no path.
        path_bonds: (n, n, 5) uint8, classes of the first five bonds on the path from i to j; 0 past its end.
        coordinates: (conformers, n, 3) float32 in Angstrom, or None where there is no structure.
        labels: (labels,) float64, NaN where missing: total energies of -3,200,000 kJ/mol differ by less than float32 resolves.
        smiles: the input's SMILES, for people; atom order may differ from it.
        scaffold: Bemis-Murcko scaffold used by scaffold splits, or None when not asked for.
        split: the split that the source itself prescribes, or None.
        key: equal for equal molecules (see `chem.identity`), or None where that is not known.
        note: what else failures.csv should say of this row although it gave a molecule (e.g. "no conformer: ..."), or None.
        canonical_order: (n,) the atoms in the order of `smiles`, where that is canonical and other rows with the same SMILES hold other
            conformers of the molecule; else None.
        converged: conformers that are minima of the force field, where they were made with one; else None.
    """

    atom_features: np.ndarray
    bonds: np.ndarray
    bond_classes: np.ndarray
    spd: np.ndarray
    path_bonds: np.ndarray
    coordinates: np.ndarray | None
    labels: np.ndarray
    smiles: str
    scaffold: str | None = None
    split: str | None = None
    key: str | None = None
    note: str | None = None
    converged: int | None = None
    canonical_order: list[int] | None = None

    @property
    def num_atoms(self) -> int:
        return len(self.atom_features)

    @property
    def degree(self) -> np.ndarray:
        """Bonds of each atom in the graph as given, (n,) uint8."""
        return np.bincount(self.bonds.reshape(-1), minlength=self.num_atoms).astype(np.uint8)


def reordered(graph: MolecularGraph, order: np.ndarray) -> MolecularGraph:
    """The same molecule with atom order[k], (n,), at place k; bonds and pair features move along."""
    return replace(
        graph,
        atom_features=graph.atom_features[order],
        bonds=np.argsort(order)[graph.bonds.astype(int)].astype(np.uint16),
        spd=graph.spd[np.ix_(order, order)],
        path_bonds=graph.path_bonds[np.ix_(order, order)],
        coordinates=None if graph.coordinates is None else graph.coordinates[:, order],
        canonical_order=None,
    )


@dataclass(slots=True, kw_only=True)
class Failure:
    """A row that gave no molecule.

    Attributes:
        input: what stood there (SMILES or name), for the reader of failures.csv.
        reason: why it failed, in one sentence.
        left_out: what it is counted under if it did not fail, but was left out on purpose; see `RowCounts.left_out`.
    """

    input: str
    reason: str
    left_out: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSpec:
    """A label column of a store.

    Attributes:
        name: column name.
        unit: unit of its values; "" where it has none.
        kind: "regression" or "classification" (values 0 and 1).
    """

    name: str
    unit: str
    kind: str
