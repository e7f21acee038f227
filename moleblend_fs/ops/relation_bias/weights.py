"""What the relation bias is computed from, besides the molecules."""

from typing import NamedTuple

from torch import Tensor

SHOW_SPD, SHOW_EDGE, SHOW_DISTANCE = 1, 2, 4
"""Bits of `shown`: which relations a pair's bias is the sum of."""


class DistanceWeights(NamedTuple):
    """Parameters of the distance encoding: mul and shift (ELEMENT_ROWS,), means and stds (K,), and the two linear layers."""

    mul: Tensor
    shift: Tensor
    means: Tensor
    stds: Tensor
    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor


class RelationWeights(NamedTuple):
    """Parameters of the three encodings: spd_table (TABLE_ROWS, H), hop_table (5, classes, H), and those of `DistanceWeights`."""

    spd_table: Tensor
    hop_table: Tensor
    mul: Tensor
    shift: Tensor
    means: Tensor
    stds: Tensor
    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor

    @property
    def distance(self) -> DistanceWeights:
        """Those of the distance encoding."""
        return DistanceWeights(**{name: getattr(self, name) for name in DistanceWeights._fields})
