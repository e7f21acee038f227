"""The outer-product projection (paper, Eq. 10-11) as a bilinear form, and the losses on it.

    z_ijc = W_c . vec(l_i r_j^T) + b_c = sum_ab l_ia W_cab r_jb + b_c

Shape legend: A atoms, P pairs, m pair width, C outputs.
"""

import torch
from torch import Tensor

from moleblend_fs.ops.constants import zero
from moleblend_fs.ops.dispatch import uses_triton
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.pair_projection import reference
from moleblend_fs.ops.pair_projection.reference import pair_projection

__all__ = ["pair_cosine", "pair_cross_entropy", "pair_projection", "pair_smooth_l1"]


def pair_cross_entropy(left_Am: Tensor, right_Am: Tensor, weight_Cmm: Tensor, bias_C: Tensor, target_PK: Tensor, layout: Layout) -> Tensor:
    """Sum of the cross-entropies of K classifications per pair, a scalar in float32 or wider.

    Args:
        bias_C: C = K * classes.
        target_PK: (P, K) int8 classes; negative ones do not count.
    """
    if uses_triton("pair_projection", left_Am.device, left_Am.dtype, (left_Am.shape[1],)):
        from moleblend_fs.ops.pair_projection import autograd

        return autograd.pair_cross_entropy(left_Am, right_Am, weight_Cmm, bias_C, target_PK, layout)
    return reference.pair_cross_entropy(left_Am, right_Am, weight_Cmm, bias_C, target_PK, layout)


def pair_cosine(
    left_Am: Tensor, right_Am: Tensor, weight_Cmm: Tensor, bias_C: Tensor, target_P3: Tensor, weight_P: Tensor, layout: Layout
) -> Tensor:
    """sum over pairs of weight * (1 - cos(z, target)), a scalar in float32 or wider; 0 for a weight of 0, whatever the target is."""
    target_P3 = torch.where(weight_P.unsqueeze(1) > 0, target_P3, zero(target_P3))  # 0 times NaN would be NaN
    if uses_triton("pair_projection", left_Am.device, left_Am.dtype, (left_Am.shape[1],)):
        from moleblend_fs.ops.pair_projection import autograd

        return autograd.pair_cosine(left_Am, right_Am, weight_Cmm, bias_C, target_P3, weight_P, layout)
    return reference.pair_cosine(left_Am, right_Am, weight_Cmm, bias_C, target_P3, weight_P, layout)


def pair_smooth_l1(
    left_Am: Tensor, right_Am: Tensor, weight_Cmm: Tensor, bias_C: Tensor, target_P: Tensor, weight_P: Tensor, layout: Layout
) -> Tensor:
    """sum over pairs of weight * SmoothL1(z, target), a scalar in float32 or wider; 0 for a weight of 0, as above; C = 1."""
    target_P = torch.where(weight_P > 0, target_P, zero(target_P))
    if uses_triton("pair_projection", left_Am.device, left_Am.dtype, (left_Am.shape[1],)):
        from moleblend_fs.ops.pair_projection import autograd

        return autograd.pair_smooth_l1(left_Am, right_Am, weight_Cmm, bias_C, target_P, weight_P, layout)
    return reference.pair_smooth_l1(left_Am, right_Am, weight_Cmm, bias_C, target_P, weight_P, layout)
