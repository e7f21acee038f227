"""The outer-product projection (paper, Eq. 10-11) as a bilinear form.

    z_ijc = W_c . vec(l_i r_j^T) + b_c = sum_ab l_ia W_cab r_jb + b_c

One side is contracted first: nothing of size n x n x m^2 is ever built.
Shape legend: A atoms, P pairs, m pair width, C outputs.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from moleblend_fs.ops.layout import Layout


def pair_projection(left_Am: Tensor, right_Am: Tensor, weight_Cmm: Tensor, bias_C: Tensor, layout: Layout) -> Tensor:
    """z of every pair, (P, C). Only z is kept for the backward pass; the contracted side is recomputed there."""
    return checkpoint(_pair_projection, left_Am, right_Am, weight_Cmm, bias_C, layout, use_reentrant=False, preserve_rng_state=False)


def _pair_projection(left_Am: Tensor, right_Am: Tensor, weight_Cmm: Tensor, bias_C: Tensor, layout: Layout) -> Tensor:
    outputs, m, _ = weight_Cmm.shape
    weight = weight_Cmm.permute(1, 2, 0).reshape(m, m * outputs)
    parts = []
    for bucket in layout.buckets:
        b, n = bucket.atoms.shape
        atoms = bucket.atoms.reshape(-1)
        left = (left_Am.index_select(0, atoms) @ weight).view(-1, m, outputs)
        right = right_Am.index_select(0, atoms).view(b, 1, n, m).expand(b, n, n, m).reshape(b * n, n, m)
        z = torch.bmm(right, left).view(b * n * n, outputs)
        parts.append(z.index_select(0, bucket.pair_places))
    return torch.cat(parts).index_select(0, layout.pair_order) + bias_C
