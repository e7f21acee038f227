"""A linear layer of dropped GELUs in plain torch; only their input (and which of them were dropped) is kept for the backward pass."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from moleblend_fs.ops.dropout import draw_kept, factors, multiplied
from moleblend_fs.ops.linear import Product, product, type_of_products


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, dropout):
        keep = draw_kept(x, dropout) if dropout > 0 else None
        ctx.save_for_backward(x, weight, keep)
        ctx.dropout, ctx.lower = dropout, type_of_products(weight)
        factor = None if keep is None else factors(keep, dropout, x.dtype)
        return product(multiplied(F.gelu(x), factor), weight, bias, ctx.lower)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        x, weight, keep = ctx.saved_tensors
        factor = None if keep is None else factors(keep, ctx.dropout, x.dtype)
        d_weight = product(d_out.t(), multiplied(F.gelu(x), factor).t(), None, ctx.lower)
        d_x = torch.ops.aten.gelu_backward(multiplied(product(d_out, weight.t(), None, ctx.lower), factor), x)
        return d_x, d_weight, d_out.sum(dim=0) if ctx.needs_input_grad[2] else None, None


def gelu_dropout_linear(x: Tensor, layer: nn.Linear | Product, dropout: float) -> Tensor:
    """layer(dropped(GELU(x))), (rows, f) -> (rows, out)."""
    return _GeluLinear.apply(x, layer.weight, layer.bias, dropout)
