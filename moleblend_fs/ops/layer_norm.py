"""Layer normalisation of rows, with its statistics in float32.

Shape legend: r rows, d width.
"""

import torch
from torch import Tensor

from moleblend_fs.ops.precision import at_least_float32


def reads_half_precision(x: Tensor, gain: Tensor) -> bool:
    """Whether torch's own operation takes half precision as it is: on CUDA it computes in float32 inside and keeps mean and 1 / std so.

    On the CPU both would be rounded to half precision, so that the input is cast there.
    """
    return x.is_cuda and gain.dtype == x.dtype


def layer_norm(x_rd: Tensor, gain_d: Tensor, shift_d: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The normalised rows in the type of `x_rd`; mean and 1 / std of each, (r, 1)."""
    if reads_half_precision(x_rd, gain_d):
        return torch.native_layer_norm(x_rd, x_rd.shape[-1:], gain_d, shift_d, eps)
    x, gain, shift = (at_least_float32(each) for each in (x_rd, gain_d, shift_d))
    normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], gain, shift, eps)
    return normed.to(x_rd.dtype), mean, rstd


def layer_norm_backward(
    d_normed_rd: Tensor, x_rd: Tensor, mean: Tensor, rstd: Tensor, gain_d: Tensor, shift_d: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, gain and shift, each in its type, from what `layer_norm` gave."""
    given = (d_normed_rd, x_rd, gain_d, shift_d)
    if not reads_half_precision(x_rd, gain_d):
        given = tuple(at_least_float32(each) for each in given)  # type: ignore[assignment]
    d_normed, x, gain, shift = given
    d_x, d_gain, d_shift = torch.ops.aten.native_layer_norm_backward(d_normed, x, x.shape[-1:], mean, rstd, gain, shift, [True] * 3)
    return d_x.to(x_rd.dtype), d_gain.to(gain_d.dtype), d_shift.to(shift_d.dtype)
