"""What the pretraining heads are to predict of a batch, and its classes; made by an objective.

Shape legend: A atoms, P ordered pairs.
"""

from typing import NamedTuple

from torch import Tensor

SPD_CLASSES = 11
"""Distances 1, 2, ..., 10, and 11 or more."""
EDGE_CLASSES = 24
"""(bond type, stereo, conjugated) = 4 x 3 x 2."""


def distance_class(spd: Tensor) -> Tensor:
    """Class 0 ... 10 of distances 1 ... 11 and more, in bonds; the caller leaves out pairs without a path."""
    return spd.clamp(1, SPD_CLASSES) - 1


class PretrainingTargets(NamedTuple):
    """Targets and which places count.

    Attributes:
        spd: (P,) int8 class 0 ... 10 of distance 1 ... 11+, or negative: no target.
        edge: (P, 5) int8 class 6 type + 2 stereo + conjugated, or negative.
        displacement: (P, 3) float32, r_j - r_i of the clean coordinates, Angstrom.
        geometry_weight: (P,) float32, 1 / (pairs of its molecule that count), 0 for pairs that do not.
        noise: (A, 3) the noise. noisy: (A,) bool, atoms that predict it.
    """

    spd: Tensor
    edge: Tensor
    displacement: Tensor
    geometry_weight: Tensor
    noise: Tensor
    noisy: Tensor

    def of_head(self, name: str) -> tuple[Tensor, ...]:
        """What one of the pretraining heads is called with to give its loss."""
        if name in ("spd", "edge"):
            return (getattr(self, name).reshape(len(self.spd), -1),)
        if name == "displacement":
            return self.displacement, self.geometry_weight
        if name == "distance":
            return self.displacement.norm(dim=1), self.geometry_weight
        assert name == "noise", name
        return self.noise, self.noisy
