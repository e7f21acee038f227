"""The SMILES of a store's molecules, for what chemistry computes of them later."""

from collections.abc import Iterator, Sequence

import numpy as np

from moleblend_fs.data.record import smiles_in
from moleblend_fs.data.store import Store

PART = 1024
"""Records that are held at a time."""


def smiles_of_store(store: Store, indices: Sequence[int] | np.ndarray | None = None) -> Iterator[tuple[int, str]]:
    """(molecule index, SMILES) of some molecules, or of all."""
    wanted = range(len(store)) if indices is None else indices
    for start in range(0, len(wanted), PART):
        part = wanted[start : start + PART]
        yield from zip(part, map(smiles_in, store.records(part)), strict=True)
