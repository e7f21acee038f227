"""Residual sums, their norms and a linear layer of those, in plain torch.

Shape legend: T tokens, B molecules, d embedding width.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from moleblend_fs.ops.layer_norm import layer_norm, layer_norm_backward
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import Product, product, type_of_products


def residual_sum(x_Td: Tensor, branch_Td: Tensor, layout: Layout, dropout: float, drop_path: float) -> Tensor:
    """x + branch, of which values are dropped, and whole molecules, with these probabilities."""
    if dropout > 0:
        # Unlike F.dropout it keeps a mask of bytes on the CPU too.
        branch_Td = torch.native_dropout(branch_Td, dropout, True)[0]
    if drop_path > 0:
        keep = torch.empty(layout.num_molecules, 1, dtype=branch_Td.dtype, device=branch_Td.device).bernoulli_(1 - drop_path)
        branch_Td = branch_Td * (keep / (1 - drop_path))[layout.token_molecule]
    return x_Td + branch_Td


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gain, shift, weight, bias, eps):
        normed, mean, rstd = layer_norm(x, gain, shift, eps)
        ctx.save_for_backward(x, mean, rstd, gain, shift, weight)
        ctx.eps, ctx.lower = eps, type_of_products(weight)
        return normed, product(normed, weight, bias, ctx.lower)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_normed, d_out):
        x, mean, rstd, gain, shift, weight = ctx.saved_tensors
        d_weight = product(d_out.t(), layer_norm(x, gain, shift, ctx.eps)[0].t(), None, ctx.lower)
        d_normed = d_normed + product(d_out, weight.t(), None, ctx.lower)
        d_x, d_gain, d_shift = layer_norm_backward(d_normed, x, mean, rstd, gain, shift)
        return d_x, d_gain, d_shift, d_weight, d_out.sum(dim=0) if ctx.needs_input_grad[4] else None, None


def norm_linear(x: Tensor, norm: nn.LayerNorm, layer: nn.Linear | Product) -> tuple[Tensor, Tensor]:
    """LN(x) and layer(LN(x)); only x is kept for the backward pass, (rows, d) -> (rows, d), (rows, out)."""
    return _NormLinear.apply(x, norm.weight, norm.bias, layer.weight, layer.bias, norm.eps)
