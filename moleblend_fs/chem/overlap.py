"""How far two sets of molecules overlap: equal molecules, equal skeletons, near neighbours."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from rdkit import DataStructs
from rdkit.Chem import rdFingerprintGenerator

from moleblend_fs.chem.identity import molecule_key
from moleblend_fs.chem.parse import parse_smiles
from moleblend_fs.chem.skeleton import skeleton
from moleblend_fs.data.graph import Failure

RADIUS, BITS = 2, 2048
"""Of ECFP4."""
NEAR = 0.9
"""Neighbours are more similar than this (Tanimoto)."""


@dataclass(slots=True)
class MoleculeSet:
    """What is compared of a set, a value per molecule: keys (see `identity`), skeletons, fingerprints and their numbers of bits."""

    keys: list[str]
    skeletons: list[str]
    fingerprints: list[DataStructs.ExplicitBitVect]
    unreadable: int = 0

    @classmethod
    def of(cls, smiles: Iterable[str]) -> "MoleculeSet":
        """From SMILES; those that RDKit cannot read now are counted."""
        ecfp = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)
        result = cls([], [], [])
        for text in smiles:
            mol = parse_smiles(text)
            if isinstance(mol, Failure):
                result.unreadable += 1
                continue
            result.keys.append(molecule_key(mol))
            result.skeletons.append(skeleton(mol))
            result.fingerprints.append(ecfp.GetFingerprint(mol))
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Molecules of one set that another one has: the same ones, with the same skeleton, with one nearer than `NEAR`."""

    molecules: int
    exact: int
    skeleton: int
    near: int


def overlap(first: MoleculeSet, second: MoleculeSet) -> tuple[Overlap, Overlap]:
    """Of the first set with the second, and of the second with the first."""
    near = _near(first, second)
    pairs = ((first, second, near[0]), (second, first, near[1]))
    one, other = (
        Overlap(
            molecules=len(mine.keys),
            exact=_found(mine.keys, theirs.keys),
            skeleton=_found(mine.skeletons, theirs.skeletons),
            near=int(close.sum()),
        )
        for mine, theirs, close in pairs
    )
    return one, other


def _found(mine: list[str], theirs: list[str]) -> int:
    there = set(theirs)
    return sum(key in there for key in mine)


def _near(first: MoleculeSet, second: MoleculeSet) -> tuple[np.ndarray, np.ndarray]:
    """(len(first),) and (len(second),) bool. Sets of a and b bits have a Tanimoto of min(a, b) / max(a, b) at most."""
    counts = np.array([fingerprint.GetNumOnBits() for fingerprint in second.fingerprints])
    order = np.argsort(counts, kind="stable")
    sorted_counts = counts[order]
    fingerprints = [second.fingerprints[i] for i in order.tolist()]
    mine, theirs = np.zeros(len(first.fingerprints), dtype=bool), np.zeros(len(counts), dtype=bool)
    for place, fingerprint in enumerate(first.fingerprints):
        bits = fingerprint.GetNumOnBits()
        begin, end = np.searchsorted(sorted_counts, NEAR * bits, "right"), np.searchsorted(sorted_counts, bits / NEAR, "left")
        if begin < end:
            close = np.array(DataStructs.BulkTanimotoSimilarity(fingerprint, fingerprints[begin:end])) > NEAR
            mine[place] = close.any()
            theirs[order[begin:end][close]] = True
    return mine, theirs
