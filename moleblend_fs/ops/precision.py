"""Which precision things are computed in where the weights are half precision."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from moleblend_fs.patches import foreach

HALVES = (torch.float16, torch.bfloat16)


def at_least_float32(x: Tensor) -> Tensor:
    """Losses, normalisation, distances, Gaussians and biases are computed in float32 for half-precision weights."""
    return x.float() if x.dtype in HALVES else x


class _ToFloat32(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.dtypes = [x.dtype for x in tensors]
        ctx.set_materialize_grads(False)
        return tuple(copied(tensors, [torch.float32] * len(tensors)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        given = [(d, dtype) for d, dtype in zip(gradients, ctx.dtypes, strict=True) if d is not None]
        copies = iter(copied(*zip(*given, strict=True))) if given else iter(())
        return tuple(None if d is None else next(copies) for d in gradients)


def copied(tensors: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> list[Tensor]:
    """Each in a type of its own, in one kernel for all."""
    copies = [torch.empty_like(x, dtype=dtype) for x, dtype in zip(tensors, dtypes, strict=True)]
    foreach.copy_(copies, list(tensors))
    return copies


def all_at_least_float32(tensors: Sequence[Tensor]) -> list[Tensor]:
    """`at_least_float32` of each, in one kernel for all, and so are their gradients."""
    copies = iter(_ToFloat32.apply(*halves) if (halves := [x for x in tensors if x.dtype in HALVES]) else ())
    return [next(copies) if x.dtype in HALVES else x for x in tensors]


def bfloat16_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """What this processor multiplies bfloat16 with, as Linux calls it. Without any float32 is faster."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.partition(":")[2].split()}
    return sorted(flags & {"avx512_bf16", "amx_bf16", "bf16"})
