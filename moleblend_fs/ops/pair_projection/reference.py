"""The projection of pairs and its losses in plain torch.

    z_ijc = W_c . vec(l_i r_j^T) + b_c = sum_ab l_ia W_cab r_jb + b_c

One side is contracted first: nothing of size n x n x m^2 is ever built. A loss is a sum over pairs, so its gradient is known
up to one factor as soon as z is: it is computed along with the loss, a few molecules at a time, and z is never kept.
Shape legend: A atoms, P pairs, m pair width, C outputs; p pairs of some molecules, b, n as in `layout`.
"""

import sys
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.precision import at_least_float32

VALUES_AT_ONCE = 1 << 19
"""Values of z (padded pairs times outputs) that a loss holds at a time: about what a core's cache does."""

PairLoss = Callable[[Tensor, Tensor], Tensor]
"""(z of some pairs (p, C), their places in P) -> the sum of their losses."""


def pair_projection(left_Am: Tensor, right_Am: Tensor, weight_Cmm: Tensor, bias_C: Tensor, layout: Layout) -> Tensor:
    """z of every pair, (P, C)."""
    parts = [z for z, _ in _some_pairs(left_Am, right_Am, _as_matrix(weight_Cmm), bias_C, layout, sys.maxsize)]
    return torch.cat(parts).index_select(0, layout.pair_order)


def pair_cross_entropy(left_Am: Tensor, right_Am: Tensor, weight_Cmm: Tensor, bias_C: Tensor, target_PK: Tensor, layout: Layout) -> Tensor:
    """Sum of the cross-entropies of K classifications per pair, a scalar in float32 or wider.

    Args:
        bias_C: C = K * classes.
        target_PK: (P, K) int8 classes; negative ones do not count.
    """

    def loss(z_pC: Tensor, place_p: Tensor) -> Tensor:
        target = target_PK.index_select(0, place_p).reshape(-1).long()
        return F.cross_entropy(z_pC.reshape(len(target), -1), target.clamp(min=-1), ignore_index=-1, reduction="sum")

    return _loss_sum(left_Am, right_Am, weight_Cmm, bias_C, layout, loss)


def pair_cosine(
    left_Am: Tensor, right_Am: Tensor, weight_Cmm: Tensor, bias_C: Tensor, target_P3: Tensor, weight_P: Tensor, layout: Layout
) -> Tensor:
    """sum over pairs of weight * (1 - cos(z, target)), a scalar in float32 or wider."""

    def loss(z_p3: Tensor, place_p: Tensor) -> Tensor:
        cosine = F.cosine_similarity(z_p3, target_P3.index_select(0, place_p).to(z_p3.dtype), dim=1)
        return ((1 - cosine) * weight_P.index_select(0, place_p)).sum()

    return _loss_sum(left_Am, right_Am, weight_Cmm, bias_C, layout, loss)


def pair_smooth_l1(
    left_Am: Tensor, right_Am: Tensor, weight_Cmm: Tensor, bias_C: Tensor, target_P: Tensor, weight_P: Tensor, layout: Layout
) -> Tensor:
    """sum over pairs of weight * SmoothL1(z, target), a scalar in float32 or wider; C = 1."""

    def loss(z_p1: Tensor, place_p: Tensor) -> Tensor:
        target = target_P.index_select(0, place_p).to(z_p1.dtype)
        return (F.smooth_l1_loss(z_p1.squeeze(1), target, reduction="none") * weight_P.index_select(0, place_p)).sum()

    return _loss_sum(left_Am, right_Am, weight_Cmm, bias_C, layout, loss)


def _as_matrix(weight_Cmm: Tensor) -> Tensor:
    """(m, m C): what a left side is multiplied by."""
    return weight_Cmm.permute(1, 2, 0).reshape(weight_Cmm.shape[1], -1)


def _some_pairs(
    left_Am: Tensor, right_Am: Tensor, weight_mmC: Tensor, bias_C: Tensor, layout: Layout, at_once: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(z (p, C), places in P) of a few molecules after the other, bucket by bucket; the weight is a matrix (m, m C)."""
    m, outputs = left_Am.shape[1], len(bias_C)
    for bucket in layout.buckets:
        n = bucket.atoms.shape[1]
        step = max(1, at_once // (n * n * outputs))
        for first in range(0, len(bucket.atoms), step):
            some = slice(first, first + step)
            atoms = bucket.atoms[some].reshape(-1)
            b = len(atoms) // n
            left = (left_Am.index_select(0, atoms) @ weight_mmC).view(-1, m, outputs)
            right = right_Am.index_select(0, atoms).view(b, 1, n, m).expand(b, n, n, m).reshape(b * n, n, m)
            begin, end = bucket.pair_bounds[first], bucket.pair_bounds[min(first + step, len(bucket.atoms))]
            exist = bucket.pair_places[begin:end]
            z = torch.bmm(right, left).view(b * n * n, outputs).index_select(0, exist - first * n * n) + bias_C
            yield z, bucket.pairs.reshape(-1).index_select(0, exist)


class _LossSum(torch.autograd.Function):
    """The sum of a loss over all pairs; its gradient is computed along with it."""

    @staticmethod
    def forward(ctx, left, right, weight, bias, layout, loss, wanted):
        inputs = [x.detach().requires_grad_() for x in (left, right, _as_matrix(weight), bias)]
        total = at_least_float32(left.new_zeros(()))
        gradients = [at_least_float32(torch.zeros_like(x)) for x in inputs] if wanted else []
        with torch.set_grad_enabled(wanted):
            for z, places in _some_pairs(inputs[0], inputs[1], inputs[2], inputs[3], layout, VALUES_AT_ONCE):
                part = loss(at_least_float32(z), places)
                total += part.detach()
                if wanted:
                    for gradient, more in zip(gradients, torch.autograd.grad(part, inputs), strict=True):
                        gradient += more
        if wanted:
            gradients[2] = gradients[2].view(*weight.shape[1:], -1).permute(2, 0, 1)
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [x.dtype for x in inputs]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, d_total):
        return *((d_total * g).to(dtype) for g, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)), None, None, None


def _loss_sum(left: Tensor, right: Tensor, weight: Tensor, bias: Tensor, layout: Layout, loss: PairLoss) -> Tensor:
    inputs = (left, right, weight, bias)
    # Within the function gradients always seem to be wanted.
    return _LossSum.apply(*inputs, layout, loss, torch.is_grad_enabled() and any(x.requires_grad for x in inputs))
