"""The distance encoding's two linear layers over the pairs that show a distance: Gaussians are made in registers, tile by tile.

A fixed number of programs loops over tiles of the listed pairs, so that weight gradients are partial sums in a fixed order.
Shape legend: M listed pairs, a tile of R of them, P all pairs, H heads (padded to H_PAD), K Gaussians (padded to K_PAD),
O a chunk of the hidden units, C a chunk of the Gaussians.
"""

import triton
import triton.language as tl

from moleblend_fs.ops.relation_bias.kernels_atoms import load_gaussians, standardise

INV_SQRT_2: tl.constexpr = tl.constexpr(0.7071067811865476)
INV_SQRT_2PI: tl.constexpr = tl.constexpr(0.3989422804014327)


@triton.jit
def hidden_inputs(x, means, stds, weight1, bias1, o, K: tl.constexpr, K_PAD: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr):
    """Inputs of hidden units o before GELU, (R, O): the Gaussians come chunk by chunk, so that few registers are needed."""
    c = tl.arange(0, CHUNK)
    hidden_RO = tl.zeros([x.shape[0], o.shape[0]], tl.float32)
    for start in range(0, K_PAD, CHUNK):
        k = start + c
        mean, inverse = load_gaussians(means, stds, k, K)
        _, density_RC = standardise(x, mean, inverse)
        weight_CO = tl.load(weight1 + o[None, :] * K + k[:, None], mask=(o < K)[None, :] & (k < K)[:, None], other=0.0)
        hidden_RO = tl.dot(density_RC, weight_CO, hidden_RO, input_precision=PRECISION)
    return hidden_RO + tl.load(bias1 + o, mask=o < K, other=0.0)[None, :]


@triton.jit
def hidden_gradients(
    d_out_RH, hidden_RO, cdf_RO, weight2, o, K: tl.constexpr, H: tl.constexpr, H_PAD: tl.constexpr, PRECISION: tl.constexpr
):
    """Gradients of what `hidden_inputs` gives, (R, O)."""
    h = tl.arange(0, H_PAD)
    weight_HO = tl.load(weight2 + h[:, None] * K + o[None, :], mask=(h < H)[:, None] & (o < K)[None, :], other=0.0)
    d_activation_RO = tl.dot(d_out_RH, weight_HO, input_precision=PRECISION)
    return d_activation_RO * (cdf_RO + hidden_RO * tl.exp(-0.5 * hidden_RO * hidden_RO) * INV_SQRT_2PI)


@triton.jit
def load_bias_gradients(d_bias_HP, pair, valid, num_pairs, H: tl.constexpr, H_PAD: tl.constexpr):
    """d_bias of some pairs, (R, H)."""
    h = tl.arange(0, H_PAD)
    at = d_bias_HP + h[None, :].to(tl.int64) * num_pairs + pair[:, None]
    return tl.load(at, mask=valid[:, None] & (h < H)[None, :], other=0.0)


