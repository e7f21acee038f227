"""Residual sums and their norms by Triton kernels: the same as `reference`, but for what is dropped.

Shape legend: T tokens, d embedding width.
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moleblend_fs.ops.column_sums import add_up
from moleblend_fs.ops.dropout_bits import threshold_and_scale
from moleblend_fs.ops.kernel_common import cdiv, kernel_op, padded
from moleblend_fs.ops.residual_norm.kernels import add_and_normalise, normalise_backward

PROGRAMS = 512
"""Of the backward pass, four to a multiprocessor. A constant, so that sums over rows are the same bits on every GPU."""


class Launch(NamedTuple):
    """How many rows a program holds at a time, how many columns (with those that do not exist), and its warps."""

    rows: int
    block: int
    warps: int


@functools.cache
def forward_launch(width: int) -> Launch:
    """Memory decides how long it takes: a warp holds a row of 1,024 values, so that its sums need no other warp."""
    block = padded(width)
    return Launch(max(1, 1024 // block), block, max(1, block // 1024))


@functools.cache
def backward_launch(width: int, dtype: torch.dtype) -> Launch:
    """Sums over rows stay in registers, three of each column: four warps hold 2,048 values, and half as many in float32."""
    block, values = padded(width), 1024 if dtype == torch.float32 else 2048
    return Launch(max(1, values // block), block, 4 * max(1, block // values))


def constants_of(launch: Launch, width: int) -> dict[str, int]:
    return {"WIDTH": width, "ROWS": launch.rows, "BLOCK": launch.block}


def _random(dropout: float, drop_path: float, seed_low: int, seed_high: int) -> tuple[Any, ...]:
    return seed_low, seed_high, *threshold_and_scale(dropout), *threshold_and_scale(drop_path)


@kernel_op("moleblend::residual_norm_forward")
def forward(
    x: Tensor,
    branch: Tensor | None,
    bias: Tensor | None,
    gain: Tensor,
    shift: Tensor,
    molecule: Tensor,
    eps: float,
    dropout: float,
    drop_path: float,
    seed_low: int,
    seed_high: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sum (T, d) (empty where there is no branch: it is x), its norm (T, d), and each row's mean and 1 / std, (T,) float32."""
    rows, width = x.shape
    total, normed = x.new_empty(x.shape if branch is not None else (0,)), torch.empty_like(x)
    mean, rstd = (x.new_empty(rows, dtype=torch.float32) for _ in range(2))
    launch = forward_launch(width)
    add_and_normalise[(cdiv(rows, launch.rows),)](
        x, x if branch is None else branch, gain if bias is None else bias, gain, shift, molecule, total, normed, mean, rstd, rows, eps,
        *_random(dropout, drop_path, seed_low, seed_high), **constants_of(launch, width),
        BRANCH=branch is not None, BIAS=bias is not None, DROPOUT=dropout > 0, DROP_PATH=drop_path > 0, num_warps=launch.warps,
    )  # fmt: skip
    return total, normed, mean, rstd


@forward.register_fake
def _(x, branch, bias, gain, shift, molecule, eps, dropout, drop_path, seed_low, seed_high):
    mean, rstd = (x.new_empty(len(x), dtype=torch.float32) for _ in range(2))
    return x.new_empty(x.shape if branch is not None else (0,)), torch.empty_like(x), mean, rstd


@kernel_op("moleblend::residual_norm_backward")
def backward(
    d_normed: Tensor,
    d_more: Tensor | None,
    total: Tensor,
    mean: Tensor,
    rstd: Tensor,
    gain: Tensor,
    shift: Tensor,
    bias: Tensor | None,
    molecule: Tensor,
    normed_again: bool,
    dropout: float,
    drop_path: float,
    seed_low: int,
    seed_high: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """d sum, d branch (empty where it is d sum), the norm where it is asked for (else empty), d gain, d shift, d bias (or empty)."""
    rows, width = total.shape
    dropped = dropout > 0 or drop_path > 0
    d_sum = torch.empty_like(total)
    d_branch, normed = (total.new_empty(total.shape if wanted else (0,)) for wanted in (dropped, normed_again))
    launch = backward_launch(width, total.dtype)
    programs = min(PROGRAMS, cdiv(rows, launch.rows))
    partial = total.new_empty(2 if bias is None else 3, programs, width, dtype=torch.float32)
    normalise_backward[(programs,)](
        d_normed, d_normed if d_more is None else d_more, total, mean, rstd, gain, shift, molecule, d_sum, d_branch, normed, partial, rows,
        *_random(dropout, drop_path, seed_low, seed_high), **constants_of(launch, width), MORE=d_more is not None, NORMED=normed_again,
        BIAS=bias is not None, DROPOUT=dropout > 0, DROP_PATH=drop_path > 0, num_warps=launch.warps,
    )  # fmt: skip
    dtypes = [gain.dtype, shift.dtype] + ([] if bias is None else [bias.dtype])
    d_gain, d_shift, *rest = add_up(partial, dtypes)
    return d_sum, d_branch, normed, d_gain, d_shift, rest[0] if rest else gain.new_empty(0)


@backward.register_fake
def _(d_normed, d_more, total, mean, rstd, gain, shift, bias, molecule, normed_again, dropout, drop_path, seed_low, seed_high):
    dropped = dropout > 0 or drop_path > 0
    d_branch, normed = (total.new_empty(total.shape if wanted else (0,)) for wanted in (dropped, normed_again))
    d_bias = gain.new_empty(0) if bias is None else torch.empty_like(bias)
    return torch.empty_like(total), d_branch, normed, torch.empty_like(gain), torch.empty_like(shift), d_bias
