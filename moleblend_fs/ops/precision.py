"""Which precision things are computed in where the weights are half precision."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Losses, normalisation, distances, Gaussians and biases are computed in float32 for half-precision weights."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
