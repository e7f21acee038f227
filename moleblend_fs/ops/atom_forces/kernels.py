"""Kernels of `atom_forces`: a program holds a block of atoms i (or j) of a molecule and head and goes through the others.

Shape legend: A atoms, P atom pairs, H heads, w head width; i, j atoms of one molecule, n their number, a an axis.
q, k (A, H, w), value s (A, H, 3), bias (H, P), direction u (3, P), forces of each head (H, 3, A), logsumexp (H, A) to the base 2.
"""

import triton
import triton.language as tl

from moleblend_fs.ops.attention.kernel_parts import LOG2_E, NOT_SPECIALIZED, dot, keep_factor, loop_end, place

OF_BATCHES = [*NOT_SPECIALIZED, "num_atoms"]
"""Arguments for whose values no kernel is compiled anew."""


@triton.jit
def _program(molecules_ptr, tokens_ptr, pairs_ptr, heads, blocks):
    """Head and block of this program; its molecule's first token, first atom, atom count and first pair."""
    program = tl.program_id(0)
    molecule, token, count, first_pair = place(molecules_ptr, tokens_ptr, pairs_ptr, program // (blocks * heads))
    return program // blocks % heads, program % blocks, token, token - molecule, count - 1, first_pair


@triton.jit
def _rows(pointer, i, n, row, W: tl.constexpr, BLOCK_W: tl.constexpr):
    """Queries or keys of atoms i; `pointer` is to the molecule's first, of the head."""
    c = tl.arange(0, BLOCK_W)
    return tl.load(pointer + i[:, None] * row + c[None, :], mask=(i[:, None] < n) & (c[None, :] < W), other=0.0)


@triton.jit
def _store_rows(pointer, x, i, n, row, W: tl.constexpr, BLOCK_W: tl.constexpr):
    c = tl.arange(0, BLOCK_W)
    tl.store(pointer + i[:, None] * row + c[None, :], x.to(pointer.dtype.element_ty), mask=(i[:, None] < n) & (c[None, :] < W))


@triton.jit
def _bias(bias_ptr, i, j, n):
    """Bias of pairs (i, j), times log2(e), -inf where j does not exist; `bias_ptr` is to the molecule's first pair, of the head."""
    bias = tl.load(bias_ptr + (i * n + j), mask=(i < n) & (j < n), other=0.0)
    return tl.where(j < n, bias * LOG2_E, float("-inf"))


@triton.jit
def _direction(direction_ptr, i, j, n):
    return tl.load(direction_ptr + (i * n + j), mask=(i < n) & (j < n), other=0.0)


@triton.jit
def _value(value_ptr, j, n, heads):
    """s of atoms j for one axis; `value_ptr` is to the molecule's first, of head and axis."""
    return tl.load(value_ptr + j * (3 * heads), mask=j < n, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=OF_BATCHES)
def forces_forward(
    q_ptr,
    k_ptr,
    value_ptr,
    bias_ptr,
    direction_ptr,
    force_ptr,
    logsumexp_ptr,
    molecules_ptr,
    tokens_ptr,
    pairs_ptr,
    heads,
    num_atoms,
    num_pairs,
    blocks,
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
    head, block, token, first, n, first_pair = _program(molecules_ptr, tokens_ptr, pairs_ptr, heads, blocks)
    if block * BLOCK >= n:
        return
    i = block * BLOCK + tl.arange(0, BLOCK)
    row = heads * W
    pairs, atoms = num_pairs.to(tl.int64), num_atoms.to(tl.int64)
    q = _rows(q_ptr + first * row + head * W, i, n, row, W, BLOCK_W)
    s_ptr = value_ptr + (first * heads + head) * 3
    u_ptr = direction_ptr + first_pair
    force_0 = tl.zeros([BLOCK], dtype=tl.float32)
    force_1 = tl.zeros([BLOCK], dtype=tl.float32)
    force_2 = tl.zeros([BLOCK], dtype=tl.float32)
    largest = tl.full([BLOCK], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for start in tl.range(0, loop_end(n), STEP, disable_licm=True):
        j = start + tl.arange(0, STEP)
        k = _rows(k_ptr + first * row + head * W, j, n, row, W, BLOCK_W)
        logits = dot(q, tl.trans(k), PRECISION) * LOG2_E
        logits += _bias(bias_ptr + head * pairs + first_pair, i[:, None], j[None, :], n)
        larger = tl.maximum(largest, tl.max(logits, axis=1))
        p = tl.exp2(logits - larger[:, None])
        shrink = tl.exp2(largest - larger)
        total = total * shrink + tl.sum(p, axis=1)
        if threshold != 0:
            p = p * keep_factor(seed_low, seed_high, head, token, i[:, None] + 1, j[None, :] + 1, threshold, keep_scale)
        x = _direction(u_ptr, i[:, None], j[None, :], n) * _value(s_ptr, j, n, heads)[None, :]
        y = _direction(u_ptr + pairs, i[:, None], j[None, :], n) * _value(s_ptr + 1, j, n, heads)[None, :]
        z = _direction(u_ptr + 2 * pairs, i[:, None], j[None, :], n) * _value(s_ptr + 2, j, n, heads)[None, :]
        force_0 = force_0 * shrink + tl.sum(p * x, axis=1)
        force_1 = force_1 * shrink + tl.sum(p * y, axis=1)
        force_2 = force_2 * shrink + tl.sum(p * z, axis=1)
        largest = larger
    out_ptr = force_ptr + head * 3 * atoms + first + i
    tl.store(out_ptr, force_0 / total, mask=i < n)
    tl.store(out_ptr + atoms, force_1 / total, mask=i < n)
    tl.store(out_ptr + 2 * atoms, force_2 / total, mask=i < n)
    tl.store(logsumexp_ptr + head * atoms + first + i, largest + tl.log2(total), mask=i < n)


@triton.jit
def _upstream(d_force_ptr, force_ptr, i, n, atoms):
    """Gradient of the force on atoms i for each axis, and its product with this head's force, which softmax subtracts."""
    d_0 = tl.load(d_force_ptr + i, mask=i < n, other=0.0)
    d_1 = tl.load(d_force_ptr + atoms + i, mask=i < n, other=0.0)
    d_2 = tl.load(d_force_ptr + 2 * atoms + i, mask=i < n, other=0.0)
    delta = d_0 * tl.load(force_ptr + i, mask=i < n, other=0.0)
    delta += d_1 * tl.load(force_ptr + atoms + i, mask=i < n, other=0.0)
    delta += d_2 * tl.load(force_ptr + 2 * atoms + i, mask=i < n, other=0.0)
    return d_0, d_1, d_2, delta


@triton.jit(do_not_specialize=OF_BATCHES)
def forces_backward_rows(
    d_force_ptr,
    force_ptr,
    q_ptr,
    k_ptr,
    value_ptr,
    bias_ptr,
    direction_ptr,
    logsumexp_ptr,
    d_q_ptr,
    d_bias_ptr,
    molecules_ptr,
    tokens_ptr,
    pairs_ptr,
    heads,
    num_atoms,
    num_pairs,
    blocks,
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
    """d_q and d_bias of a block of atoms i."""
    head, block, token, first, n, first_pair = _program(molecules_ptr, tokens_ptr, pairs_ptr, heads, blocks)
    if block * BLOCK >= n:
        return
    i = block * BLOCK + tl.arange(0, BLOCK)
    row = heads * W
    pairs, atoms = num_pairs.to(tl.int64), num_atoms.to(tl.int64)
    q = _rows(q_ptr + first * row + head * W, i, n, row, W, BLOCK_W)
    s_ptr = value_ptr + (first * heads + head) * 3
    u_ptr = direction_ptr + first_pair
    d_0, d_1, d_2, delta = _upstream(d_force_ptr + first, force_ptr + head * 3 * atoms + first, i, n, atoms)
    logsumexp = tl.load(logsumexp_ptr + head * atoms + first + i, mask=i < n, other=float("inf"))
    d_q = tl.zeros([BLOCK, BLOCK_W], dtype=tl.float32)
    for start in tl.range(0, loop_end(n), STEP, disable_licm=True):
        j = start + tl.arange(0, STEP)
        k = _rows(k_ptr + first * row + head * W, j, n, row, W, BLOCK_W)
        logits = dot(q, tl.trans(k), PRECISION) * LOG2_E
        logits += _bias(bias_ptr + head * pairs + first_pair, i[:, None], j[None, :], n)
        p = tl.exp2(logits - logsumexp[:, None])
        d_p = _direction(u_ptr, i[:, None], j[None, :], n) * d_0[:, None] * _value(s_ptr, j, n, heads)[None, :]
        d_p += _direction(u_ptr + pairs, i[:, None], j[None, :], n) * d_1[:, None] * _value(s_ptr + 1, j, n, heads)[None, :]
        d_p += _direction(u_ptr + 2 * pairs, i[:, None], j[None, :], n) * d_2[:, None] * _value(s_ptr + 2, j, n, heads)[None, :]
        if threshold != 0:
            d_p = d_p * keep_factor(seed_low, seed_high, head, token, i[:, None] + 1, j[None, :] + 1, threshold, keep_scale)
        d_logits = p * (d_p - delta[:, None])
        d_bias_places = d_bias_ptr + head * pairs + first_pair + (i[:, None] * n + j[None, :])
        tl.store(d_bias_places, d_logits, mask=(i[:, None] < n) & (j[None, :] < n))
        d_q += dot(d_logits.to(k.dtype), k, PRECISION)
    _store_rows(d_q_ptr + first * row + head * W, d_q, i, n, row, W, BLOCK_W)


@triton.jit(do_not_specialize=OF_BATCHES)
def forces_backward_columns(
    d_force_ptr,
    force_ptr,
    q_ptr,
    k_ptr,
    value_ptr,
    bias_ptr,
    direction_ptr,
    logsumexp_ptr,
    d_k_ptr,
    d_value_ptr,
    molecules_ptr,
    tokens_ptr,
    pairs_ptr,
    heads,
    num_atoms,
    num_pairs,
    blocks,
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
    """d_k and d_value of a block of atoms j; tiles are (j, i), so that d_k needs no transposition."""
    head, block, token, first, n, first_pair = _program(molecules_ptr, tokens_ptr, pairs_ptr, heads, blocks)
    if block * BLOCK >= n:
        return
    j = block * BLOCK + tl.arange(0, BLOCK)
    row = heads * W
    pairs, atoms = num_pairs.to(tl.int64), num_atoms.to(tl.int64)
    k = _rows(k_ptr + first * row + head * W, j, n, row, W, BLOCK_W)
    s_place = (first * heads + head) * 3
    s_0 = _value(value_ptr + s_place, j, n, heads)
    s_1 = _value(value_ptr + s_place + 1, j, n, heads)
    s_2 = _value(value_ptr + s_place + 2, j, n, heads)
    u_ptr = direction_ptr + first_pair
    d_k = tl.zeros([BLOCK, BLOCK_W], dtype=tl.float32)
    d_s_0 = tl.zeros([BLOCK], dtype=tl.float32)
    d_s_1 = tl.zeros([BLOCK], dtype=tl.float32)
    d_s_2 = tl.zeros([BLOCK], dtype=tl.float32)
    for start in tl.range(0, loop_end(n), STEP, disable_licm=True):
        i = start + tl.arange(0, STEP)
        q = _rows(q_ptr + first * row + head * W, i, n, row, W, BLOCK_W)
        d_0, d_1, d_2, delta = _upstream(d_force_ptr + first, force_ptr + head * 3 * atoms + first, i, n, atoms)
        logsumexp = tl.load(logsumexp_ptr + head * atoms + first + i, mask=i < n, other=float("inf"))
        logits = dot(k, tl.trans(q), PRECISION) * LOG2_E
        logits += _bias(bias_ptr + head * pairs + first_pair, i[None, :], j[:, None], n)
        p = tl.exp2(logits - logsumexp[None, :])
        kept = p
        if threshold != 0:
            kept = p * keep_factor(seed_low, seed_high, head, token, i[None, :] + 1, j[:, None] + 1, threshold, keep_scale)
        x = kept * _direction(u_ptr, i[None, :], j[:, None], n) * d_0[None, :]
        y = kept * _direction(u_ptr + pairs, i[None, :], j[:, None], n) * d_1[None, :]
        z = kept * _direction(u_ptr + 2 * pairs, i[None, :], j[:, None], n) * d_2[None, :]
        d_s_0 += tl.sum(x, axis=1)
        d_s_1 += tl.sum(y, axis=1)
        d_s_2 += tl.sum(z, axis=1)
        d_logits = x * s_0[:, None] + y * s_1[:, None] + z * s_2[:, None] - p * delta[None, :]
        d_k += dot(d_logits.to(q.dtype), q, PRECISION)
    _store_rows(d_k_ptr + first * row + head * W, d_k, j, n, row, W, BLOCK_W)
    d_s_ptr = d_value_ptr + s_place + j * (3 * heads)
    tl.store(d_s_ptr, d_s_0.to(d_value_ptr.dtype.element_ty), mask=j < n)
    tl.store(d_s_ptr + 1, d_s_1.to(d_value_ptr.dtype.element_ty), mask=j < n)
    tl.store(d_s_ptr + 2, d_s_2.to(d_value_ptr.dtype.element_ty), mask=j < n)
