"""Packed batches: molecules laid end to end, no padding.

Shape legend: B molecules, A atoms in all, P = sum of n_b^2 ordered atom pairs (row-major per molecule), L labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import Tensor

from moleblend_fs.data.graph import MAX_HOPS
from moleblend_fs.data.record import HEADER, damaged, inflate, section_bounds


@dataclass(slots=True, kw_only=True)
class MoleculeBatch:
    """What the model reads. Nothing changes a batch once it is made.

    Attributes:
        num_atoms: (B,) int64, always on the CPU, so that layouts are planned without waiting for the device.
        molecule_id: (B,) int64, seeds each molecule's own random draws.
        atom_features: (A, 9) uint8, OGB's atom features.
        degree: (A,) uint8, bonds per atom.
        coordinates: (A, 3) float32, Angstrom; 0 where `has_coordinates` is false.
        has_coordinates: (B,) bool.
        spd: (P,) uint8, shortest path distance; 255 where there is no path.
        path_bonds: (P, 5) uint8, bond classes along the path; 0 past its end.
        labels: (B, L) float64, as in the record: they are scaled before they are rounded; 0 where `has_label` is false.
        has_label: (B, L) bool.
        extra: what an objective needs besides, by name, (B, ...) each: a row per molecule.
    """

    num_atoms: Tensor
    molecule_id: Tensor
    atom_features: Tensor
    degree: Tensor
    coordinates: Tensor
    has_coordinates: Tensor
    spd: Tensor
    path_bonds: Tensor
    labels: Tensor
    has_label: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.num_atoms)

    def to(self, device: torch.device | str) -> "MoleculeBatch":
        """The batch on a device (asynchronously from pinned memory); `num_atoms` stays on the CPU."""
        return self.map(lambda name, x: x if name == "num_atoms" else x.to(device, non_blocking=True))

    def pin_memory(self) -> "MoleculeBatch":
        """The batch in page-locked memory; torch's DataLoader calls this."""
        return self.map(lambda _, x: x.pin_memory())

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The tensors as arrays, which go from process to process as plain bytes: tensors would take an open file each."""
        arrays = {name: getattr(self, name).numpy() for name in TENSORS}
        return arrays | {EXTRA + name: value.numpy() for name, value in self.extra.items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "MoleculeBatch":
        """The inverse of `to_arrays`."""
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        extra = {name.removeprefix(EXTRA): value for name, value in tensors.items() if name.startswith(EXTRA)}
        return cls(**{name: value for name, value in tensors.items() if name in TENSORS}, extra=extra)

    def map(self, function: Callable[[str, Tensor], Tensor]) -> "MoleculeBatch":
        """The batch with each tensor replaced by a function of its name and itself."""
        extra = {name: function(name, value) for name, value in self.extra.items()}
        return MoleculeBatch(**{name: function(name, getattr(self, name)) for name in TENSORS}, extra=extra)


TENSORS = tuple(f.name for f in fields(MoleculeBatch) if f.name != "extra")
"""The fields that every batch has."""
GROUP = "group"
"""Extra data: number of each molecule's group in the batch, where an objective asks for groups."""
EXTRA = "extra/"
"""What names of extra data begin with among arrays."""


def collate(records: Sequence[bytes], conformer_draw: int = 0) -> MoleculeBatch:
    """Join records into a packed batch.

    Args:
        records: values of a store, B of them.
        conformer_draw: 0 for the first conformer of each molecule; any other number (an epoch, say) draws one of its
            conformers by a hash of the number and the molecule's id.
    """
    raw = [inflate(record) for record in records]
    headers = np.frombuffer(b"".join([r[: HEADER.itemsize] for r in raw]), HEADER)
    num_atoms = headers["num_atoms"].astype(np.int64)
    bounds = section_bounds(headers)
    lengths = np.array([len(r) for r in raw])
    if (wrong := np.flatnonzero((bounds[:, -1] != lengths) | (headers["num_labels"] != headers["num_labels"][:1]))).size:
        raise damaged(records[int(wrong[0])], "its parts do not fit together, or are not those of its neighbours")
    cuts = bounds.T.tolist()

    def join(section: int) -> bytearray:
        return bytearray().join([r[a:b] for r, a, b in zip(raw, cuts[section], cuts[section + 1], strict=True)])

    labels = np.frombuffer(join(0), "<f8").reshape(len(raw), -1)
    has_label = ~np.isnan(labels)
    conformers = headers["num_conformers"].astype(np.int64)
    # Fibonacci hashing: the high bits of a product with an odd constant are well mixed.
    hashed = ((headers["molecule_id"] + 1).astype(np.uint64) * np.uint64(conformer_draw) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    pick = hashed.astype(np.int64) % np.maximum(conformers, 1)
    starts = bounds[:, 1] + 12 * num_atoms * pick
    coordinates = bytearray().join(
        [
            r[start : start + 12 * n] if c else bytes(12 * n)
            for r, start, n, c in zip(raw, starts.tolist(), num_atoms.tolist(), conformers.tolist(), strict=True)
        ]
    )
    return MoleculeBatch(
        num_atoms=torch.from_numpy(num_atoms),
        molecule_id=torch.from_numpy(headers["molecule_id"].astype(np.int64)),
        atom_features=torch.frombuffer(join(4), dtype=torch.uint8).view(-1, 9),
        degree=torch.frombuffer(join(5), dtype=torch.uint8),
        coordinates=torch.frombuffer(coordinates, dtype=torch.float32).view(-1, 3),
        has_coordinates=torch.from_numpy(conformers > 0),
        spd=torch.frombuffer(join(6), dtype=torch.uint8),
        path_bonds=torch.frombuffer(join(7), dtype=torch.uint8).view(-1, MAX_HOPS),
        labels=torch.from_numpy(np.where(has_label, labels, 0.0)),
        has_label=torch.from_numpy(has_label),
    )
