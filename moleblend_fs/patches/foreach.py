"""Relies on `torch._foreach_norm` and its kin (torch 2.13): many tensors in one kernel, where a loop would start hundreds."""

from collections.abc import Sequence

import torch
from torch import Tensor

PINS = {
    "torch._foreach_norm": "test_norms_of_many_tensors",
    "torch._foreach_mul": "test_many_tensors_are_multiplied",
    "torch._foreach_mul_": "test_many_tensors_are_multiplied",
    "torch._foreach_copy_": "test_many_tensors_are_copied_and_cleared",
    "torch._foreach_zero_": "test_many_tensors_are_copied_and_cleared",
}


def norms(tensors: list[Tensor], dtype: torch.dtype) -> Tensor:
    """(len(tensors),) Euclidean norms, summed in a dtype."""
    return torch.stack(torch._foreach_norm(tensors, 2, dtype=dtype))


def multiply_(tensors: list[Tensor], factor: Tensor) -> None:
    """Multiply all in place by a number, () on their device."""
    torch._foreach_mul_(tensors, factor)


def multiplied(tensors: Sequence[Tensor], factor: Tensor) -> list[Tensor]:
    """Products of all with a number, () on their device."""
    return list(torch._foreach_mul(list(tensors), factor))


def copy_(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy each source into its target, of any type."""
    if targets:
        torch._foreach_copy_(targets, sources)


def zero_(tensors: list[Tensor]) -> None:
    """Set all to 0."""
    if tensors:
        torch._foreach_zero_(tensors)
