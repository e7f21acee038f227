"""The distance encoding's table: its points, what of it is believed, reading it, and the gradients of its values; see `table`.

Pairs are read in the order of the list. For the gradients they are sorted by blocks of cells, so that the sum over the pairs of a block is
a product of a matrix of the cubics' weights with the upstream gradients, in an order that is fixed.
Shape legend: M listed pairs, a tile of R of them, N points, a block of B of them, H heads (padded to H_PAD), K Gaussians.
"""

import triton
import triton.language as tl

from moleblend_fs.ops.relation_bias import table
from moleblend_fs.ops.relation_bias.kernels_distance import load_bias_gradients

REACH: tl.constexpr = tl.constexpr(table.REACH)
TOLERANCE: tl.constexpr = tl.constexpr(table.TOLERANCE)
NODES: tl.constexpr = tl.constexpr(64)
"""Points that one block of cells reaches."""
CELLS: tl.constexpr = tl.constexpr(61)
"""Cells of a block; the cubic of a cell has four points."""
NOWHERE: tl.constexpr = tl.constexpr(32767)
"""The block of what is not read from the table: after all others."""


@triton.jit(do_not_specialize=["number"])
def place_points(means, stds, x_N, number_N, points, number, K: tl.constexpr, K_PAD: tl.constexpr, BLOCK: tl.constexpr):
    """x and number of every point; `points` gets what `table.Points` has."""
    k = tl.arange(0, K_PAD)
    mean = tl.load(means + k, mask=k < K, other=0.0)
    width = tl.abs(tl.load(stds + k, mask=k < K, other=0.0)) + 0.01
    low = tl.min(tl.where(k < K, mean - REACH * width, float("inf")), 0)
    high = tl.max(tl.where(k < K, mean + REACH * width, float("-inf")), 0)
    step = (high - low) / (number - 3)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_N + n, low + (n - 1).to(tl.float32) * step, mask=n < number)
    tl.store(number_N + n, n, mask=n < number)
    if tl.program_id(0) == 0:
        tl.store(points, low)
        tl.store(points + 1, step)
        tl.store(points + 2, tl.min(tl.where(k < K, width, float("inf")), 0))


@triton.jit(do_not_specialize=["number"])
def measure_error(table_HN, partial, number, H: tl.constexpr, H_PAD: tl.constexpr, BLOCK: tl.constexpr):
    """`table.error_of` of some of the points, and the largest value among them; partial: (programs, 2)."""
    h = tl.arange(0, H_PAD)[:, None]
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    at = table_HN + h * number + n[None, :]
    value = tl.load(at, mask=(h < H) & (n < number)[None, :], other=0.0)
    inner = (h < H) & ((n >= 3) & (n < number - 3))[None, :]
    near = tl.load(at - 1, mask=inner, other=0.0) + tl.load(at + 1, mask=inner, other=0.0)
    far = tl.load(at - 3, mask=inner, other=0.0) + tl.load(at + 3, mask=inner, other=0.0)
    error = tl.where(inner, tl.abs(value - (9.0 * near - far) * 0.0625), 0.0) * 0.0625
    tl.store(partial + 2 * tl.program_id(0), tl.max(tl.max(error, 1), 0))
    tl.store(partial + 2 * tl.program_id(0) + 1, tl.max(tl.max(tl.abs(value), 1), 0))


@triton.jit(do_not_specialize=["programs", "number"])
def choose(partial, points, count, read, computed, used, programs, number, BLOCK: tl.constexpr):
    """How many pairs are read from the table, how many computed one by one, and how many points that needs: all or none."""
    error = tl.zeros([BLOCK], tl.float32)
    largest = tl.zeros([BLOCK], tl.float32)
    start = 0
    while start < programs:
        program = start + tl.arange(0, BLOCK)
        error = tl.maximum(error, tl.load(partial + 2 * program, mask=program < programs, other=0.0))
        largest = tl.maximum(largest, tl.load(partial + 2 * program + 1, mask=program < programs, other=0.0))
        start += BLOCK
    holds = (tl.max(error, 0) <= TOLERANCE * tl.max(largest, 0)) & (tl.load(points + 1) <= tl.load(points + 2))
    listed = tl.load(count)
    tl.store(read, tl.where(holds, listed, 0))
    tl.store(computed, tl.where(holds, 0, listed))
    tl.store(used, tl.where(holds, number, 0))


@triton.jit
def find_cells(x, points, number):
    """The first of each cell's four points, where in the cell x lies (0 to 1, NaN where x is), and whether x lies beyond all cells."""
    place = (x - tl.load(points)) / tl.load(points + 1) + 1.0
    last = (number - 2).to(tl.float32)
    kept = tl.minimum(tl.maximum(place, 1.0), last)
    kept = tl.where(place == place, kept, 1.0)
    first = tl.minimum(tl.floor(kept).to(tl.int32), number - 3) - 1
    t = kept - (first + 1).to(tl.float32)
    return first, tl.where(place == place, t, place), (place < 1.0) | (place > last)


@triton.jit
def cubic(t):
    """Weights of the four points' values."""
    left, right = t + 1.0, t - 1.0
    far = t - 2.0
    return -t * right * far / 6.0, left * right * far / 2.0, -left * t * far / 2.0, left * t * right / 6.0


@triton.jit
def cubic_slopes(t):
    """Derivatives of `cubic`."""
    square = 3.0 * t * t
    return (6.0 * t - square - 2.0) / 6.0, (square - 4.0 * t - 1.0) / 2.0, (2.0 * t - square + 2.0) / 2.0, (square - 1.0) / 6.0


