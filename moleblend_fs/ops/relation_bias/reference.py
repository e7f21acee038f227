"""The relation bias in plain torch, some thousand pairs at a time.

Shape legend: A atoms, P pairs, H heads, K Gaussians, M the pairs whose distance is needed.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from moleblend_fs.data.graph import MAX_HOPS, UNREACHABLE
from moleblend_fs.ops.embedding_rows import FIRST_ELEMENT_ROW, SECOND_ELEMENT_ROW, SPD_FIRST_ROW, UNREACHABLE_ROW
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import linear
from moleblend_fs.ops.relation_bias.weights import SHOW_DISTANCE, SHOW_EDGE, SHOW_SPD, DistanceWeights

PAIRS_AT_ONCE = 4096
"""Pairs whose Gaussian features are held at a time."""


def spd_bias(shown_P: Tensor, spd_P: Tensor, spd_table: Tensor) -> Tensor:
    """spd_table[spd + 1] where SPD is shown, else 0; (P, H). Row 0 of the table is padding and zero."""
    return F.embedding(_spd_rows(shown_P, spd_P), spd_table, padding_idx=0)


def _spd_rows(shown_P: Tensor, spd_P: Tensor) -> Tensor:
    spd = spd_P.long()
    row = torch.where(spd == UNREACHABLE, UNREACHABLE_ROW, spd + SPD_FIRST_ROW)
    return torch.where((shown_P & SHOW_SPD) > 0, row, 0)


def edge_bias(shown_P: Tensor, spd_P: Tensor, path_P5: Tensor, hop_table: Tensor) -> Tensor:
    """1 / min(max(spd, 1), 5) * sum over hops of hop_table[hop, class] where edge is shown, else 0; (P, H).

    Args:
        hop_table: (5, classes, H), zero at class 0; see `RelationEncoder.hop_table`.
    """
    hops, classes, heads = hop_table.shape
    total = F.embedding_bag(_hop_rows(path_P5, classes), hop_table.reshape(hops * classes, heads), mode="sum")
    return total.mul_(_edge_factors(shown_P, spd_P, total.dtype))


def _hop_rows(path_P5: Tensor, classes: int) -> Tensor:
    return path_P5.long() + classes * torch.arange(path_P5.shape[1], device=path_P5.device)


def _edge_factors(shown_P: Tensor, spd_P: Tensor, dtype: torch.dtype) -> Tensor:
    length = spd_P.clamp(1, MAX_HOPS).to(dtype)
    return (((shown_P & SHOW_EDGE) > 0) / length).unsqueeze(1).to(dtype)


def gaussians(x_M: Tensor, means_K: Tensor, stds_K: Tensor) -> Tensor:
    """exp(-((x - mean) / s)^2 / 2) / (sqrt(2 pi) s) with s = |std| + 0.01; (M, K)."""
    inverse = 1 / (stds_K.abs() + 0.01)
    return torch.exp(-0.5 * ((x_M.unsqueeze(1) - means_K) * inverse).square()) * (inverse / math.sqrt(2 * math.pi))


def distance_bias(
    bias_PH: Tensor,
    shown_P: Tensor,
    atom_distance_A: Tensor,
    coordinates_A3: Tensor,
    element_A: Tensor,
    weights: DistanceWeights,
    layout: Layout,
    distances_P: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Add the distance encoding where it is shown, and sum the Gaussians for the atoms that want them.

    x_ij = mul_ij |r_i - r_j| + shift_ij, then Gaussians, Linear, GELU, Linear.

    Args:
        bias_PH: what it is added to.
        atom_distance_A: (A,) bool, atoms whose 3D feature is asked for.
        element_A: (A,) the atomic-number feature.
        distances_P: |r_i - r_j|, where they do not come from the coordinates.

    Returns:
        The bias (P, H), and (A, K) sums over j of the Gaussians of pair (i, j), 0 for atoms not asked for.
    """
    by_atom = atom_distance_A[layout.pair_row]
    by_pair = (shown_P & SHOW_DISTANCE) > 0
    pair_M = (by_atom | by_pair).nonzero().squeeze(1)
    row_M, column_M = layout.pair_row[pair_M], layout.pair_column[pair_M]
    element_A = element_A.long()
    between = (coordinates_A3[row_M] - coordinates_A3[column_M]).norm(dim=1) if distances_P is None else distances_P[pair_M]
    wanted = _Wanted(
        pair=pair_M,
        row=row_M,
        distance=between,
        first=element_A[row_M] + FIRST_ELEMENT_ROW,
        second=element_A[column_M] + SECOND_ELEMENT_ROW,
        in_bias=by_pair[pair_M],
        in_sums=by_atom[pair_M],
    )
    return _DistanceBias.apply(bias_PH, len(atom_distance_A), wanted, *weights)


