"""Dropout in plain torch, of what operations with gradients of their own keep: which values were dropped, a byte each.

torch draws a float for every value, which takes a CPU six times as long as all the rest. Here 64 random bits serve four values, as 32 do
two in the kernels (`dropout_bits`).
"""

import torch
from torch import Tensor


def draw_kept(like: Tensor, p: float) -> Tensor:
    """Which values are kept, each with probability 1 - p to within 1 / 131,072; bool, in the shape of `like`."""
    bits = torch.empty(-(-like.numel() // 4), dtype=torch.int64, device=like.device).random_(-(2**63), None)
    return (bits.view(torch.int16)[: like.numel()] >= min(round(p * 2**16), 2**16 - 1) - 2**15).view(like.shape)


def factors(keep: Tensor, p: float, dtype: torch.dtype) -> Tensor:
    """What values are multiplied by: 0 or 1 / (1 - p), in `dtype`, or float32 where that is half precision."""
    # A CPU takes four times as long to read truth values as bytes, and ten times as long for a product of two types.
    return keep.view(torch.uint8).to(torch.promote_types(dtype, torch.float32)).mul_(1 / (1 - p))


def multiplied(x: Tensor, factor: Tensor | None) -> Tensor:
    """x times what `factors` gave, in the type of x; x itself where nothing was dropped."""
    return x if factor is None else (x.to(factor.dtype) * factor).to(x.dtype)
