"""Losses of the pair projection by Triton kernels: the sum and, in the same pass, its gradient.

The sum's gradient is known up to one factor, which the backward pass multiplies in. Neither z nor U = L W is ever stored.
Shape legend: A atoms, P pairs, m pair width, C outputs, K classifications per pair.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from moleblend_fs.ops.kernel_common import TRITON_TYPES
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.pair_projection.launch import cross_entropy_op, geometry_op, plan_of
from moleblend_fs.ops.precision import copied
from moleblend_fs.patches import foreach


class _LossSum(torch.autograd.Function):
    """An op's loss, whose gradients the op gives for an upstream gradient of 1."""

    @staticmethod
    def forward(ctx, left, right, weight, bias, op, others, with_grad):
        dtype = left.dtype
        total, *gradients = op(*(x.detach().to(dtype).contiguous() for x in (left, right, weight, bias)), *others, with_grad)
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [x.dtype for x in (left, right, weight, bias)]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, d_total):
        gradients = foreach.multiplied(ctx.saved_tensors, d_total)
        if any(g.dtype != dtype for g, dtype in zip(gradients, ctx.dtypes, strict=True)):
            gradients = copied(gradients, ctx.dtypes)
        return *gradients, None, None, None


def _loss_sum(op, left: Tensor, right: Tensor, weight: Tensor, bias: Tensor, layout: Layout, targets: list[Tensor]) -> Tensor:
    if left.dtype not in TRITON_TYPES:
        raise ValueError(f"the pair projection's kernels take {', '.join(map(str, TRITON_TYPES))}, got {left.dtype}; use the reference")
    with_grad = torch.is_grad_enabled() and any(x.requires_grad for x in (left, right, weight, bias))
    return _LossSum.apply(left, right, weight, bias, op, [*(t.contiguous() for t in targets), *plan_of(layout)], with_grad)


def pair_cross_entropy(left_Am: Tensor, right_Am: Tensor, weight_Cmm: Tensor, bias_C: Tensor, target_PK: Tensor, layout: Layout) -> Tensor:
    """Sum of the cross-entropies of K classifications per pair, a float32 scalar; target_PK int8, negative ones do not count."""
    return _loss_sum(cross_entropy_op, left_Am, right_Am, weight_Cmm, bias_C, layout, [target_PK])


def pair_cosine(
    left_Am: Tensor, right_Am: Tensor, weight_Cmm: Tensor, bias_C: Tensor, target_P3: Tensor, weight_P: Tensor, layout: Layout
) -> Tensor:
    """sum over pairs of weight * (1 - cos(z, target)), a float32 scalar; C > 1."""
    return _loss_sum(geometry_op, left_Am, right_Am, weight_Cmm, bias_C, layout, [target_P3.float(), weight_P.float()])


def pair_smooth_l1(
    left_Am: Tensor, right_Am: Tensor, weight_Cmm: Tensor, bias_C: Tensor, target_P: Tensor, weight_P: Tensor, layout: Layout
) -> Tensor:
    """sum over pairs of weight * SmoothL1(z, target), a float32 scalar; C = 1."""
    return _loss_sum(geometry_op, left_Am, right_Am, weight_Cmm, bias_C, layout, [target_P.float(), weight_P.float()])
