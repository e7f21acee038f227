"""Sums over rows that programs have made for themselves, added up in a fixed order."""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 32
PROGRAMS = 128
"""Columns that a program takes, and how many programs' sums it reads at a time."""


@triton.jit(do_not_specialize=["programs"])
def add_programs(
    partial_ptr, first_ptr, second_ptr, third_ptr, programs,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, PROGRAMS: tl.constexpr,
):  # fmt: skip
    """partial (sums, programs, WIDTH) float32 -> the sum over programs of each of up to three sums, in its type."""
    column, which = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS), tl.program_id(1)
    total = tl.zeros((PROGRAMS, COLUMNS), tl.float32)
    first = 0
    while first < programs:
        program = first + tl.arange(0, PROGRAMS)[:, None]
        place = (which * programs + program) * WIDTH + column[None, :]
        total += tl.load(partial_ptr + place, mask=(program < programs) & (column < WIDTH)[None, :], other=0.0)
        first += PROGRAMS
    result = tl.sum(total, 0)
    if which == 0:
        tl.store(first_ptr + column, result.to(first_ptr.dtype.element_ty), mask=column < WIDTH)
    if which == 1:
        tl.store(second_ptr + column, result.to(second_ptr.dtype.element_ty), mask=column < WIDTH)
    if which == 2:
        tl.store(third_ptr + column, result.to(third_ptr.dtype.element_ty), mask=column < WIDTH)


def constants_of(width: int) -> dict[str, Any]:
    return {"WIDTH": width, "COLUMNS": COLUMNS, "PROGRAMS": PROGRAMS}


def add_up(partial: Tensor, dtypes: Sequence[torch.dtype]) -> list[Tensor]:
    """The sum over programs of (sums, programs, width), each sum in its type: up to three tensors (width,)."""
    _, programs, width = partial.shape
    sums = [partial.new_empty(width, dtype=dtype) for dtype in dtypes]
    outputs = (sums + [sums[0]] * 3)[:3]
    add_programs[(-(-width // COLUMNS), len(sums))](partial, *outputs, programs, **constants_of(width), num_warps=4)
    return sums
