"""Relies on `torch._foreach_norm` and `torch._foreach_mul_` (torch 2.13): many tensors in one kernel, where a loop would start hundreds."""

import torch
from torch import Tensor

PINS = {
    "torch._foreach_norm": "test_norms_of_many_tensors",
    "torch._foreach_mul_": "test_many_tensors_are_multiplied",
}


def norms(tensors: list[Tensor], dtype: torch.dtype) -> Tensor:
    """(len(tensors),) Euclidean norms, summed in a dtype."""
    return torch.stack(torch._foreach_norm(tensors, 2, dtype=dtype))


def multiply_(tensors: list[Tensor], factor: Tensor) -> None:
    """Multiply all in place by a number, () on their device."""
    torch._foreach_mul_(tensors, factor)
