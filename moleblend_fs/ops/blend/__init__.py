"""What each pair and atom of a batch shows, the noise on coordinates, and what is to be predicted, in one kernel on GPUs.

Elsewhere, and where other kernels are not wanted, the objective draws with torch's operations, which are some hundred launches.
Shape legend: B molecules, A atoms, P ordered pairs.
"""

from typing import NamedTuple

from torch import Tensor


class Rules(NamedTuple):
    """What a blend is drawn by; numbers of the host.

    Attributes:
        relation_key, atom_key, radius_key, angle_key: state of the hash, below 2^32, after seed, stream and epoch.
        limits: without and with coordinates, what 32 random bits of a pair are compared with, in order: SPD below the first, edge
            below the second, distance below the third, nothing from there on; and of an atom: its 3D feature from the fourth on.
        noise_scale: Angstrom. hidden_only: whether a relation is a target only where it is not shown.
        edge_class: target of each bond class.
    """

    relation_key: int
    atom_key: int
    radius_key: int
    angle_key: int
    limits: tuple[tuple[int, ...], ...]
    noise_scale: float
    hidden_only: bool
    edge_class: tuple[int, ...]


class Blend(NamedTuple):
    """A batch's blend and targets.

    Attributes:
        relations: (P,) uint8, bits of `SHOW_SPD` and the others. distances: (A,) bool, atoms with the 3D feature.
        noise, coordinates: (A, 3) float32, and both together; Angstrom.
        spd: (P,) int8, edge: (P, 5) int8, displacement: (P, 3), geometry_weight: (P,), noisy: (A,) bool; see `PretrainingTargets`.
        tallies: (TALLIES,) int64, targets of each SPD class, of each edge class and bonds out of range, molecules with a pair whose
            geometry counts, and noisy atoms: at `SPD_AT`, `EDGE_AT`, `OUT_OF_RANGE_AT`, `GEOMETRY_AT`, `NOISY_AT`.
    """

    relations: Tensor
    distances: Tensor
    noise: Tensor
    coordinates: Tensor
    spd: Tensor
    edge: Tensor
    displacement: Tensor
    geometry_weight: Tensor
    noisy: Tensor
    tallies: Tensor


SPD_CLASSES, EDGE_CLASSES = 11, 24
IGNORED = -100
"""Target of a place that has none (past the path's end, diagonal, no path)."""
OUT_OF_RANGE = -101
"""Target of a bond whose features the 24 classes do not cover: misc bonds; CIS, TRANS, ANY stereo."""
SPD_AT, EDGE_AT, OUT_OF_RANGE_AT, GEOMETRY_AT, NOISY_AT, TALLIES = 0, 16, 40, 48, 49, 50
"""Where the tallies stand, and how long they are."""
