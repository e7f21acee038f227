"""Packed molecules of similar size -> the padded arrays that an exported model reads.

Shape legend: B molecules, n atoms (padded), A atoms in all, P ordered pairs in all.
"""

from collections.abc import Collection, Mapping

import numpy as np

STEP = 4
"""Tokens are padded to a multiple of this, so that a molecule's padding depends on its own size alone."""
OF_ATOMS, OF_PAIRS = ("atom_features", "degree", "coordinates"), ("spd", "path_bonds")
INPUT_ARRAYS = {"num_atoms", "has_coordinates", *OF_ATOMS, *OF_PAIRS}
"""All that a network may read."""


def padded_atoms(num_atoms: np.ndarray) -> np.ndarray:
    """Atoms that molecules of so many atoms are padded to; with the graph token a multiple of `STEP`."""
    return -(-(num_atoms + 1) // STEP) * STEP - 1


def padded(packed: Mapping[str, np.ndarray], names: Collection[str]) -> dict[str, np.ndarray]:
    """Some arrays of a packed batch (see `data.packed_arrays`) with a molecule's atoms, or pairs, in a row of its own; zeros elsewhere.

    Args:
        names: those that are needed.
    """
    sizes = packed["num_atoms"]
    n = int(padded_atoms(sizes).max())
    exists = np.arange(n) < sizes[:, None]
    result = {}
    for name in names:
        array = packed[name]
        if name not in OF_ATOMS + OF_PAIRS:
            result[name] = array
            continue
        places = exists if name in OF_ATOMS else exists[:, :, None] & exists[:, None, :]
        result[name] = np.zeros((*places.shape, *array.shape[1:]), array.dtype)
        result[name][places] = array
    return result
