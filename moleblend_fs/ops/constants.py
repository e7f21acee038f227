"""Small constant tensors, sent to each device once: sending them at every step would wait for the device."""

import functools

import torch
from torch import Tensor


@functools.cache
def constant(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of these (nested tuples of) numbers; it is shared, so nobody may change it."""
    return torch.tensor(values, dtype=dtype, device=device)


def zero(like: Tensor) -> Tensor:
    """(1,) of a tensor's type and device: a number as an operand, as in `torch.where(kept, x, 0)`, is filled in by a kernel each time."""
    return constant((0,), like.dtype, like.device)


@functools.cache
def identity(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size, size); shared as well."""
    return torch.tensor([[float(i == j) for j in range(size)] for i in range(size)], dtype=dtype, device=device)
