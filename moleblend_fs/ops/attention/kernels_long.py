"""Attention kernels, forward and backward, for molecules of any size: a program holds a block of rows (or columns) of one head
and goes through the others.

The forward pass is an online softmax. The backward pass has two kernels, one per block of queries (d_q, d_bias) and one per block
of keys (d_k, d_v), so that every sum has one order. Shape legend as in `kernels_short.py`.
"""

import triton
import triton.language as tl

from moleblend_fs.ops.attention.kernel_parts import (
    LOG2_E,
    NOT_SPECIALIZED,
    add_bias_gradient,
    dot,
    keep_factor,
    load_bias,
    loop_end,
    place,
)


@triton.jit
def _program(heads, blocks):
    """Slot, head and block number of this program; blocks of one head are neighbours, so that they share its keys in the cache."""
    program = tl.program_id(0)
    return program // (blocks * heads), program // blocks % heads, program % blocks


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def forward_long(
    qkv_ptr,
    bias_ptr,
    graph_bias_ptr,
    out_ptr,
    logsumexp_ptr,
    molecules_ptr,
    tokens_ptr,
    pairs_ptr,
    heads,
    num_tokens,
    num_pairs,
    blocks,
    scale,
    seed_low,
    seed_high,
    threshold,
    keep_scale,
    W: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK_W: tl.constexpr,
    PRECISION: tl.constexpr,
):
    slot, head, block = _program(heads, blocks)
    _, first, count, first_pair = place(molecules_ptr, tokens_ptr, pairs_ptr, slot)
    if block * BLOCK >= count:
        return
    i = block * BLOCK + tl.arange(0, BLOCK)
    c = tl.arange(0, BLOCK_W)
    row = heads * W
    q_ptr = qkv_ptr + first * (3 * row) + head * W
    exists = (i[:, None] < count) & (c[None, :] < W)
    q = tl.load(q_ptr + i[:, None] * (3 * row) + c[None, :], mask=exists, other=0.0)
    graph_bias = tl.load(graph_bias_ptr + head)
    molecule_bias = bias_ptr + head * num_pairs.to(tl.int64) + first_pair
    o = tl.zeros([BLOCK, BLOCK_W], dtype=tl.float32)
    largest = tl.full([BLOCK], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for start in tl.range(0, loop_end(count), STEP, disable_licm=True):
        j = start + tl.arange(0, STEP)
        j_places = j[:, None] * (3 * row) + c[None, :]
        j_exists = (j[:, None] < count) & (c[None, :] < W)
        k = tl.load(q_ptr + row + j_places, mask=j_exists, other=0.0)
        v = tl.load(q_ptr + 2 * row + j_places, mask=j_exists, other=0.0)
        s = dot(q, tl.trans(k), PRECISION) * (scale * LOG2_E)
        s += load_bias(molecule_bias, graph_bias, i[:, None], j[None, :], count)
        larger = tl.maximum(largest, tl.max(s, axis=1))
        p = tl.exp2(s - larger[:, None])
        shrink = tl.exp2(largest - larger)
        total = total * shrink + tl.sum(p, axis=1)
        if threshold != 0:
            p = p * keep_factor(seed_low, seed_high, head, first, i[:, None], j[None, :], threshold, keep_scale)
        o = o * shrink[:, None] + dot(p.to(v.dtype), v, PRECISION)
        largest = larger
    o = o * (1 / total)[:, None]
    o_ptr = out_ptr + first * row + head * W
    tl.store(o_ptr + i[:, None] * row + c[None, :], o.to(out_ptr.dtype.element_ty), mask=exists)
    tl.store(logsumexp_ptr + head * num_tokens.to(tl.int64) + first + i, largest + tl.log2(total), mask=i < count)


@triton.jit
def _row_sums(d_out_ptr, out_ptr, i, row, c, count, W: tl.constexpr):
    """d_out of tokens i, and sum_c d_out out, which is what softmax subtracts in its backward pass."""
    places = i[:, None] * row + c[None, :]
    exists = (i[:, None] < count) & (c[None, :] < W)
    d_o = tl.load(d_out_ptr + places, mask=exists, other=0.0)
    o = tl.load(out_ptr + places, mask=exists, other=0.0)
    return d_o, tl.sum(d_o.to(tl.float32) * o.to(tl.float32), axis=1)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def backward_rows_long(
    d_out_ptr,
    out_ptr,
    qkv_ptr,
    logsumexp_ptr,
    bias_ptr,
    graph_bias_ptr,
    d_qkv_ptr,
    d_bias_ptr,
    d_graph_ptr,
    molecules_ptr,
    tokens_ptr,
    pairs_ptr,
    heads,
    num_tokens,
    num_pairs,
    num_molecules,
    blocks,
    scale,
    seed_low,
    seed_high,
    threshold,
    keep_scale,
    bias_mode,
    W: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK_W: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """d_q and d_bias of a block of queries; the first block's program also sums d_graph over the graph token's row."""
    slot, head, block = _program(heads, blocks)
    molecule, first, count, first_pair = place(molecules_ptr, tokens_ptr, pairs_ptr, slot)
    if block * BLOCK >= count:
        return
    i = block * BLOCK + tl.arange(0, BLOCK)
    c = tl.arange(0, BLOCK_W)
    row = heads * W
    q_ptr = qkv_ptr + first * (3 * row) + head * W
    d_q_ptr = d_qkv_ptr + first * (3 * row) + head * W
    out_place = first * row + head * W
    places = i[:, None] * (3 * row) + c[None, :]
    exists = (i[:, None] < count) & (c[None, :] < W)
    q = tl.load(q_ptr + places, mask=exists, other=0.0)
    d_o, delta = _row_sums(d_out_ptr + out_place, out_ptr + out_place, i, row, c, count, W)
    logsumexp = tl.load(logsumexp_ptr + head * num_tokens.to(tl.int64) + first + i, mask=i < count, other=float("inf"))
    graph_bias = tl.load(graph_bias_ptr + head)
    pair_start = head * num_pairs.to(tl.int64) + first_pair
    d_q = tl.zeros([BLOCK, BLOCK_W], dtype=tl.float32)
    d_graph_row = tl.zeros([STEP], dtype=tl.float32)
    for start in tl.range(0, loop_end(count), STEP, disable_licm=True):
        j = start + tl.arange(0, STEP)
        j_places = j[:, None] * (3 * row) + c[None, :]
        j_exists = (j[:, None] < count) & (c[None, :] < W)
        k = tl.load(q_ptr + row + j_places, mask=j_exists, other=0.0)
        v = tl.load(q_ptr + 2 * row + j_places, mask=j_exists, other=0.0)
        s = dot(q, tl.trans(k), PRECISION) * (scale * LOG2_E)
        s += load_bias(bias_ptr + pair_start, graph_bias, i[:, None], j[None, :], count)
        p = tl.exp2(s - logsumexp[:, None])
        d_p = dot(d_o, tl.trans(v), PRECISION)
        if threshold != 0:
            d_p = d_p * keep_factor(seed_low, seed_high, head, first, i[:, None], j[None, :], threshold, keep_scale)
        d_s = p * (d_p - delta[:, None])
        add_bias_gradient(d_bias_ptr + pair_start, d_s, i[:, None], j[None, :], count, bias_mode)
        d_graph_row += tl.sum(tl.where(i[:, None] == 0, d_s, 0.0), axis=0)
        d_q += dot(d_s.to(k.dtype), k, PRECISION)
    tl.store(d_q_ptr + places, (d_q * scale).to(q.dtype), mask=exists)
    graph_ptr = d_graph_ptr + head * num_molecules + molecule
    before_graph = tl.load(graph_ptr, mask=(block == 0) & (bias_mode == 2), other=0.0)
    tl.store(graph_ptr, before_graph + tl.sum(d_graph_row, axis=0), mask=(block == 0) & (bias_mode != 0))


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def backward_columns_long(
    d_out_ptr,
    out_ptr,
    qkv_ptr,
    logsumexp_ptr,
    bias_ptr,
    graph_bias_ptr,
    d_qkv_ptr,
    d_graph_ptr,
    molecules_ptr,
    tokens_ptr,
    pairs_ptr,
    heads,
    num_tokens,
    num_pairs,
    num_molecules,
    blocks,
    scale,
    seed_low,
    seed_high,
    threshold,
    keep_scale,
    bias_mode,
    W: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK_W: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """d_k and d_v of a block of keys; the first block's program also adds the graph token's column to d_graph, after its row is there."""
    slot, head, block = _program(heads, blocks)
    molecule, first, count, first_pair = place(molecules_ptr, tokens_ptr, pairs_ptr, slot)
    if block * BLOCK >= count:
        return
    j = block * BLOCK + tl.arange(0, BLOCK)
    c = tl.arange(0, BLOCK_W)
    row = heads * W
    q_ptr = qkv_ptr + first * (3 * row) + head * W
    d_q_ptr = d_qkv_ptr + first * (3 * row) + head * W
    out_place = first * row + head * W
    places = j[:, None] * (3 * row) + c[None, :]
    exists = (j[:, None] < count) & (c[None, :] < W)
    k = tl.load(q_ptr + row + places, mask=exists, other=0.0)
    v = tl.load(q_ptr + 2 * row + places, mask=exists, other=0.0)
    graph_bias = tl.load(graph_bias_ptr + head)
    molecule_bias = bias_ptr + head * num_pairs.to(tl.int64) + first_pair
    d_k = tl.zeros([BLOCK, BLOCK_W], dtype=tl.float32)
    d_v = tl.zeros([BLOCK, BLOCK_W], dtype=tl.float32)
    d_graph_column = tl.zeros([STEP], dtype=tl.float32)
    for start in tl.range(0, loop_end(count), STEP, disable_licm=True):
        i = start + tl.arange(0, STEP)
        i_exists = (i[:, None] < count) & (c[None, :] < W)
        q = tl.load(q_ptr + i[:, None] * (3 * row) + c[None, :], mask=i_exists, other=0.0)
        d_o, delta = _row_sums(d_out_ptr + out_place, out_ptr + out_place, i, row, c, count, W)
        logsumexp = tl.load(logsumexp_ptr + head * num_tokens.to(tl.int64) + first + i, mask=i < count, other=float("inf"))
        s = dot(k, tl.trans(q), PRECISION) * (scale * LOG2_E)  # keys x queries, so that d_k and d_v need no transposition
        s += load_bias(molecule_bias, graph_bias, i[None, :], j[:, None], count)
        p = tl.exp2(s - logsumexp[None, :])
        d_p = dot(v, tl.trans(d_o), PRECISION)
        dropped = p
        if threshold != 0:
            factor = keep_factor(seed_low, seed_high, head, first, i[None, :], j[:, None], threshold, keep_scale)
            dropped = p * factor
            d_p = d_p * factor
        d_v += dot(dropped.to(d_o.dtype), d_o, PRECISION)
        d_s = p * (d_p - delta[None, :])
        d_k += dot(d_s.to(q.dtype), q, PRECISION)
        d_graph_column += tl.sum(tl.where((j[:, None] == 0) & (i[None, :] >= 1), d_s, 0.0), axis=0)
    tl.store(d_q_ptr + row + places, (d_k * scale).to(k.dtype), mask=exists)
    tl.store(d_q_ptr + 2 * row + places, d_v.to(k.dtype), mask=exists)
    stored = (block == 0) & (bias_mode != 0)
    graph_ptr = d_graph_ptr + head * num_molecules + molecule
    tl.store(graph_ptr, tl.load(graph_ptr, mask=stored, other=0.0) + tl.sum(d_graph_column, axis=0), mask=stored)
