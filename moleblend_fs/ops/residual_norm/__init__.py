"""The residual sums of transformer blocks, their norms, and the linear layers that read those.

    sum = x + dropped(branch);  LN(sum);  W LN(sum) + b

Shape legend: T tokens, d embedding width.
"""

from typing import NamedTuple

from torch import Tensor, nn

from moleblend_fs.ops.dispatch import uses_triton
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import Product
from moleblend_fs.ops.residual_norm import reference

__all__ = ["Branch", "adds_biases", "residual_norm", "residual_norm_linear", "residual_sum"]


class Branch(NamedTuple):
    """What is yet to be added to a block's input.

    Attributes:
        out_Td: of the branch's last linear layer. unbiased: that layer, where its bias is yet to be added to it.
        dropout: probability of dropping a value. drop_path: probability of dropping the branch of a molecule.
    """

    out_Td: Tensor
    unbiased: nn.Linear | None
    dropout: float
    drop_path: float


def adds_biases(x_Td: Tensor) -> bool:
    """Whether the kernels run, which add the bias of a branch's last layer themselves and give its gradient."""
    return uses_triton("residual_norm", x_Td.device, x_Td.dtype, (x_Td.shape[1],))


def residual_sum(x_Td: Tensor, branch: Branch, layout: Layout) -> Tensor:
    """x + dropped(branch), in plain torch."""
    out = branch.out_Td if branch.unbiased is None else branch.out_Td + branch.unbiased.bias
    return reference.residual_sum(x_Td, out, layout, branch.dropout, branch.drop_path)


def residual_norm(x_Td: Tensor, branch: Branch | None, norm: nn.LayerNorm, layout: Layout) -> Tensor:
    """LN(x + dropped(branch)), (T, d); None adds nothing."""
    if adds_biases(x_Td):
        return _by_kernels(x_Td, branch, norm, None, layout)[0]
    return norm(x_Td if branch is None else residual_sum(x_Td, branch, layout))


def residual_norm_linear(
    x_Td: Tensor, branch: Branch | None, norm: nn.LayerNorm, layer: nn.Linear | Product, layout: Layout
) -> tuple[Tensor, Tensor]:
    """LN(x + dropped(branch)) and `layer` of it, (T, d) and (T, out); None adds nothing. The sum is kept for the backward pass."""
    if adds_biases(x_Td):
        return _by_kernels(x_Td, branch, norm, layer, layout)
    return reference.norm_linear(x_Td if branch is None else residual_sum(x_Td, branch, layout), norm, layer)


def _by_kernels(
    x_Td: Tensor, branch: Branch | None, norm: nn.LayerNorm, layer: nn.Linear | Product | None, layout: Layout
) -> tuple[Tensor, Tensor]:
    from moleblend_fs.ops.residual_norm import autograd

    weight, bias = (None, None) if layer is None else (layer.weight, layer.bias)
    if branch is None:
        out, out_bias, dropout, drop_path = None, None, 0.0, 0.0
    else:
        out, dropout, drop_path = branch.out_Td, branch.dropout, branch.drop_path
        out_bias = None if branch.unbiased is None else branch.unbiased.bias
    return autograd.residual_norm_linear(
        x_Td, out, out_bias, norm.weight, norm.bias, weight, bias, layout.token_molecule,
        eps=norm.eps, dropout=dropout, drop_path=drop_path,
    )  # fmt: skip
