"""Linear layers of dropped GELUs.

    W dropped(GELU(x)) + b

Shape legend: T tokens, f hidden width.
"""

from torch import Tensor, nn

from moleblend_fs.ops.dispatch import uses_triton
from moleblend_fs.ops.gelu_dropout import reference
from moleblend_fs.ops.linear import Product

__all__ = ["adds_bias", "gelu_dropout_linear"]


def adds_bias(like_Td: Tensor, width: int) -> bool:
    """Whether the kernels run for hidden values of this width, which add the bias of the layer before themselves and give its gradient."""
    return uses_triton("gelu_dropout", like_Td.device, like_Td.dtype, (width,))


def gelu_dropout_linear(x_Tf: Tensor, x_bias_f: Tensor | None, layer: nn.Linear | Product, dropout: float) -> Tensor:
    """`layer` of dropped(GELU(x + its bias)), (T, out).

    Args:
        x_bias_f: what is yet to be added to x where `adds_bias` says so, else None.
        dropout: probability of dropping an activation; 0 in evaluation.
    """
    if adds_bias(x_Tf, x_Tf.shape[1]):
        from moleblend_fs.ops.gelu_dropout import autograd

        return autograd.gelu_dropout_linear(x_Tf, x_bias_f, layer.weight, layer.bias, dropout=dropout)
    return reference.gelu_dropout_linear(x_Tf if x_bias_f is None else x_Tf + x_bias_f, layer, dropout)
