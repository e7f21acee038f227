"""Molecular graphs with arbitrary content, for tests of how they are stored."""

import numpy as np

from moleblend_fs.data.graph import MolecularGraph


def random_graph(rng, n, labels=2, conformers=1):
    """A graph with arbitrary content of the right shapes."""
    m = max(0, n - 1)
    return MolecularGraph(
        atom_features=rng.integers(0, 119, (n, 9)).astype(np.uint8),
        bonds=np.stack([np.arange(m), np.arange(1, m + 1)], axis=1).astype(np.uint16),
        bond_classes=rng.integers(1, 61, m).astype(np.uint8),
        spd=rng.integers(0, 256, (n, n)).astype(np.uint8),
        path_bonds=rng.integers(0, 61, (n, n, 5)).astype(np.uint8),
        coordinates=rng.normal(size=(conformers, n, 3)).astype(np.float32) if conformers else None,
        labels=rng.normal(size=labels),
        smiles="C" * n + "é",
    )
