"""Dropout of GELU of a product and its bias, forward and backward, in one pass over memory.

Which values are dropped is a hash of (seed, row, column), so that it is not stored. The bias's gradient is kept by each program for
its rows and added up afterwards, in a fixed order.
"""

import math

import triton
import triton.language as tl

from moleblend_fs.ops.dropout_bits import keep_values

NOT_SPECIALIZED = ["rows", "seed_low", "seed_high", "drop_below"]
"""Arguments for whose values (1, or a multiple of 16) no kernel is compiled anew: batches differ in them."""
EXPONENT = tl.constexpr(-0.5 * math.log2(math.e))
DENSITY = tl.constexpr(1 / math.sqrt(2 * math.pi))
"""Of the normal distribution at 0."""
SLOPE = tl.constexpr(0.3275911 * math.sqrt(0.5))
TAIL_1, TAIL_2, TAIL_3 = tl.constexpr(0.254829592 / 2), tl.constexpr(-0.284496736 / 2), tl.constexpr(1.421413741 / 2)
TAIL_4, TAIL_5 = tl.constexpr(-1.453152027 / 2), tl.constexpr(1.061405429 / 2)
"""Of Abramowitz and Stegun's 7.1.26: half of its polynomial."""


@triton.jit
def _normal(x):
    """The normal distribution and its density. The former is within 1e-7 (Abramowitz and Stegun, 7.1.26: one exponential for both)."""
    e = tl.exp2(x * x * EXPONENT)
    t = 1.0 / (1.0 + SLOPE * tl.abs(x))
    tail = e * t * (TAIL_1 + t * (TAIL_2 + t * (TAIL_3 + t * (TAIL_4 + t * TAIL_5))))
    return tl.where(x > 0, 1.0 - tail, tail), e * DENSITY


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def activate(
    x_ptr, bias_ptr, active_ptr, rows, seed_low, seed_high, drop_below, drop_scale,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """dropped(GELU(x + bias)); without BIAS there is none."""
    row, first = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None], tl.program_id(1) * BLOCK
    column = first + tl.arange(0, BLOCK)[None, :]
    place, exists = row.to(tl.int64) * WIDTH + column, (row < rows) & (column < WIDTH)
    x = tl.load(x_ptr + place, mask=exists, other=0.0).to(tl.float32)
    if BIAS:
        x += tl.load(bias_ptr + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    below, _ = _normal(x)
    active = x * below
    if DROPOUT:
        active *= keep_values(seed_low, seed_high, row, first, drop_below, drop_scale, ROWS, BLOCK)
    tl.store(active_ptr + place, active.to(active_ptr.dtype.element_ty), mask=exists)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def activate_backward(
    x_ptr, bias_ptr, d_active_ptr, d_x_ptr, active_ptr, partial_ptr, rows, seed_low, seed_high, drop_below, drop_scale,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """d x, and dropped(GELU(x + bias)) once more; partial (programs, WIDTH): d bias."""
    begin, first = tl.program_id(0) * ROWS, tl.program_id(1) * BLOCK
    column = first + tl.arange(0, BLOCK)[None, :]
    d_bias = tl.zeros((ROWS, BLOCK), tl.float32)
    bias = tl.zeros((1, BLOCK), tl.float32)
    if BIAS:
        bias = tl.load(bias_ptr + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    while begin < rows:
        row = begin + tl.arange(0, ROWS)[:, None]
        place, exists = row.to(tl.int64) * WIDTH + column, (row < rows) & (column < WIDTH)
        x = tl.load(x_ptr + place, mask=exists, other=0.0).to(tl.float32) + bias
        d = tl.load(d_active_ptr + place, mask=exists, other=0.0).to(tl.float32)
        below, density = _normal(x)
        active = x * below
        d *= below + x * density
        if DROPOUT:
            kept = keep_values(seed_low, seed_high, row, first, drop_below, drop_scale, ROWS, BLOCK)
            active *= kept
            d *= kept
        tl.store(active_ptr + place, active.to(active_ptr.dtype.element_ty), mask=exists)
        tl.store(d_x_ptr + place, d.to(d_x_ptr.dtype.element_ty), mask=exists)
        d_bias += d
        begin += tl.num_programs(0) * ROWS
    ends = first + tl.arange(0, BLOCK)
    if BIAS:
        tl.store(partial_ptr + tl.program_id(0) * WIDTH + ends, tl.sum(d_bias, 0), mask=ends < WIDTH)
