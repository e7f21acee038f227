"""A linear layer of dropped GELUs, with its gradients by the kernels; only their input is kept for the backward pass."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from moleblend_fs.ops.dropout_bits import draw_seed
from moleblend_fs.ops.gelu_dropout.launch import backward, forward
from moleblend_fs.ops.linear import product, type_of_products


class _GeluDropoutLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, x_bias, weight, bias, random):
        ctx.save_for_backward(x, x_bias, weight)
        ctx.random, ctx.lower = random, type_of_products(weight)
        return product(forward(x, x_bias, *random), weight, bias, ctx.lower)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        x, x_bias, weight = ctx.saved_tensors
        d_x, active, d_x_bias = backward(product(d_out, weight.t(), None, ctx.lower), x, x_bias, *ctx.random)
        d_weight = product(d_out.t(), active.t(), None, ctx.lower) if ctx.needs_input_grad[2] else None
        d_bias = d_out.sum(dim=0) if ctx.needs_input_grad[3] else None
        return d_x, d_x_bias if x_bias is not None else None, d_weight, d_bias, None


def gelu_dropout_linear(
    x_Tf: Tensor, x_bias_f: Tensor | None, weight: Tensor, bias: Tensor | None, *, dropout: float, seed: tuple[int, int] | None = None
) -> Tensor:
    """weight times dropped(GELU(x + its bias)) + bias, (T, f) -> (T, out).

    Args:
        seed: two signed 32-bit integers; None draws them where something is to be dropped.
    """
    if seed is None:
        seed = draw_seed() if dropout > 0 else (0, 0)
    return _GeluDropoutLinear.apply(x_Tf.contiguous(), x_bias_f, weight, bias, (dropout, *seed))
