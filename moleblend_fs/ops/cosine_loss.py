"""The sum of 1 - cos between vectors and their targets; on GPUs its gradient is computed along with it, by fewer kernels.

Shape legend: A rows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from moleblend_fs.ops.constants import zero

LEAST = 1e-8
"""Least norm, as in torch's cosine_similarity."""


def gradient_along(x: Tensor) -> bool:
    """Whether the gradient is written out. Not on CPUs: it has other last digits than torch's."""
    return x.is_cuda


class _CosineLoss(torch.autograd.Function):
    """d cos / dx = (t / |t| - cos x / |x|) / |x|."""

    @staticmethod
    def forward(ctx, x_A3, target_A3, counts_A1):
        x_A3 = torch.where(counts_A1, x_A3, zero(x_A3))
        length = x_A3.norm(dim=1, keepdim=True).clamp(min=LEAST)
        unit, aim = x_A3 / length, F.normalize(target_A3, eps=LEAST)
        cosine_A1 = (unit * aim).sum(dim=1, keepdim=True)
        ctx.save_for_backward(torch.where(counts_A1, (cosine_A1 * unit - aim) / length, zero(x_A3)))
        return torch.where(counts_A1, 1 - cosine_A1, zero(x_A3)).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, d_total):
        (d_x,) = ctx.saved_tensors
        return d_total * d_x, None, None


def cosine_loss(x_A3: Tensor, target_A3: Tensor, counts_A: Tensor) -> Tensor:
    """The sum of 1 - cos(x, target) over the rows that count, whatever the others are; a scalar in the type of `x_A3`."""
    target_A3, counts_A1 = target_A3.to(x_A3.dtype), counts_A.unsqueeze(1)
    if gradient_along(x_A3):
        return _CosineLoss.apply(x_A3, target_A3, counts_A1)
    x_A3 = torch.where(counts_A1, x_A3, 0)  # before the cosine: 0 times NaN would be NaN, in the gradient too
    loss = 1 - F.cosine_similarity(x_A3, target_A3, dim=1)
    return torch.where(counts_A, loss, 0).sum()
