"""Attention kernels for molecules that fit into one tile: a program holds all logits of a molecule and head, and goes through a few heads.

Shape legend as in `attention_parts`; qkv (T, 3, H, w), out and d_out (T, H w), logsumexp (H, T), bias and d_bias (H, P), d_graph (H, B).
"""

import triton
import triton.language as tl

from moleblend_fs.ops.kernels.attention_parts import dot, keep_factor, logits, place


@triton.jit(do_not_specialize=["num_tokens", "num_pairs", "seed_low", "seed_high", "threshold"])
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
    for number in range(HEADS):
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
        s = logits(q, k, molecule_bias, graph_bias, i[:, None], i[None, :], count, scale, PRECISION)
        largest = tl.max(s, axis=1)
        p = tl.exp(s - largest[:, None])
        total = tl.sum(p, axis=1)
        p = p / total[:, None]
        if threshold != 0:
            p = p * keep_factor(seed_low, seed_high, head, first, i[:, None], i[None, :], threshold, keep_scale)
        o = dot(p.to(v.dtype), v, PRECISION)
        o_ptr = out_ptr + first * row + head * W
        tl.store(o_ptr + i[:, None] * row + c[None, :], o.to(out_ptr.dtype.element_ty), mask=exists)
        lse_place = bias_head * num_tokens.to(tl.int64) + first + i
        tl.store(logsumexp_ptr + lse_place, largest + tl.log(total), mask=(i < count) & (head < heads))


@triton.jit(do_not_specialize=["num_tokens", "num_pairs", "num_molecules", "seed_low", "seed_high", "threshold", "bias_mode"])
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
    PRECISION: tl.constexpr,
):
    """`bias_mode`: 0 leaves d_bias and d_graph alone, 1 writes them, 2 adds to them."""
    groups = tl.cdiv(heads, HEADS)
    molecule, first, count, first_pair = place(molecules_ptr, tokens_ptr, pairs_ptr, tl.program_id(0) // groups)
    first_head = tl.program_id(0) % groups * HEADS
    i = tl.arange(0, BLOCK)
    c = tl.arange(0, BLOCK_W)
    row = heads * W
    places = i[:, None] * (3 * row) + c[None, :]
    inner = (i[:, None] >= 1) & (i[:, None] < count) & (i[None, :] >= 1) & (i[None, :] < count)
    pair_places = (i[:, None] - 1) * (count - 1) + i[None, :] - 1
    for number in range(HEADS):
        head = first_head + number
        is_head = head < heads
        exists = (i[:, None] < count) & (c[None, :] < W) & is_head
        q_ptr = qkv_ptr + first * (3 * row) + head * W
        q = tl.load(q_ptr + places, mask=exists, other=0.0)
        k = tl.load(q_ptr + row + places, mask=exists, other=0.0)
        v = tl.load(q_ptr + 2 * row + places, mask=exists, other=0.0)
        d_o_ptr = d_out_ptr + first * row + head * W
        d_o = tl.load(d_o_ptr + i[:, None] * row + c[None, :], mask=exists, other=0.0)
        graph_bias = tl.load(graph_bias_ptr + head, mask=is_head, other=0.0)
        bias_head = tl.minimum(head, heads - 1)
        pair_start = bias_head * num_pairs.to(tl.int64) + first_pair
        s = logits(q, k, bias_ptr + pair_start, graph_bias, i[:, None], i[None, :], count, scale, PRECISION)
        lse_place = bias_head * num_tokens.to(tl.int64) + first + i
        p = tl.exp(s - tl.load(logsumexp_ptr + lse_place, mask=i < count, other=float("inf"))[:, None])
        d_p = dot(d_o, tl.trans(v), PRECISION)
        dropped = p
        if threshold != 0:
            factor = keep_factor(seed_low, seed_high, head, first, i[:, None], i[None, :], threshold, keep_scale)
            dropped = p * factor
            d_p = d_p * factor
        d_v = dot(tl.trans(dropped.to(d_o.dtype)), d_o, PRECISION)
        d_s = p * (d_p - tl.sum(p * d_p, axis=1)[:, None])
        d_s_low = d_s.to(q.dtype)
        d_q = dot(d_s_low, k, PRECISION) * scale
        d_k = dot(tl.trans(d_s_low), q, PRECISION) * scale
        d_q_ptr = d_qkv_ptr + first * (3 * row) + head * W
        tl.store(d_q_ptr + places, d_q.to(q.dtype), mask=exists)
        tl.store(d_q_ptr + row + places, d_k.to(q.dtype), mask=exists)
        tl.store(d_q_ptr + 2 * row + places, d_v.to(q.dtype), mask=exists)

        pair_ptrs = d_bias_ptr + pair_start + pair_places
        before = tl.load(pair_ptrs, mask=inner & is_head & (bias_mode == 2), other=0.0)
        tl.store(pair_ptrs, before + d_s, mask=inner & is_head & (bias_mode != 0))
        d_graph = tl.sum(tl.sum(tl.where((i[:, None] == 0) | (i[None, :] == 0), d_s, 0.0), axis=1), axis=0)
        graph_ptr = d_graph_ptr + bias_head * num_molecules + molecule
        before_graph = tl.load(graph_ptr, mask=is_head & (bias_mode == 2), other=0.0)
        tl.store(graph_ptr, before_graph + d_graph, mask=is_head & (bias_mode != 0))
