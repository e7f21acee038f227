"""Attention bias of the relations that each pair shows, and the atoms' 3D features.

The three depictions (SPD, edge, distance) are those of Graphormer (Ying et al. 2021) and Transformer-M (Luo et al. 2023).
Shape legend: A atoms, P pairs, H heads, K Gaussians, M the pairs whose distance is needed.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from moleblend_fs.data.graph import UNREACHABLE
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import linear

SHOW_SPD, SHOW_EDGE, SHOW_DISTANCE = 1, 2, 4
"""Bits of `shown`: which relations a pair's bias is the sum of."""

UNREACHABLE_ROW = 511
"""Row of the SPD table for pairs with no path."""


class DistanceWeights(NamedTuple):
    """Parameters of the distance depiction: mul and shift (3 * 512,), means and stds (K,), and the two linear layers."""

    mul: Tensor
    shift: Tensor
    means: Tensor
    stds: Tensor
    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor


def spd_bias(shown_P: Tensor, spd_P: Tensor, spd_table: Tensor) -> Tensor:
    """spd_table[spd + 1] where SPD is shown, else 0; (P, H). Row 0 of the table is padding and zero."""
    spd = spd_P.long()
    row = torch.where(spd == UNREACHABLE, UNREACHABLE_ROW, spd + 1)
    return F.embedding(torch.where((shown_P & SHOW_SPD) > 0, row, 0), spd_table, padding_idx=0)


def edge_bias(shown_P: Tensor, spd_P: Tensor, path_P5: Tensor, hop_table: Tensor) -> Tensor:
    """1 / min(max(spd, 1), 5) * sum over hops of hop_table[hop, class] where edge is shown, else 0; (P, H).

    Args:
        hop_table: (5, classes, H), zero at class 0; see `RelationEncoder.hop_table`.
    """
    hops, classes, heads = hop_table.shape
    index = path_P5.long() + classes * torch.arange(hops, device=path_P5.device)
    total = F.embedding_bag(index, hop_table.reshape(hops * classes, heads), mode="sum")
    length = spd_P.clamp(1, hops).to(total.dtype)
    return total * (((shown_P & SHOW_EDGE) > 0) / length).unsqueeze(1).to(total.dtype)


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
) -> tuple[Tensor, Tensor]:
    """Add the distance depiction where it is shown, and sum the Gaussians for the atoms that want them.

    x_ij = mul_ij |r_i - r_j| + shift_ij, then Gaussians, Linear, GELU, Linear.

    Args:
        bias_PH: what it is added to.
        atom_distance_A: (A,) bool, atoms whose 3D feature is asked for.
        element_A: (A,) the atomic-number feature.

    Returns:
        The bias (P, H), and (A, K) sums over j of the Gaussians of pair (i, j), 0 for atoms not asked for.
    """
    wanted_by_atom = atom_distance_A[layout.pair_row]
    wanted_by_pair = (shown_P & SHOW_DISTANCE) > 0
    pair_M = (wanted_by_atom | wanted_by_pair).nonzero().squeeze(1)
    row_M, column_M = layout.pair_row[pair_M], layout.pair_column[pair_M]
    distance_M = (coordinates_A3[row_M] - coordinates_A3[column_M]).norm(dim=1)
    element_A = element_A.long()
    # Recomputed in backward: the (M, K) features are never kept.
    return checkpoint(
        _distance_bias,
        bias_PH,
        distance_M,
        element_A[row_M] + 3,
        element_A[column_M] + 3 + 512,
        pair_M,
        row_M,
        wanted_by_pair[pair_M].nonzero().squeeze(1),
        wanted_by_atom[pair_M],
        len(atom_distance_A),
        *weights,
        use_reentrant=False,
        preserve_rng_state=False,
    )


def _distance_bias(
    bias_PH,
    distance_M,
    first_M,
    second_M,
    pair_M,
    row_M,
    in_bias,
    in_atom_M,
    num_atoms,
    mul,
    shift,
    means,
    stds,
    weight1,
    bias1,
    weight2,
    bias2,
):
    mul_M = mul[first_M] + mul[second_M]
    shift_M = shift[first_M] + shift[second_M]
    features_MK = gaussians(mul_M * distance_M + shift_M, means, stds)
    sums = features_MK.new_zeros(num_atoms, features_MK.shape[1])
    sums = sums.index_add(0, row_M, features_MK * in_atom_M.unsqueeze(1).to(features_MK.dtype))
    hidden = F.gelu(linear(features_MK[in_bias], weight1, bias1))
    return bias_PH.index_add(0, pair_M[in_bias], linear(hidden, weight2, bias2)), sums
