"""Records laid end to end as arrays: all of a packed batch, without torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from moleblend_fs.data.graph import MAX_HOPS
from moleblend_fs.data.record import HEADER, damaged, inflate, section_bounds

EXTRA = "extra/"
"""What names of extra data begin with among arrays."""
STRUCTURES, NUM_STRUCTURES = "structures", "num_structures"
"""Extra data: (A, c, 3) coordinates of c conformers of each molecule, 0 past its last one; (B,) int64, how many of them it has."""


def joined(records: Sequence[bytes], conformer_draw: int = 0, conformers: int = 1) -> dict[str, np.ndarray]:
    """The arrays of a packed batch, see `MoleculeBatch`.

    Args:
        records: values of a store, B of them.
        conformer_draw: 0 for the first conformer of each molecule; any other number (an epoch, say) draws one of its
            conformers by a hash of the number and the molecule's id.
        conformers: how many of each molecule: the drawn one and those that follow it, round and round but none twice. More than one are
            `STRUCTURES`, the first of which is what the batch has in any case.
    """
    raw = [inflate(record) for record in records]
    headers = np.frombuffer(b"".join([r[: HEADER.itemsize] for r in raw]), HEADER)
    num_atoms = headers["num_atoms"].astype(np.int64)
    bounds = section_bounds(headers)
    lengths = np.array([len(r) for r in raw])
    mixed = any(getattr(record, "columns", None) is not None for record in records)
    labels_of = [len(record.columns[0]) for record in records] if mixed else headers["num_labels"][:1]  # type: ignore[attr-defined]
    strange = (bounds[:, -1] != lengths) | (headers["num_labels"] != labels_of)
    if (wrong := np.flatnonzero(strange)).size:
        raise damaged(records[int(wrong[0])], "its parts do not fit together, or are not those of its neighbours")
    cuts = bounds.T.tolist()

    def join(section: int) -> bytearray:
        return bytearray().join([r[a:b] for r, a, b in zip(raw, cuts[section], cuts[section + 1], strict=True)])

    ids = headers["molecule_id"].astype(np.int64) + np.array([getattr(record, "first_id", 0) for record in records], dtype=np.int64)
    labels = np.frombuffer(join(0), "<f8")
    labels = _at_their_columns(labels, records) if mixed else labels.reshape(len(raw), -1)
    has_label = ~np.isnan(labels)
    there = headers["num_conformers"].astype(np.int64)
    # Fibonacci hashing: the high bits of a product with an odd constant are well mixed.
    hashed = ((ids + 1).astype(np.uint64) * np.uint64(conformer_draw) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    pick = hashed.astype(np.int64) % np.maximum(there, 1)

    def coordinates(number: int) -> np.ndarray:
        """(A, 3), of the conformer so many places after the drawn one; 0 where there are not so many."""
        starts = bounds[:, 1] + 12 * num_atoms * ((pick + number) % np.maximum(there, 1))
        parts = zip(raw, starts.tolist(), num_atoms.tolist(), (there > number).tolist(), strict=True)
        return np.frombuffer(bytearray().join([r[s : s + 12 * n] if c else bytes(12 * n) for r, s, n, c in parts]), "<f4").reshape(-1, 3)

    first, more = coordinates(0), {}
    if conformers > 1:
        every = np.stack([first, *map(coordinates, range(1, conformers))], axis=1)
        more = {EXTRA + STRUCTURES: every, EXTRA + NUM_STRUCTURES: np.minimum(there, conformers)}
    return more | {
        "num_atoms": num_atoms,
        "molecule_id": ids,
        "atom_features": np.frombuffer(join(4), np.uint8).reshape(-1, 9),
        "degree": np.frombuffer(join(5), np.uint8),
        "coordinates": first,
        "has_coordinates": there > 0,
        "spd": np.frombuffer(join(6), np.uint8),
        "path_bonds": np.frombuffer(join(7), np.uint8).reshape(-1, MAX_HOPS),
        "labels": np.where(has_label, labels, 0.0),
        "has_label": has_label,
    }


def _at_their_columns(labels: np.ndarray, records: Sequence[Any]) -> np.ndarray:
    """(B, L) labels of records of several stores, NaN where a record's store has no such label; `labels` are those of all, in a row."""
    result = np.full((len(records), records[0].columns[1]), np.nan)
    lengths = [len(record.columns[0]) for record in records]
    result[np.repeat(np.arange(len(records)), lengths), np.concatenate([record.columns[0] for record in records])] = labels
    return result
