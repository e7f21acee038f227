"""Gradient norms and clipping that come out the same in every digit, however gradients are cut into tensors and spread over processes.

Squares are summed in float64: their order then changes nothing that is left after rounding to float32. fairseq and DeepSpeed sum
in float32, each in its own order, and clip by formulas that round differently; Adam and ZeRO would drift apart by that.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from moleblend_fs.patches import foreach

PIECE = 1 << 16
"""Numbers that a CPU's cache holds in float64; converted as a whole, a table of embeddings goes through memory twice more."""


def sum_of_squares(gradients: Iterable[Tensor]) -> Tensor:
    """() float64, on the gradients' device; 0 for none."""
    gradients = [gradient.detach() for gradient in gradients]
    if not gradients:
        return torch.zeros((), dtype=torch.float64)
    return foreach.norms(in_pieces(gradients), torch.float64).square().sum()


def in_pieces(gradients: list[Tensor]) -> list[Tensor]:
    """The same numbers, on a CPU in parts that its cache holds."""
    return gradients if gradients[0].is_cuda else [piece for gradient in gradients for piece in gradient.flatten().split(PIECE)]


def coefficient(norm: Tensor, max_norm: float) -> Tensor:
    """() float32, what gradients of this norm (() float32) are multiplied by; at most 1. fairseq's formula."""
    return (max_norm / (norm + 1e-6)).clamp(max=1)


def clip_grad_norm_(parameters: Any, max_norm: float, aggregate_norm_fn: Any = None) -> Tensor:
    """In place of fairseq's `utils.clip_grad_norm_`: clips (not with a `max_norm` of 0), returns the norm before, () float32."""
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    gradients = [parameter.grad.detach() for parameter in parameters if parameter is not None and parameter.grad is not None]
    norm = sum_of_squares(gradients).sqrt().float()
    if aggregate_norm_fn is not None:
        norm = aggregate_norm_fn(norm)
    if max_norm > 0 and gradients:
        foreach.multiply_(gradients, coefficient(norm, float(max_norm)))
    return norm
