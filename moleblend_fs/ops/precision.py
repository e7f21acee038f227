"""Which precision things are computed in where the weights are half precision."""

from pathlib import Path

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Losses, normalisation, distances, Gaussians and biases are computed in float32 for half-precision weights."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def bfloat16_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """What this processor multiplies bfloat16 with, as Linux calls it. Without any float32 is faster."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.partition(":")[2].split()}
    return sorted(flags & {"avx512_bf16", "amx_bf16", "bf16"})
