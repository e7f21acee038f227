"""Whether coordinates can be a structure of a molecule: no source's structure goes into a store unseen.

Lengths are judged against sums of covalent radii (RDKit's table), in Angstrom. Wrong units, other atoms' places, collapsed and
exploded structures, and drawings show in them.
"""

import numpy as np
from rdkit import Chem

from moleblend_fs.wording import counted

BOND_TOLERANCE = 0.45
"""Angstrom by which a bond may exceed the sum of the covalent radii (the usual rule for perceiving bonds)."""
METAL_TOLERANCE = 0.9
"""The same for bonds of metals, whose length varies more."""
SHORTEST = 0.5
"""Angstrom; atoms closer than this are on top of each other."""
SHORTEST_RATIO = 0.6
"""Of the sum of the covalent radii; closer than this are no two atoms, bonded or not (a triple bond has 0.77)."""
FARTHEST = 1e6
"""Angstrom from the origin; beyond it, float32 does not tell a bond's length."""

FLAT = 0.01
"""Angstrom, root mean square; atoms nearer to one plane are flat."""
DRAWN_DEVIATION = 0.065
"""Mean relative deviation of the bonds of a flat structure from what they should measure, above which it is a drawing. Among the flat
molecules of QM9 and PCQM4Mv2 the largest is 0.059; drawings have 0.05 to 0.5."""
DRAWN_DEVIATION_INORGANIC = 0.145
"""The same without carbon, where sums of radii say less (OF2: 0.14; drawn hydrides 0.15 and more)."""
DRAWN_DEVIATION_LINEAR = 0.25
"""The same where all atoms lie on a line with bonds that are too long, and not even (CO2 has 0.02, from ETKDG 0.19)."""
DRAWN_EVENLY = 0.02
"""The same where all bonds have one of the lengths that programs draw with."""
DRAWN_LENGTHS, DRAWN_SPREAD = (1.45, 1.65), 0.005
"""Angstrom: the range of such a length, and the standard deviation of even bonds."""
DRAWN_ANGLE = (118.5, 121.5)
"""Degrees of a drawn chain; at a saturated carbon or oxygen a real one has 100 to 117."""

DRAWN = "it is flat with bonds or angles that no flat molecule has (a drawing, or other units)"

_TABLE = Chem.GetPeriodicTable()
RADIUS = np.array([0.0] + [_TABLE.GetRcovalent(z) for z in range(1, 119)])
_NONMETALS = np.isin(np.arange(119), [1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 32, 33, 34, 35, 36, 52, 53, 54, 85, 86])
_NO_LENGTH = (Chem.BondType.ZERO, Chem.BondType.HYDROGEN, Chem.BondType.IONIC)
_SHORTENING = {Chem.BondType.AROMATIC: 0.12, Chem.BondType.DOUBLE: 0.18, Chem.BondType.TRIPLE: 0.30}
_CONJUGATED, _DOUBLE_OF_P_OR_S, _CUMULATED, _BACK_BONDED_BORON = 0.08, 0.27, 0.24, 0.10
_BLOCK = 512

_ORGANIC = (1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 35, 53)


