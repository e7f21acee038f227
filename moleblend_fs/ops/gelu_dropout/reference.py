"""A linear layer of dropped GELUs in plain torch; only their input (and which of them were dropped) is kept for the backward pass."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from moleblend_fs.ops.linear import Product, product, type_of_products


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, dropout):
        active, keep = F.gelu(x), None
        if dropout > 0:
            active, keep = torch.native_dropout(active, dropout, True)
        ctx.save_for_backward(x, weight, keep)
        ctx.scale, ctx.lower = 1 / (1 - dropout), type_of_products(weight)
        return product(active, weight, bias, ctx.lower)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        x, weight, keep = ctx.saved_tensors

        def drop(tensor: Tensor) -> Tensor:
            return tensor if keep is None else torch.ops.aten.native_dropout_backward(tensor, keep, ctx.scale)

        d_weight = product(d_out.t(), drop(F.gelu(x)).t(), None, ctx.lower)
        d_x = torch.ops.aten.gelu_backward(drop(product(d_out, weight.t(), None, ctx.lower)), x)
        return d_x, d_weight, d_out.sum(dim=0) if ctx.needs_input_grad[2] else None, None


def gelu_dropout_linear(x: Tensor, layer: nn.Linear | Product, dropout: float) -> Tensor:
    """layer(dropped(GELU(x))), (rows, f) -> (rows, out)."""
    return _GeluLinear.apply(x, layer.weight, layer.bias, dropout)
