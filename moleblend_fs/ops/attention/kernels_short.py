"""Attention kernels, forward and backward, for molecules that fit into one tile: a program holds all logits of a molecule and head, and
goes through a few heads.

Shape legend as in `kernel_parts.py`; qkv (T, 3, H, w), out and d_out (T, H w), logsumexp (H, T) to the base 2, bias and d_bias (H, P),
d_graph (H, B).
"""

import triton
import triton.language as tl

from moleblend_fs.ops.attention.kernel_parts import LOG2_E, NOT_SPECIALIZED, add_bias_gradient, dot, keep_factor, load_bias, place


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def forward_short(
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
    scale,
    seed_low,
    seed_high,
    threshold,
    keep_scale,
    W: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_W: tl.constexpr,
    HEADS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    groups = tl.cdiv(heads, HEADS)
    _, first, count, first_pair = place(molecules_ptr, tokens_ptr, pairs_ptr, tl.program_id(0) // groups)
    first_head = tl.program_id(0) % groups * HEADS
    i = tl.arange(0, BLOCK)
    c = tl.arange(0, BLOCK_W)
    row = heads * W
    places = i[:, None] * (3 * row) + c[None, :]
    for number in tl.range(HEADS, disable_licm=True):
        head = first_head + number
        exists = (i[:, None] < count) & (c[None, :] < W) & (head < heads)
        q_ptr = qkv_ptr + first * (3 * row) + head * W
        q = tl.load(q_ptr + places, mask=exists, other=0.0)
        k = tl.load(q_ptr + row + places, mask=exists, other=0.0)
        v = tl.load(q_ptr + 2 * row + places, mask=exists, other=0.0)
        graph_bias = tl.load(graph_bias_ptr + head, mask=head < heads, other=0.0)
        # Heads beyond the last read the bias of the last one: their results are not stored.
        bias_head = tl.minimum(head, heads - 1)
        molecule_bias = bias_ptr + bias_head * num_pairs.to(tl.int64) + first_pair
        # Before the product: else the compiler computes the softmax in two layouts.
        bias = load_bias(molecule_bias, graph_bias, i[:, None], i[None, :], count)
        s = dot(q, tl.trans(k), PRECISION) * (scale * LOG2_E) + bias
        largest = tl.max(s, axis=1)
        p = tl.exp2(s - largest[:, None])
        total = tl.sum(p, axis=1)
        if threshold != 0:
            p = p * keep_factor(seed_low, seed_high, head, first, i[:, None], i[None, :], threshold, keep_scale)
        o = dot(p.to(v.dtype), v, PRECISION) * (1 / total)[:, None]
        o_ptr = out_ptr + first * row + head * W
        tl.store(o_ptr + i[:, None] * row + c[None, :], o.to(out_ptr.dtype.element_ty), mask=exists)
        lse_place = bias_head * num_tokens.to(tl.int64) + first + i
        tl.store(logsumexp_ptr + lse_place, largest + tl.log2(total), mask=(i < count) & (head < heads))


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def backward_short(
    d_out_ptr,
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
    scale,
    seed_low,
    seed_high,
    threshold,
    keep_scale,
    bias_mode,
    W: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_W: tl.constexpr,
    HEADS: tl.constexpr,
    STEP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Goes through the queries by `STEP`, with logits transposed (keys x queries): then d_k and d_v need no transposition, and the
    tile in registers is small. `bias_mode`: see `add_bias_gradient`, d_graph likewise.
    """
    groups = tl.cdiv(heads, HEADS)
    molecule, first, count, first_pair = place(molecules_ptr, tokens_ptr, pairs_ptr, tl.program_id(0) // groups)
    first_head = tl.program_id(0) % groups * HEADS
    j = tl.arange(0, BLOCK)
    c = tl.arange(0, BLOCK_W)
    row = heads * W
    places = j[:, None] * (3 * row) + c[None, :]
    for number in tl.range(HEADS, disable_licm=True):
        head = first_head + number
        exists = (j[:, None] < count) & (c[None, :] < W) & (head < heads)
        q_ptr = qkv_ptr + first * (3 * row) + head * W
        d_q_ptr = d_qkv_ptr + first * (3 * row) + head * W
        d_o_ptr = d_out_ptr + first * row + head * W
        k = tl.load(q_ptr + row + places, mask=exists, other=0.0)
        v = tl.load(q_ptr + 2 * row + places, mask=exists, other=0.0)
        graph_bias = tl.load(graph_bias_ptr + head, mask=head < heads, other=0.0)
        # Heads beyond the last read the bias of the last one; with zero gradients, and nothing of them is stored.
        bias_head = tl.minimum(head, heads - 1)
        pair_start = bias_head * num_pairs.to(tl.int64) + first_pair
        lse_ptr = logsumexp_ptr + bias_head * num_tokens.to(tl.int64) + first
        mode = tl.where(head < heads, bias_mode, 0)
        d_k = tl.zeros([BLOCK, BLOCK_W], dtype=tl.float32)
        d_v = tl.zeros([BLOCK, BLOCK_W], dtype=tl.float32)
        d_graph = tl.zeros([STEP], dtype=tl.float32)
        for step in tl.range(BLOCK // STEP, disable_licm=True):
            i = step * STEP + tl.arange(0, STEP)
            i_exists = (i[:, None] < count) & (c[None, :] < W) & (head < heads)
            q = tl.load(q_ptr + i[:, None] * (3 * row) + c[None, :], mask=i_exists, other=0.0)
            d_o = tl.load(d_o_ptr + i[:, None] * row + c[None, :], mask=i_exists, other=0.0)
            bias = load_bias(bias_ptr + pair_start, graph_bias, i[None, :], j[:, None], count)
            s = dot(k, tl.trans(q), PRECISION) * (scale * LOG2_E) + bias
            p = tl.exp2(s - tl.load(lse_ptr + i, mask=i < count, other=float("inf"))[None, :])
            d_p = dot(v, tl.trans(d_o), PRECISION)
            dropped = p
            if threshold != 0:
                factor = keep_factor(seed_low, seed_high, head, first, i[None, :], j[:, None], threshold, keep_scale)
                dropped = p * factor
                d_p = d_p * factor
            d_v += dot(dropped.to(d_o.dtype), d_o, PRECISION)
            d_s = p * (d_p - tl.sum(p * d_p, axis=0)[None, :])
            add_bias_gradient(d_bias_ptr + pair_start, d_s, i[None, :], j[:, None], count, mode)
            d_graph += tl.sum(tl.where((i[None, :] == 0) | (j[:, None] == 0), d_s, 0.0), axis=0)
            d_k += dot(d_s.to(q.dtype), q, PRECISION)
            d_q = dot(tl.trans(d_s.to(k.dtype)), k, PRECISION) * scale
            tl.store(d_q_ptr + i[:, None] * (3 * row) + c[None, :], d_q.to(q.dtype), mask=i_exists)
        tl.store(d_q_ptr + row + places, (d_k * scale).to(k.dtype), mask=exists)
        tl.store(d_q_ptr + 2 * row + places, d_v.to(k.dtype), mask=exists)
        graph_ptr = d_graph_ptr + bias_head * num_molecules + molecule
        before = tl.load(graph_ptr, mask=mode == 2, other=0.0)
        tl.store(graph_ptr, before + tl.sum(d_graph, axis=0), mask=mode != 0)
