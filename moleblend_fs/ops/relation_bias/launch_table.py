"""How the kernels of the distance encoding's table are launched; see `table`.

Shape legend: P ordered pairs, H heads, K Gaussians, M the pairs that show a distance, N points.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from moleblend_fs.ops.kernel_common import cdiv
from moleblend_fs.ops.relation_bias.kernels_points import CELLS, NODES
from moleblend_fs.ops.relation_bias.launches import Launch
from moleblend_fs.ops.relation_bias.weights import RelationWeights

SHARING = 8
"""Programs that share the pairs of a block of cells: most pairs lie in few blocks, those of bonds and of atoms with themselves."""
SHARING_WITHOUT_GPU = 2


class Table(NamedTuple):
    """What the forward pass makes and the backward pass reads.

    Attributes:
        read, computed: (1,) pairs that are read from the table, and that are computed one by one: one of both is 0.
        used: (1,) points whose gradients are wanted: all of them, or none.
        values_HN: the heads' values at the points.
        x_N, number_N: the points' x and numbers. points: their start, step, and the narrowest Gaussian's width.
    """

    read: Tensor
    computed: Tensor
    used: Tensor
    values_HN: Tensor
    x_N: Tensor
    number_N: Tensor
    points: Tensor


def empty_table(weights: RelationWeights, number: int) -> Table:
    """Places for a table of so many points."""
    new = weights.means.new_empty
    read, computed, used = (new(1, dtype=torch.int32) for _ in range(3))
    values_HN = new(weights.spd_table.shape[1], number)
    return Table(read, computed, used, values_HN, new(number), new(number, dtype=torch.int32), new(3))


def make_table(chosen: dict[str, Launch], weights: RelationWeights, count: Tensor, number: int) -> Table:
    """The table, and which of the `count` listed pairs are read from it: all, where it is good enough, or none.

    Args:
        chosen: launches whose products keep float32's accuracy.
    """
    table = empty_table(weights, number)
    table.values_HN.zero_()
    place, add, measure, choose = (chosen[name] for name in ("place_points", "add_distance_bias", "measure_error", "choose"))
    place.run((cdiv(number, place.block),), weights.means, weights.stds, table.x_N, table.number_N, table.points, number)
    listed = (table.number_N, table.x_N, torch.full_like(count, number))
    layers = (weights.means, weights.stds, weights.weight1, weights.bias1, weights.weight2, weights.bias2)
    add.run((add.programs(count.device),), table.values_HN, *listed, *layers, number)
    programs = cdiv(number, measure.block)
    partial = table.x_N.new_empty(programs, 2)
    measure.run((programs,), table.values_HN, partial, number)
    choose.run((1,), partial, table.points, count, table.read, table.computed, table.used, programs, number)
    return table


def table_gradients(chosen: dict[str, Launch], table: Table, d_bias_HP: Tensor, pair_M: Tensor, x_M: Tensor, d_x_P: Tensor) -> Tensor:
    """Gradients of the table's values, (H, N); that of each pair's x is stored in `d_x_P`."""
    pairs, (heads, number) = len(x_M), table.values_HN.shape
    find, sums, add = (chosen[name] for name in ("find_blocks", "point_gradients", "add_blocks"))
    block_M = x_M.new_empty(pairs, dtype=torch.int16)
    find.run((cdiv(pairs, find.block),), x_M, table.read, table.points, block_M, pairs, number)
    sorted_M, order_M = block_M.sort(stable=True)
    blocks = cdiv(number - 3, CELLS.value)
    starts = torch.searchsorted(sorted_M, torch.arange(blocks + 1, dtype=torch.int16, device=x_M.device), out_int32=True)
    sharing = SHARING if x_M.is_cuda else SHARING_WITHOUT_GPU
    partial = x_M.new_empty(blocks, sharing, sums.constexprs["H_PAD"], NODES.value)
    places = (order_M, starts, table.points, table.values_HN)
    sums.run((blocks, sharing), d_bias_HP, pair_M, x_M, *places, d_x_P, partial, pairs, number)
    d_values_HN = x_M.new_empty(heads, number)
    add.run((cdiv(number, add.block),), partial, d_values_HN, number, blocks, sharing)
    return d_values_HN
