"""Small constant tensors, sent to each device once: sending them at every step would wait for the device."""

import functools

import torch
from torch import Tensor


@functools.cache
def constant(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of these (nested tuples of) numbers; it is shared, so nobody may change it."""
    return torch.tensor(values, dtype=dtype, device=device)


@functools.cache
def identity(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size, size); shared as well."""
    return torch.tensor([[float(i == j) for j in range(size)] for i in range(size)], dtype=dtype, device=device)
