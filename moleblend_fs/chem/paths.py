"""Shortest paths of a molecular graph and the bonds along them.

Rings give ties, and the published weights saw one choice: Floyd-Warshall with the intermediate atom k in the outer loop,
replacing a path only when strictly shorter, remembering the last such k for (i, j), and unfolding i -> k -> j recursively.
The extension module `_paths` finds the same paths by a search from every atom, in n (n + m) steps for n atoms and m bonds;
`tests/chem/test_paths.py` compares it with the rule in plain Python.
"""

import numpy as np

from moleblend_fs.data.graph import MAX_HOPS

try:
    import moleblend_fs.chem._paths as _paths
except ModuleNotFoundError as error:
    raise ImportError("the extension module moleblend_fs.chem._paths is not built; run `pip install -e .` in the repository") from error


def shortest_paths(num_atoms: int, bonds: np.ndarray, bond_classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances in bonds and the classes of the first five bonds of every path.

    Args:
        num_atoms: n.
        bonds: (m, 2) uint16, atom indices, each bond once.
        bond_classes: (m,) uint8, see `data.graph.bond_class`.

    Returns:
        spd: (n, n) uint8; 255 where there is no path, 254 for 254 bonds and more.
        path_bonds: (n, n, 5) uint8; 0 past the end of a path.

    Raises:
        ValueError: a bond of an atom that is not there or with itself, or more than 16,383 atoms.
    """
    spd, hops = _paths.shortest_paths(
        num_atoms, np.ascontiguousarray(bonds, dtype=np.uint16), np.ascontiguousarray(bond_classes, dtype=np.uint8)
    )
    return (
        np.frombuffer(spd, np.uint8).reshape(num_atoms, num_atoms),
        np.frombuffer(hops, np.uint8).reshape(num_atoms, num_atoms, MAX_HOPS),
    )