def check_conformers(mol: Chem.Mol, coordinates: np.ndarray) -> tuple[np.ndarray | None, str | None]:
    """The conformers of a molecule that can be its own.

    Args:
        mol: n atoms.
        coordinates: (conformers, n, 3) in Angstrom, atoms in the molecule's order.

    Returns:
        (kept, n, 3) float32, or None where none is left; and why others were left out, or None.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        cast = np.ascontiguousarray(coordinates, dtype=np.float32)
    problems = Geometry(mol).problems(cast)
    if not any(problems):
        return (cast if len(cast) else None), None
    first = next(number for number, problem in enumerate(problems) if problem)
    kept = cast[[problem is None for problem in problems]]
    if len(kept) == 0:
        return None, f"no conformer: {problems[first]}" + (f" (and {len(cast) - 1} more)" if len(cast) > 1 else "")
    return kept, f"{len(cast) - len(kept)} of {counted(len(cast), 'conformer')} left out; of number {first + 1}: {problems[first]}"


class Geometry:
    """What a molecule's structures are measured against; see `problem`."""

    def __init__(self, mol: Chem.Mol):
        self._mol = mol
        atoms = list(map(mol.GetAtomWithIdx, range(mol.GetNumAtoms())))
        self._numbers = np.array([atom.GetAtomicNum() for atom in atoms], dtype=np.int64)
        bonds = list(map(mol.GetBondWithIdx, range(mol.GetNumBonds())))
        ends = np.array([(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in bonds], dtype=np.int64).reshape(-1, 2)
        measurable = np.array([bond.GetBondType() not in _NO_LENGTH for bond in bonds], dtype=bool)
        measurable &= (self._numbers[ends] > 0).all(axis=1)
        self._bonds = [bond for bond, use in zip(bonds, measurable.tolist(), strict=True) if use]
        self._ends = ends[measurable]
        self._radii = RADIUS[self._numbers]
        tolerance = np.where(_NONMETALS[self._numbers[self._ends]].all(axis=1), BOND_TOLERANCE, METAL_TOLERANCE)
        self._longest = self._radii[self._ends].sum(axis=1) + tolerance

    def problems(self, coordinates: np.ndarray) -> list[str | None]:
        """`problem` of each conformer, (conformers, n, 3)."""
        return [self.problem(xyz) for xyz in coordinates]

    def problem(self, xyz: np.ndarray) -> str | None:
        """Why (n, 3) coordinates cannot be the molecule's, or None."""
        if not np.isfinite(xyz).all():
            return "a coordinate is not a number, or too large for one"
        if np.abs(xyz).max(initial=0.0) > FARTHEST:
            return f"an atom lies more than {FARTHEST:g} Angstrom from the origin"
        if len(xyz) > 1 and (xyz == xyz[0]).all():
            return "all atoms lie at one point"
        xyz = xyz.astype(np.float64) - xyz.mean(axis=0, dtype=np.float64)
        lengths = np.linalg.norm(xyz[self._ends[:, 0]] - xyz[self._ends[:, 1]], axis=1)
        if self._drawn(xyz, lengths):
            return DRAWN
        # The bond that is wrong the most tells the most about what happened.
        excess = lengths / self._longest
        if len(excess) and excess.max() > 1:
            return f"{self._bond(excess.argmax(), lengths)}, longer than its atoms' radii allow"
        return self._too_close(xyz)

    def _bond(self, b: int, lengths: np.ndarray) -> str:
        i, j = self._ends[b].tolist()
        return f"bond {self._name(i)}-{self._name(j)} is {lengths[b]:.2f} Angstrom long"

    def _name(self, i: int) -> str:
        return f"{self._mol.GetAtomWithIdx(i).GetSymbol()}{i}"

    def _too_close(self, xyz: np.ndarray) -> str | None:
        """The first pair of atoms that are closer than any two atoms are, by blocks of rows to bound the memory."""
        for begin in range(0, len(xyz), _BLOCK):
            rows = slice(begin, begin + _BLOCK)
            apart = np.sqrt(((xyz[rows, None] - xyz[None]) ** 2).sum(axis=2))
            limit = np.maximum(SHORTEST, SHORTEST_RATIO * (self._radii[rows, None] + self._radii[None]))
            wrong = (apart < limit) & (np.arange(len(xyz)) > np.arange(begin, begin + len(apart))[:, None])
            if wrong.any():
                i, j = np.argwhere(wrong)[0].tolist()
                return f"atoms {self._name(begin + i)} and {self._name(j)} are {apart[i, j]:.2f} Angstrom apart"
        return None

    def _drawn(self, xyz: np.ndarray, lengths: np.ndarray) -> bool:
        """Whether a structure is flat, and not as flat molecules are: its bonds and angles are a draughtsman's."""
        atoms = [self._mol.GetAtomWithIdx(i) for i in range(len(xyz))]
        if len(xyz) < 3 or (len(xyz) <= 4 and not any(atom.GetTotalNumHs() for atom in atoms) and self._unusual(atoms)):
            return False
        spread = np.linalg.svd(xyz, compute_uv=False) / len(xyz) ** 0.5
        if spread[2] > FLAT:
            return False
        angles = []
        for atom in atoms:
            if atom.GetNumRadicalElectrons():
                continue
            if atom.GetAtomicNum() in (6, 8, 14, 16) and atom.GetHybridization() == Chem.HybridizationType.SP3:
                neighbours = [neighbour.GetIdx() for neighbour in atom.GetNeighbors()]
                if len(neighbours) > 2:
                    return True  # a saturated atom and three neighbours never lie in a plane
                if len(neighbours) == 2 and not atom.IsInRing():
                    a, b = xyz[neighbours] - xyz[atom.GetIdx()]
                    angles.append(np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))
        if angles and all(DRAWN_ANGLE[0] < angle < DRAWN_ANGLE[1] for angle in angles):
            return True
        if not len(lengths):
            return False
        even = lengths.std() < DRAWN_SPREAD and DRAWN_LENGTHS[0] < lengths.mean() < DRAWN_LENGTHS[1]
        deviation = lengths / self._expected() - 1
        limit = DRAWN_EVENLY if even else DRAWN_DEVIATION if (self._numbers == 6).any() else DRAWN_DEVIATION_INORGANIC
        if spread[1] < FLAT:
            limit = DRAWN_DEVIATION if even or deviation.mean() < 0 else DRAWN_DEVIATION_LINEAR
        return bool(np.abs(deviation).mean() > limit)

    def _unusual(self, atoms: list[Chem.Atom]) -> bool:
        """Whether radii say too little of bonds: those of other elements than organic ones, and of hydrogens between two atoms.

        Molecules of up to four atoms are flat often enough (SeO2, BeCl2, AlH3, HF2-); bonds that are far too long are found all the same.
        """
        return bool((~np.isin(self._numbers, _ORGANIC)).any()) or any(atom.GetAtomicNum() == 1 and atom.GetDegree() > 1 for atom in atoms)

    def _expected(self) -> np.ndarray:
        """What the bonds should measure: sums of radii, shorter by bond order and conjugation."""
        return self._radii[self._ends].sum(axis=1) - np.array([_shortening(bond) for bond in self._bonds])


def _shortening(bond: Chem.Bond) -> float:
    numbers = {bond.GetBeginAtom().GetAtomicNum(), bond.GetEndAtom().GetAtomicNum()}
    kind = bond.GetBondType()
    if kind == Chem.BondType.DOUBLE and numbers & {15, 16}:
        return _DOUBLE_OF_P_OR_S
    if kind == Chem.BondType.DOUBLE and any(
        atom.GetHybridization() == Chem.HybridizationType.SP for atom in (bond.GetBeginAtom(), bond.GetEndAtom())
    ):
        return _CUMULATED
    if kind == Chem.BondType.SINGLE and 5 in numbers and numbers & {7, 8, 9}:
        return _BACK_BONDED_BORON
    return _SHORTENING.get(kind, _CONJUGATED if bond.GetIsConjugated() else 0.0)