class LookedUpBias(torch.autograd.Function):
    """SPD and edge, a few thousand pairs at a time, and again in the backward pass: torch would keep 80 bytes of indices a pair.

    The hop table's class 0, "no bond", gets no gradient.
    """

    @staticmethod
    def forward(ctx, shown_P, spd_P, path_P5, spd_table, hop_table):
        ctx.save_for_backward(shown_P, spd_P, path_P5, spd_table, hop_table)
        bias = spd_table.new_empty(len(shown_P), spd_table.shape[1])
        for shown, spd, path, out in zip(*(x.split(PAIRS_AT_ONCE) for x in (shown_P, spd_P, path_P5, bias)), strict=True):
            torch.add(spd_bias(shown, spd, spd_table), edge_bias(shown, spd, path, hop_table), out=out)
        return bias

    @staticmethod
    @once_differentiable
    def backward(ctx, d_bias):
        *inputs, spd_table, hop_table = ctx.saved_tensors
        hops, classes, heads = hop_table.shape
        d_spd, d_hop = torch.zeros_like(spd_table), hop_table.new_zeros(hops * classes, heads)
        for shown, spd, path, d_some in zip(*(x.split(PAIRS_AT_ONCE) for x in (*inputs, d_bias)), strict=True):
            d_spd += torch.ops.aten.embedding_dense_backward(d_some, _spd_rows(shown, spd), len(d_spd), 0, False)
            # Most hops are past their path's end, where the table is 0 and has no gradient: as padding they are passed over.
            row = _hop_rows(path, classes).masked_fill_(path == 0, 0)
            d_hops = (d_some * _edge_factors(shown, spd, d_some.dtype)).unsqueeze(1).expand(-1, hops, -1)
            d_hop += torch.ops.aten.embedding_dense_backward(d_hops, row, len(d_hop), 0, False)
        return None, None, None, d_spd, d_hop.view_as(hop_table)


class _Wanted(NamedTuple):
    """Pairs whose distance is needed, (M,) each: place in P, first atom, distance, rows of both elements in the mul and shift
    tables, whether the bias shows it, whether the first atom's 3D feature counts it."""

    pair: Tensor
    row: Tensor
    distance: Tensor
    first: Tensor
    second: Tensor
    in_bias: Tensor
    in_sums: Tensor

    def some(self) -> Iterable["_Wanted"]:
        """A few thousand pairs after the other; nothing where there are none."""
        return () if len(self.pair) == 0 else (_Wanted(*parts) for parts in zip(*(x.split(PAIRS_AT_ONCE) for x in self), strict=True))

    def features(self, weights: DistanceWeights) -> tuple[Tensor, Tensor, Tensor]:
        """Of these pairs: the bias (those in it, H), their places in P, and the Gaussians (M, K) with those not counted as 0."""
        mul = weights.mul[self.first] + weights.mul[self.second]
        shift = weights.shift[self.first] + weights.shift[self.second]
        features_MK = gaussians(mul * self.distance + shift, weights.means, weights.stds)
        hidden = F.gelu(linear(features_MK[self.in_bias], weights.weight1, weights.bias1))
        return linear(hidden, weights.weight2, weights.bias2), self.pair[self.in_bias], features_MK * self.in_sums.unsqueeze(1)


class _DistanceBias(torch.autograd.Function):
    """A few thousand pairs at a time, and again in the backward pass: the (M, K) features are never there as a whole."""

    @staticmethod
    def forward(ctx, bias_PH, num_atoms, wanted, *weights):
        ctx.save_for_backward(*weights)
        ctx.wanted = wanted
        out = bias_PH.clone()
        sums = bias_PH.new_zeros(num_atoms, len(DistanceWeights(*weights).means))
        for some in wanted.some():
            bias, pair, features = some.features(DistanceWeights(*weights))
            out.index_add_(0, pair, bias)
            sums.index_add_(0, some.row, features)
        return out, sums

    @staticmethod
    @once_differentiable
    def backward(ctx, d_bias, d_sums):
        weights = DistanceWeights(*(w.detach().requires_grad_() for w in ctx.saved_tensors))
        gradients = [torch.zeros_like(w) for w in weights]
        for some in ctx.wanted.some():
            with torch.enable_grad():
                bias, pair, features = some.features(weights)
            more = torch.autograd.grad((bias, features), weights, (d_bias.index_select(0, pair), d_sums.index_select(0, some.row)))
            for gradient, part in zip(gradients, more, strict=True):
                gradient += part
        return d_bias, None, None, *gradients