@triton.jit(do_not_specialize=["num_pairs"])
def add_distance_bias(
    bias_HP,
    pair_M,
    x_M,
    count,
    means,
    stds,
    weight1,
    bias1,
    weight2,
    bias2,
    num_pairs,
    K: tl.constexpr,
    H: tl.constexpr,
    K_PAD: tl.constexpr,
    H_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    HIDDEN: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """bias += Linear(GELU(Linear(Gaussians(x)))) for the listed pairs."""
    num_listed = tl.load(count)
    h = tl.arange(0, H_PAD)
    tile = tl.program_id(0)
    while tile < tl.cdiv(num_listed, BLOCK):
        m = tile * BLOCK + tl.arange(0, BLOCK)
        valid = m < num_listed
        x = tl.load(x_M + m, mask=valid, other=0.0)
        out_RH = tl.zeros([BLOCK, H_PAD], tl.float32)
        for start in range(0, K_PAD, HIDDEN):
            o = start + tl.arange(0, HIDDEN)
            hidden_RO = hidden_inputs(x, means, stds, weight1, bias1, o, K, K_PAD, CHUNK, PRECISION)
            activation_RO = hidden_RO * (0.5 + 0.5 * tl.erf(hidden_RO * INV_SQRT_2))
            weight_OH = tl.load(weight2 + h[None, :] * K + o[:, None], mask=(h < H)[None, :] & (o < K)[:, None], other=0.0)
            out_RH = tl.dot(activation_RO, weight_OH, out_RH, input_precision=PRECISION)
        out_RH += tl.load(bias2 + h, mask=h < H, other=0.0)[None, :]
        at = bias_HP + h[None, :].to(tl.int64) * num_pairs + tl.load(pair_M + m, mask=valid, other=0)[:, None]
        mask = valid[:, None] & (h < H)[None, :]
        tl.store(at, tl.load(at, mask=mask, other=0.0) + out_RH, mask=mask)
        tile += tl.num_programs(0)


@triton.jit(do_not_specialize=["num_pairs"])
def distance_gradients(
    d_bias_HP,
    pair_M,
    x_M,
    count,
    means,
    stds,
    weight1,
    bias1,
    weight2,
    d_x_P,
    partial,
    num_pairs,
    K: tl.constexpr,
    H: tl.constexpr,
    K_PAD: tl.constexpr,
    H_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    HIDDEN: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The gradient of each listed pair's x, and sums for the Gaussians' own, as in `sum_gaussians_gradients`; (programs, 2, K_PAD)."""
    num_listed = tl.load(count)
    k = tl.arange(0, K_PAD)
    first_K = tl.zeros([K_PAD], tl.float32)
    second_K = tl.zeros([K_PAD], tl.float32)
    tile = tl.program_id(0)
    while tile < tl.cdiv(num_listed, BLOCK):
        m = tile * BLOCK + tl.arange(0, BLOCK)
        valid = m < num_listed
        x = tl.load(x_M + m, mask=valid, other=0.0)
        pair = tl.load(pair_M + m, mask=valid, other=0)
        d_out_RH = load_bias_gradients(d_bias_HP, pair, valid, num_pairs, H, H_PAD)
        e_RK = tl.zeros([BLOCK, K_PAD], tl.float32)
        for start in range(0, K_PAD, HIDDEN):
            o = start + tl.arange(0, HIDDEN)
            hidden_RO = hidden_inputs(x, means, stds, weight1, bias1, o, K, K_PAD, CHUNK, PRECISION)
            cdf_RO = 0.5 + 0.5 * tl.erf(hidden_RO * INV_SQRT_2)
            d_hidden_RO = hidden_gradients(d_out_RH, hidden_RO, cdf_RO, weight2, o, K, H, H_PAD, PRECISION)
            weight_OK = tl.load(weight1 + o[:, None] * K + k[None, :], mask=(o < K)[:, None] & (k < K)[None, :], other=0.0)
            e_RK = tl.dot(d_hidden_RO, weight_OK, e_RK, input_precision=PRECISION)
        mean, inverse = load_gaussians(means, stds, k, K)
        u_RK, density_RK = standardise(x, mean, inverse)
        e_RK *= density_RK
        first_K += tl.sum(e_RK * u_RK, 0)
        second_K += tl.sum(e_RK * (u_RK * u_RK - 1.0), 0)
        tl.store(d_x_P + pair, -tl.sum(e_RK * u_RK * inverse[None, :], 1), mask=valid)
        tile += tl.num_programs(0)
    into = partial + tl.program_id(0) * 2 * K_PAD + k
    tl.store(into, first_K)
    tl.store(into + K_PAD, second_K)


@triton.jit(do_not_specialize=["num_pairs"])
def weight_gradients(
    d_bias_HP,
    pair_M,
    x_M,
    count,
    means,
    stds,
    weight1,
    bias1,
    weight2,
    partial1,
    partial2,
    partial_bias1,
    partial_bias2,
    num_pairs,
    K: tl.constexpr,
    H: tl.constexpr,
    K_PAD: tl.constexpr,
    H_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    HIDDEN: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Partial sums of the linear layers' gradients; each program has some of the hidden units.

    Partial sums: (programs, K_PAD, K_PAD), (programs, H_PAD, K_PAD), (programs, K_PAD), and (programs, K_PAD // HIDDEN, H_PAD).
    """
    num_listed = tl.load(count)
    k = tl.arange(0, K_PAD)
    h = tl.arange(0, H_PAD)
    o = tl.program_id(0) * HIDDEN + tl.arange(0, HIDDEN)
    d_weight1_OK = tl.zeros([HIDDEN, K_PAD], tl.float32)
    d_weight2_HO = tl.zeros([H_PAD, HIDDEN], tl.float32)
    d_bias1_O = tl.zeros([HIDDEN], tl.float32)
    d_bias2_H = tl.zeros([H_PAD], tl.float32)
    tile = tl.program_id(1)
    while tile < tl.cdiv(num_listed, BLOCK):
        m = tile * BLOCK + tl.arange(0, BLOCK)
        valid = m < num_listed
        x = tl.load(x_M + m, mask=valid, other=0.0)
        pair = tl.load(pair_M + m, mask=valid, other=0)
        d_out_RH = load_bias_gradients(d_bias_HP, pair, valid, num_pairs, H, H_PAD)
        hidden_RO = hidden_inputs(x, means, stds, weight1, bias1, o, K, K_PAD, CHUNK, PRECISION)
        cdf_RO = 0.5 + 0.5 * tl.erf(hidden_RO * INV_SQRT_2)
        d_hidden_RO = hidden_gradients(d_out_RH, hidden_RO, cdf_RO, weight2, o, K, H, H_PAD, PRECISION)
        d_weight2_HO = tl.dot(tl.trans(d_out_RH), hidden_RO * cdf_RO, d_weight2_HO, input_precision=PRECISION)
        d_bias1_O += tl.sum(d_hidden_RO, 0)
        d_bias2_H += tl.sum(d_out_RH, 0)
        mean, inverse = load_gaussians(means, stds, k, K)
        _, density_RK = standardise(x, mean, inverse)
        d_weight1_OK = tl.dot(tl.trans(d_hidden_RO), density_RK, d_weight1_OK, input_precision=PRECISION)
        tile += tl.num_programs(1)
    program = tl.program_id(1)
    tl.store(partial1 + program * K_PAD * K_PAD + o[:, None] * K_PAD + k[None, :], d_weight1_OK)
    tl.store(partial2 + program * H_PAD * K_PAD + h[:, None] * K_PAD + o[None, :], d_weight2_HO)
    tl.store(partial_bias1 + program * K_PAD + o, d_bias1_O)
    tl.store(partial_bias2 + (program * tl.num_programs(0) + tl.program_id(0)) * H_PAD + h, d_bias2_H)
