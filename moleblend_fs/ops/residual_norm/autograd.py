"""The norm of a residual sum, and a linear layer of it, with their gradients by the kernels.

The sum and its statistics are kept for the backward pass, and nothing of the same size besides.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from moleblend_fs.ops.dropout_bits import draw_seed
from moleblend_fs.ops.linear import product, type_of_products
from moleblend_fs.ops.residual_norm.launch import backward, forward


class _ResidualNormLinear(torch.autograd.Function):
    """(x, branch, the branch's bias, gain, shift, weight, bias) -> LN(x + dropped(branch + bias)) and the layer of it, if there is one."""

    @staticmethod
    def forward(ctx, x, branch, branch_bias, gain, shift, weight, bias, molecule, eps, rates):
        total, normed, mean, rstd = forward(x, branch, branch_bias, gain, shift, molecule, eps, *rates)
        ctx.save_for_backward(x if branch is None else total, mean, rstd, gain, shift, weight, branch_bias, molecule)
        ctx.with_branch, ctx.rates = branch is not None, rates
        ctx.set_materialize_grads(False)
        if weight is None:
            return normed, None
        ctx.lower = type_of_products(weight)
        return normed, product(normed, weight, bias, ctx.lower)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_normed, d_out):
        total, mean, rstd, gain, shift, weight, branch_bias, molecule = ctx.saved_tensors
        if d_normed is None and d_out is None:
            return (None,) * 10
        given = [] if d_normed is None else [d_normed.contiguous()]
        if d_out is not None:
            given.append(product(d_out, weight.t(), None, ctx.lower))
        wanted = d_out is not None and ctx.needs_input_grad[5]
        more = given[1] if len(given) == 2 else None
        d_sum, d_branch, normed, d_gain, d_shift, d_branch_bias = backward(
            given[0], more, total, mean, rstd, gain, shift, branch_bias, molecule, wanted, *ctx.rates
        )
        d_weight = product(d_out.t(), normed.t(), None, ctx.lower) if wanted else None
        d_bias = d_out.sum(dim=0) if d_out is not None and ctx.needs_input_grad[6] else None
        if not ctx.with_branch:
            d_branch = None
        elif d_branch.numel() == 0:
            d_branch = d_sum
        return d_sum, d_branch, d_branch_bias if branch_bias is not None else None, d_gain, d_shift, d_weight, d_bias, None, None, None


def residual_norm_linear(
    x_Td: Tensor,
    branch_Td: Tensor | None,
    branch_bias_d: Tensor | None,
    gain_d: Tensor,
    shift_d: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    molecule_T: Tensor,
    *,
    eps: float,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    seed: tuple[int, int] | None = None,
) -> tuple[Tensor, Any]:
    """LN(x + dropped(branch + its bias)) and weight times it + bias, (T, d) and (T, out) or None.

    Args:
        branch_Td: None where x is to be normalised as it is.
        seed: two signed 32-bit integers; None draws them where something is to be dropped.
    """
    if seed is None:
        seed = draw_seed() if dropout > 0 or drop_path > 0 else (0, 0)
    if branch_Td is not None:
        branch_Td = branch_Td.contiguous()
    inputs = (x_Td.contiguous(), branch_Td, branch_bias_d, gain_d, shift_d, weight, bias, molecule_T)
    return _ResidualNormLinear.apply(*inputs, eps, (dropout, drop_path, *seed))
