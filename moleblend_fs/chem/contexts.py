"""Names of the contexts that `data.contexts` has codes of, as GROVER's vocabularies have them, and their counts in a molecule."""

from collections import Counter
from typing import NamedTuple

import numpy as np
from rdkit import Chem

from moleblend_fs.data.contexts import codes_of_graph, kind_of_class
from moleblend_fs.data.graph import ELEMENTS, NUM_BOND_STEREO

TYPES = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC", "OTHER")
STEREO = ("STEREONONE", "STEREOZ", "STEREOE", "STEREOCIS", "STEREOTRANS", "STEREOANY")
KIND = kind_of_class()
SYMBOLS = [*(Chem.GetPeriodicTable().GetElementSymbol(number) for number in range(1, ELEMENTS)), "*"]
"""By an element's number, less one; * for what is no element."""


class Counted(NamedTuple):
    """A context's name, its code, and how often it is there."""

    name: str
    code: int
    times: int


def atom_names(elements: np.ndarray, bonds: np.ndarray, classes: np.ndarray) -> list[str]:
    """Of every atom: its symbol and, sorted, each (neighbour's symbol, bond's type) with its number, e.g. C_C-SINGLE2_O-DOUBLE1."""
    around: list[Counter[str]] = [Counter() for _ in elements]
    for (u, v), number in zip(bonds.tolist(), KIND[classes].tolist(), strict=True):
        for atom, neighbour in ((u, v), (v, u)):
            around[atom][f"{SYMBOLS[elements[neighbour]]}-{TYPES[number // NUM_BOND_STEREO]}"] += 1
    return [_joined(SYMBOLS[element], near) for element, near in zip(elements, around, strict=True)]


def bond_names(elements: np.ndarray, bonds: np.ndarray, classes: np.ndarray) -> list[str]:
    """Of every bond: (type-stereo) and, sorted, each (end's symbol, other bond there) with its number."""
    kinds = [f"({TYPES[number // NUM_BOND_STEREO]}-{STEREO[number % NUM_BOND_STEREO]})" for number in KIND[classes].tolist()]
    at: list[list[int]] = [[] for _ in elements]
    for number, ends in enumerate(bonds.tolist()):
        for atom in ends:
            at[atom].append(number)
    names = []
    for number, ends in enumerate(bonds.tolist()):
        others = [(atom, other) for atom in ends for other in at[atom] if other != number]
        names.append(_joined(kinds[number], Counter(f"{SYMBOLS[elements[atom]]}-{kinds[other]}" for atom, other in others)))
    return names


def _joined(centre: str, around: Counter[str]) -> str:
    return "_".join([centre, *(f"{part}{around[part]}" for part in sorted(around))])


def contexts(elements: np.ndarray, bonds: np.ndarray, classes: np.ndarray) -> dict[str, list[Counted]]:
    """How often each context of atoms and of bonds is there.

    Args:
        elements: (n,) numbers below 119. bonds: (m, 2) atoms. classes: (m,) see `data.graph.bond_class`.
    """
    atoms, ours = codes_of_graph(elements, bonds, classes)
    named = {
        "atoms": zip(atom_names(elements, bonds, classes), atoms, strict=True),
        "bonds": zip(bond_names(elements, bonds, classes), ours, strict=True),
    }
    return {what: [Counted(*pair, times) for pair, times in Counter(pairs).items()] for what, pairs in named.items()}
