"""The SMILES of a store's molecules, for what chemistry computes of them later."""

from collections.abc import Iterator, Sequence

import numpy as np

from moleblend_fs.data.record import HEADER, damaged, inflate, section_bounds
from moleblend_fs.data.store import Store

PART = 1024
"""Records that are held at a time."""


def smiles_in(record: bytes) -> str:
    """The SMILES of one record, without unpacking the rest; UserError if it is damaged."""
    raw = inflate(record)
    bounds = section_bounds(np.frombuffer(raw, HEADER, count=1))[0].tolist()
    if bounds[-1] != len(raw):
        raise damaged(record, f"{len(raw)} bytes instead of {bounds[-1]}")
    try:
        return raw[bounds[-2] :].decode()
    except UnicodeDecodeError as error:
        raise damaged(record, str(error)) from error


def smiles_of_store(store: Store, indices: Sequence[int] | None = None) -> Iterator[tuple[int, str]]:
    """(molecule index, SMILES) of some molecules, or of all."""
    wanted = range(len(store)) if indices is None else indices
    for start in range(0, len(wanted), PART):
        part = wanted[start : start + PART]
        yield from zip(part, map(smiles_in, store.records(part)), strict=True)
