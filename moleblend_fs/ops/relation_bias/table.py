"""The distance encoding as a table, in plain torch: heads' functions of the one number x, read between points.

The bias of a pair that shows its distance is a function of x = mul |r_i - r_j| + shift alone, for each head. With a table the two linear
layers see N points instead of every pair; a pair's bias is the cubic through the four points around its x. The points are spaced
evenly over the reach of the Gaussians, which the weights alone tell: the same pair has the same bias in every batch and micro-batch, and
an x beyond the reach, where no Gaussian is left and the function is constant, takes no points from the others.

What is between the points is unknown to the table, so that it is measured before it is believed: `error_of` leaves out every other
point and looks how far off the rest are there. Where the table cannot hold `TOLERANCE`, all pairs are computed as without one.
Shape legend: M pairs, N points, H heads, K Gaussians.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from moleblend_fs.ops.embedding_rows import FIRST_ELEMENT_ROW, SECOND_ELEMENT_ROW
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias.reference import distance_bias, gaussians
from moleblend_fs.ops.relation_bias.weights import SHOW_DISTANCE, DistanceWeights

REACH = 5.5
"""Widths from its mean to where a Gaussian ends: 3e-7 of its height is left there."""
TOLERANCE = 1e-4
"""Error that a table may have, of the function's largest value; products in TF32 round to 5e-4."""


class Points(NamedTuple):
    """Where a table has its points: x of the first cell's start, the distance between points, and the narrowest Gaussian's width."""

    low: Tensor
    step: Tensor
    narrowest: Tensor

    def x(self, number: int) -> Tensor:
        """(N,): one point lies before the reach of the Gaussians and one after it, for the cubics of the outermost cells."""
        return self.low + (torch.arange(number, device=self.low.device) - 1) * self.step


def place(means_K: Tensor, stds_K: Tensor, number: int) -> Points:
    """Evenly over the reach of all Gaussians."""
    widths = stds_K.abs() + 0.01
    low, high = (means_K - REACH * widths).min(), (means_K + REACH * widths).max()
    return Points(low, (high - low) / (number - 3), widths.min())


def cubic(t: Tensor) -> Tensor:
    """Weights of the four values at -1, 0, 1, 2 in the value at t of the cubic through them; (..., 4)."""
    outer_left = -t * (t - 1) * (t - 2) / 6
    left = (t + 1) * (t - 1) * (t - 2) / 2
    right = -(t + 1) * t * (t - 2) / 2
    outer_right = (t + 1) * t * (t - 1) / 6
    return torch.stack((outer_left, left, right, outer_right), dim=-1)


def read(x_M: Tensor, table_NH: Tensor, points: Points) -> Tensor:
    """The table's functions at x, (M, H)."""
    number = len(table_NH)
    place_M = ((x_M - points.low) / points.step + 1).clamp(1, number - 2)
    first = place_M.detach().nan_to_num(1.0).floor().long().clamp(1, number - 3) - 1
    weights = cubic(place_M - (first + 1))
    return sum(weights[:, k, None] * table_NH[first + k] for k in range(4))  # type: ignore[return-value]


def at_points(x_N: Tensor, weights: DistanceWeights) -> Tensor:
    """The two linear layers' outputs at some x, (N, H)."""
    hidden = F.gelu(F.linear(gaussians(x_N, weights.means, weights.stds), weights.weight1, weights.bias1))
    return F.linear(hidden, weights.weight2, weights.bias2)


def error_of(table_NH: Tensor) -> Tensor:
    """The largest error between points, in units of the largest value.

    A cubic through every other point is off by 16 times as much in the middle between them, which is where the points left out are.
    """
    t = table_NH
    middle = (9 * (t[2:-4] + t[4:-2]) - t[:-6] - t[6:]) / 16
    return (t[3:-3] - middle).abs().max() / 16 / t.abs().max()


def holds(table_NH: Tensor, points: Points) -> Tensor:
    """Whether a table is as good as `TOLERANCE` says; a Gaussian narrower than the step could lie between points unseen."""
    return (error_of(table_NH) <= TOLERANCE) & (points.step <= points.narrowest)


def distance_bias_from_table(
    bias_PH: Tensor,
    shown_P: Tensor,
    atom_distance_A: Tensor,
    coordinates_A3: Tensor,
    element_A: Tensor,
    weights: DistanceWeights,
    layout: Layout,
    number: int,
) -> tuple[Tensor, Tensor]:
    """`reference.distance_bias` with the bias from a table of so many points, whatever its error; the atoms' sums are computed as there."""
    shows = (shown_P & SHOW_DISTANCE) > 0
    bias_PH, sums_AK = distance_bias(bias_PH, shown_P & ~SHOW_DISTANCE, atom_distance_A, coordinates_A3, element_A, weights, layout)
    pair_M = shows.nonzero().squeeze(1)
    row_M, column_M = layout.pair_row[pair_M], layout.pair_column[pair_M]
    first, second = element_A.long()[row_M] + FIRST_ELEMENT_ROW, element_A.long()[column_M] + SECOND_ELEMENT_ROW
    between = (coordinates_A3[row_M] - coordinates_A3[column_M]).norm(dim=1)
    x_M = (weights.mul[first] + weights.mul[second]) * between + weights.shift[first] + weights.shift[second]
    points = place(weights.means.detach(), weights.stds.detach(), number)
    return bias_PH.index_add(0, pair_M, read(x_M, at_points(points.x(number), weights), points)), sums_AK
