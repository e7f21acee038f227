"""Contexts of atoms and bonds: what is one bond away from them (GROVER's contextual properties, Rong et al. 2020), as 64-bit codes.

    atom:  element | each bond: the neighbour's element, the bond's type
    bond:  type and stereo | of either end, each other bond: the end's element, that bond's type and stereo

What stands after the bar has no order. A code is the sum modulo 2^64 of a fixed random number for each part: equal contexts have equal
codes, and two different ones share a code with a probability of about 2^-64.
Shape legend: A atoms, M directed bonds, each bond in both directions.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from moleblend_fs.data.graph import ELEMENTS, NUM_BOND_CLASSES, NUM_BOND_STEREO, NUM_BOND_TYPES, bond_class_features

BOND_KINDS = NUM_BOND_TYPES * NUM_BOND_STEREO
"""Types and stereo of bonds; `kind_of_class` numbers them."""


def kind_of_class() -> np.ndarray:
    """(61,) int64, 6 type + stereo of every bond class; 0 for "no bond"."""
    kind, stereo, _ = bond_class_features().T
    found = np.zeros(NUM_BOND_CLASSES, dtype=np.int64)
    found[1:] = NUM_BOND_STEREO * kind + stereo
    return found


@functools.cache
def _tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Random numbers of elements (119,), neighbours (119, 5), kinds (30,) and other bonds (119, 30); kinds of classes (61,)."""
    sizes = (ELEMENTS, ELEMENTS * NUM_BOND_TYPES, BOND_KINDS, ELEMENTS * BOND_KINDS)
    drawn = torch.from_numpy(np.random.PCG64(0).random_raw(sum(sizes)).view(np.int64))
    element, neighbour, kind, other = (part.to(device) for part in drawn.split(sizes))
    kinds = torch.from_numpy(kind_of_class()).to(device)
    return element, neighbour.view(ELEMENTS, -1), kind, other.view(ELEMENTS, -1), kinds


def atom_codes(element_A: Tensor, from_M: Tensor, to_M: Tensor, class_M: Tensor) -> Tensor:
    """(A,) int64. Elements as numbers below 119; bonds by their atoms and classes, see `data.graph.bond_class`."""
    element, neighbour, _, _, kinds = _tables(element_A.device)
    kind = kinds[class_M] // NUM_BOND_STEREO
    return element[element_A].index_add(0, from_M, neighbour[element_A[to_M], kind])


def bond_codes(element_A: Tensor, from_M: Tensor, to_M: Tensor, class_M: Tensor) -> Tensor:
    """(M,) int64, the same in both directions."""
    _, _, kind, other, kinds = _tables(element_A.device)
    own = kinds[class_M]
    at_end = other[element_A[from_M], own]
    around = torch.zeros_like(element_A).index_add(0, from_M, at_end)
    return kind[own] + around[from_M] + around[to_M] - at_end - other[element_A[to_M], own]


def codes_of_graph(elements: np.ndarray, bonds: np.ndarray, classes: np.ndarray) -> tuple[list[int], list[int]]:
    """Codes of a molecule's n atoms and m bonds: elements (n,), bonds (m, 2), classes (m,), each bond once."""
    directed = np.concatenate([bonds, bonds[:, ::-1]]).astype(np.int64).reshape(-1, 2)
    both = np.concatenate([classes, classes]).astype(np.int64)
    arrays = [torch.from_numpy(np.ascontiguousarray(x)) for x in (elements.astype(np.int64), directed[:, 0], directed[:, 1], both)]
    return atom_codes(*arrays).tolist(), bond_codes(*arrays)[: len(bonds)].tolist()
