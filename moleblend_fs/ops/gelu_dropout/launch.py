"""GELU and dropout of a product and its bias by Triton kernels: the same as `reference`, but for what is dropped.

Shape legend: T tokens, f hidden width.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from moleblend_fs.ops.column_sums import add_up
from moleblend_fs.ops.dropout_bits import threshold_and_scale
from moleblend_fs.ops.gelu_dropout.kernels import activate, activate_backward
from moleblend_fs.ops.kernel_common import cdiv, kernel_op, padded

PROGRAMS = 512
"""Of the backward pass, over all columns, four to a multiprocessor. A constant, so that sums are the same bits on every GPU."""
WARPS = 4


class Launch(NamedTuple):
    """Rows and columns of a program's tile (with columns that do not exist)."""

    rows: int
    block: int


@functools.cache
def launch_of(width: int, direction: str) -> Launch:
    """Tiles of 1,024 and 2,048 values, of 256 columns where those divide the width (768, as the base model's, is no power of two)."""
    block = min(1024, padded(width))
    if width % 256 == 0:
        block = min(block, 256)
    return Launch(max(1, (1024 if direction == "forward" else 2048) // block), block)


@kernel_op("moleblend::gelu_dropout_forward")
def forward(x: Tensor, bias: Tensor | None, dropout: float, seed_low: int, seed_high: int) -> Tensor:
    """dropped(GELU(x + bias)), (T, f)."""
    rows, width = x.shape
    active, launch = torch.empty_like(x), launch_of(width, "forward")
    activate[(cdiv(rows, launch.rows), cdiv(width, launch.block))](
        x, x if bias is None else bias, active, rows, seed_low, seed_high, *threshold_and_scale(dropout),
        WIDTH=width, ROWS=launch.rows, BLOCK=launch.block, BIAS=bias is not None, DROPOUT=dropout > 0, num_warps=WARPS,
    )  # fmt: skip
    return active


@forward.register_fake
def _(x, bias, dropout, seed_low, seed_high):
    return torch.empty_like(x)


@kernel_op("moleblend::gelu_dropout_backward")
def backward(
    d_active: Tensor, x: Tensor, bias: Tensor | None, dropout: float, seed_low: int, seed_high: int
) -> tuple[Tensor, Tensor, Tensor]:
    """d x, what `forward` gave once more, and d bias (empty where there is none)."""
    rows, width = x.shape
    d_x, active, launch = torch.empty_like(x), torch.empty_like(x), launch_of(width, "backward")
    parts = cdiv(width, launch.block)
    programs = min(max(1, PROGRAMS // parts), cdiv(rows, launch.rows))
    partial = x.new_empty(1, programs, width if bias is not None else 0, dtype=torch.float32)
    activate_backward[(programs, parts)](
        x, x if bias is None else bias, d_active, d_x, active, partial, rows, seed_low, seed_high, *threshold_and_scale(dropout),
        WIDTH=width, ROWS=launch.rows, BLOCK=launch.block, BIAS=bias is not None, DROPOUT=dropout > 0, num_warps=WARPS,
    )  # fmt: skip
    return d_x, active, x.new_empty(0) if bias is None else add_up(partial, [bias.dtype])[0]


@backward.register_fake
def _(d_active, x, bias, dropout, seed_low, seed_high):
    return torch.empty_like(x), torch.empty_like(x), x.new_empty(0) if bias is None else torch.empty_like(bias)