@triton.jit(do_not_specialize=["num_pairs", "number"])
def add_from_table(
    bias_HP, pair_M, x_M, read, table_HN, points, num_pairs, number, H: tl.constexpr, H_PAD: tl.constexpr, BLOCK: tl.constexpr
):
    """bias += the table's functions at x, for the listed pairs."""
    num_read = tl.load(read)
    h = tl.arange(0, H_PAD)[:, None]
    tile = tl.program_id(0)
    while tile < tl.cdiv(num_read, BLOCK):
        m = tile * BLOCK + tl.arange(0, BLOCK)
        valid = m < num_read
        first, t, _beyond = find_cells(tl.load(x_M + m, mask=valid, other=0.0), points, number)
        w0, w1, w2, w3 = cubic(t)
        mask = (h < H) & valid[None, :]
        value = table_HN + h * number + first[None, :]
        out_HR = w0[None, :] * tl.load(value, mask=mask, other=0.0)
        out_HR += w1[None, :] * tl.load(value + 1, mask=mask, other=0.0)
        out_HR += w2[None, :] * tl.load(value + 2, mask=mask, other=0.0)
        out_HR += w3[None, :] * tl.load(value + 3, mask=mask, other=0.0)
        at = bias_HP + h.to(tl.int64) * num_pairs + tl.load(pair_M + m, mask=valid, other=0)[None, :]
        tl.store(at, tl.load(at, mask=mask, other=0.0) + out_HR, mask=mask)
        tile += tl.num_programs(0)


@triton.jit(do_not_specialize=["num_pairs", "number"])
def find_blocks(x_M, read, points, block_M, num_pairs, number, BLOCK: tl.constexpr):
    """The block of cells that each listed pair is read from."""
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = m < tl.load(read)
    first, _t, _beyond = find_cells(tl.load(x_M + m, mask=valid, other=0.0), points, number)
    tl.store(block_M + m, tl.where(valid, first // CELLS, NOWHERE).to(tl.int16), mask=m < num_pairs)


@triton.jit(do_not_specialize=["num_pairs", "number"])
def point_gradients(
    d_bias_HP,
    pair_M,
    x_M,
    order_M,
    starts,
    points,
    table_HN,
    d_x_P,
    partial,
    num_pairs,
    number,
    H: tl.constexpr,
    H_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The gradient of each pair's x, and sums over the pairs of a block of cells for the gradients of its points' values.

    Programs of the second axis share a block's tiles. partial: (blocks, those programs, H_PAD, NODES).
    """
    block = tl.program_id(0)
    begin, end = tl.load(starts + block), tl.load(starts + block + 1)
    node = tl.arange(0, NODES)
    h = tl.arange(0, H_PAD)
    step = tl.load(points + 1)
    total_BH = tl.zeros([NODES, H_PAD], tl.float32)
    tile = begin + tl.program_id(1) * BLOCK
    while tile < end:
        m = tile + tl.arange(0, BLOCK)
        valid = m < end
        listed = tl.load(order_M + m, mask=valid, other=0)
        pair = tl.load(pair_M + listed, mask=valid, other=0)
        first, t, beyond = find_cells(tl.load(x_M + listed, mask=valid, other=0.0), points, number)
        d_out_RH = load_bias_gradients(d_bias_HP, pair, valid, num_pairs, H, H_PAD)
        value = table_HN + h[None, :] * number + first[:, None]
        mask = valid[:, None] & (h < H)[None, :]
        s0, s1, s2, s3 = cubic_slopes(t)
        slope_RH = s0[:, None] * tl.load(value, mask=mask, other=0.0)
        slope_RH += s1[:, None] * tl.load(value + 1, mask=mask, other=0.0)
        slope_RH += s2[:, None] * tl.load(value + 2, mask=mask, other=0.0)
        slope_RH += s3[:, None] * tl.load(value + 3, mask=mask, other=0.0)
        tl.store(d_x_P + pair, tl.where(beyond, 0.0, tl.sum(slope_RH * d_out_RH, 1) / step), mask=valid)
        w0, w1, w2, w3 = cubic(t)
        j = node[:, None] - (first - block * CELLS)[None, :]
        weights_BR = tl.where(j == 0, w0[None, :], tl.where(j == 1, w1[None, :], 0.0))
        weights_BR += tl.where(j == 2, w2[None, :], tl.where(j == 3, w3[None, :], 0.0))
        total_BH = tl.dot(weights_BR, d_out_RH, total_BH, input_precision=PRECISION)
        tile += tl.num_programs(1) * BLOCK
    into = (block * tl.num_programs(1) + tl.program_id(1)) * H_PAD * NODES
    tl.store(partial + into + h[None, :] * NODES + node[:, None], total_BH)


@triton.jit(do_not_specialize=["number", "blocks", "programs"])
def add_blocks(partial, d_table_HN, number, blocks, programs, H: tl.constexpr, H_PAD: tl.constexpr, BLOCK: tl.constexpr):
    """Gradients of the points' values: the sums of `point_gradients`, of one block of cells or of the two that share a point."""
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    h = tl.arange(0, H_PAD)[:, None]
    total_HB = tl.zeros([H_PAD, BLOCK], tl.float32)
    for before in tl.static_range(2):
        block = n // CELLS - before
        local = n - block * CELLS
        shares = (block >= 0) & (block < blocks) & (local < NODES) & (n < number)
        program = 0
        while program < programs:
            into = (block * programs + program) * H_PAD * NODES + local
            total_HB += tl.load(partial + into[None, :] + h * NODES, mask=shares[None, :], other=0.0)
            program += 1
    tl.store(d_table_HN + h * number + n[None, :], total_HB, mask=(h < H) & (n < number)[None, :])
