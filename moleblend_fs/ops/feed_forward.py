"""The feed-forward part of a block, W_2 dropout(GELU(W_1 x + b_1)) + b_2, saving its inner activation once instead of twice."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from moleblend_fs.ops.linear import product


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight1, bias1, weight2, bias2, dropout):
        inner = product(x, weight1, bias1)
        active, keep = F.gelu(inner), None
        if dropout > 0:
            active, keep = torch.native_dropout(active, dropout, True)
        ctx.save_for_backward(x, weight1, weight2, inner, keep)
        ctx.scale = 1 / (1 - dropout)
        return product(active, weight2, bias2)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        x, weight1, weight2, inner, keep = ctx.saved_tensors

        def drop(tensor: Tensor) -> Tensor:
            return tensor if keep is None else torch.ops.aten.native_dropout_backward(tensor, keep, ctx.scale)

        d_weight2 = product(d_out.t(), drop(F.gelu(inner)).t(), None)
        d_inner = torch.ops.aten.gelu_backward(drop(product(d_out, weight2.t(), None)), inner)
        return (
            product(d_inner, weight1.t(), None),
            product(d_inner.t(), x.t(), None),
            d_inner.sum(dim=0),
            d_weight2,
            d_out.sum(dim=0),
            None,
        )


def feed_forward(x_Td: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, dropout: float) -> Tensor:
    """(T, d) -> (T, d).

    Args:
        weight1: (f, d). bias1: (f,). weight2: (d, f). bias2: (d,).
        dropout: probability of dropping an inner activation; 0 in evaluation.
    """
    return _FeedForward.apply(x_Td, weight1, bias1, weight2, bias2, dropout)
