"""Packed batches: molecules laid end to end, no padding.

Shape legend: B molecules, A atoms in all, P = sum of n_b^2 ordered atom pairs (row-major per molecule), L labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import Tensor

from moleblend_fs.data.packed_arrays import EXTRA, STRUCTURES, joined


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
        extra: what an objective needs besides, by name, (B, ...) each: a row per molecule, but for those of `ROWS_OF_ATOMS`.
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
ROWS_OF_ATOMS = ("atom_features", "degree", "coordinates", STRUCTURES)
"""What has a row per atom, extra data among it."""
ROWS_OF_PAIRS = ("spd", "path_bonds")
"""What has a row per ordered pair."""


def collate(records: Sequence[bytes], conformer_draw: int = 0, conformers: int = 1) -> MoleculeBatch:
    """Join records into a packed batch, see `joined`."""
    return MoleculeBatch.from_arrays(joined(records, conformer_draw, conformers))
