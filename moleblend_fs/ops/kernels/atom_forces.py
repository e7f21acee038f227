"""Attention over atoms weighted by unit displacements, by Triton kernels: the same as `ops.attention.atom_forces`.

    force_ia = sum_hj softmax_j(q_hi . k_hj + bias_hij) u_ija s_hja

Shape legend: A atoms, P atom pairs, B molecules, H heads, w head width.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from moleblend_fs.ops.kernels.atom_forces_parts import forces_backward_columns, forces_backward_rows, forces_forward
from moleblend_fs.ops.kernels.attention_parts import PRESET_WIDTHS, draw_seed, dropout_keep, dropout_threshold
from moleblend_fs.ops.kernels.common import TRITON_TYPES, Variant, dot_precision, dot_precisions
from moleblend_fs.ops.layout import Layout

# One head of the model calls this once a step: one shape for all molecules. A warp takes 16 rows; TF32 needs more registers.
BLOCK, STEP, WARPS = 32, 16, {"ieee": 2, "tf32": 4}


def _constants(dtype: torch.dtype, width: int) -> dict[str, Any]:
    block_w = max(16, triton.next_power_of_2(width))
    return {"W": width, "BLOCK": BLOCK, "STEP": STEP, "BLOCK_W": block_w, "PRECISION": dot_precision(dtype)}


def _run(kernel: Any, q: Tensor, members: Tensor, capacity: int, data: Sequence[Any], counts: Sequence[Any], random: Sequence[Any]):
    _, heads, width = q.shape
    blocks = triton.cdiv(capacity - 1, BLOCK)
    options = {**_constants(q.dtype, width), "num_warps": WARPS[dot_precision(q.dtype)], "num_stages": 1}
    kernel[(len(members) * heads * blocks,)](*data, members, *counts, blocks, *random, **options)


@torch.library.custom_op("moleblend::atom_forces_forward", mutates_args=())
def forward(
    q: Tensor,
    k: Tensor,
    value: Tensor,
    bias: Tensor,
    direction: Tensor,
    tokens: Tensor,
    pairs: Tensor,
    molecules: Sequence[Tensor],
    capacities: Sequence[int],
    dropout: float,
    seed_low: int,
    seed_high: int,
) -> tuple[Tensor, Tensor]:
    """Force of each head (H, 3, A) and log2 of the sum of each row's exponentials (H, A), float32."""
    A, heads, _ = q.shape
    force, logsumexp = bias.new_empty(heads, 3, A), bias.new_empty(heads, A)
    random = (seed_low, seed_high, dropout_threshold(dropout), 1 / (1 - dropout))
    for members, capacity in zip(molecules, capacities, strict=True):
        counts = (tokens, pairs, heads, A, bias.shape[1])
        _run(forces_forward, q, members, capacity, (q, k, value, bias, direction, force, logsumexp), counts, random)
    return force, logsumexp


@forward.register_fake
def _(q, k, value, bias, direction, tokens, pairs, molecules, capacities, dropout, seed_low, seed_high):
    return bias.new_empty(q.shape[1], 3, q.shape[0]), bias.new_empty(q.shape[1], q.shape[0])


@torch.library.custom_op("moleblend::atom_forces_backward", mutates_args=())
def backward(
    d_force: Tensor,
    force: Tensor,
    logsumexp: Tensor,
    q: Tensor,
    k: Tensor,
    value: Tensor,
    bias: Tensor,
    direction: Tensor,
    tokens: Tensor,
    pairs: Tensor,
    molecules: Sequence[Tensor],
    capacities: Sequence[int],
    dropout: float,
    seed_low: int,
    seed_high: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, value and bias; that of the force is (3, A)."""
    A, heads, _ = q.shape
    d_q, d_k, d_value, d_bias = (torch.empty_like(x) for x in (q, k, value, bias))
    random = (seed_low, seed_high, dropout_threshold(dropout), 1 / (1 - dropout))
    given = (d_force, force, q, k, value, bias, direction, logsumexp)
    for members, capacity in zip(molecules, capacities, strict=True):
        counts = (tokens, pairs, heads, A, bias.shape[1])
        _run(forces_backward_rows, q, members, capacity, (*given, d_q, d_bias), counts, random)
        _run(forces_backward_columns, q, members, capacity, (*given, d_k, d_value), counts, random)
    return d_q, d_k, d_value, d_bias


@backward.register_fake
def _(d_force, force, logsumexp, q, k, value, bias, direction, tokens, pairs, molecules, capacities, dropout, seed_low, seed_high):
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(value), torch.empty_like(bias)


class _AtomForces(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q_AHw, k_AHw, value_AH3, bias_PH, direction_P3, layout, dropout, seed):
        bias_HP, direction_3P = bias_PH.t().to(torch.float32).contiguous(), direction_P3.t().to(torch.float32).contiguous()
        given = (q_AHw.contiguous(), k_AHw.to(q_AHw.dtype).contiguous(), value_AH3.to(q_AHw.dtype).contiguous(), bias_HP, direction_3P)
        ctx.layout, ctx.random, ctx.dtypes = layout, (dropout, *seed), (q_AHw.dtype, k_AHw.dtype, value_AH3.dtype, bias_PH.dtype)
        force_H3A, logsumexp = forward(*given, *_where(layout), *ctx.random)
        ctx.save_for_backward(force_H3A, logsumexp, *given)
        return force_H3A.sum(dim=0).t()

    @staticmethod
    @once_differentiable
    def backward(ctx, d_force_A3):
        d_force_3A = d_force_A3.t().to(torch.float32).contiguous()
        d_q, d_k, d_value, d_bias_HP = backward(d_force_3A, *ctx.saved_tensors, *_where(ctx.layout), *ctx.random)
        gradients = (d_q, d_k, d_value, d_bias_HP.t())
        return *(x.to(dtype) for x, dtype in zip(gradients, ctx.dtypes, strict=True)), None, None, None, None


def _where(layout: Layout) -> tuple[Tensor, Tensor, list[Tensor], list[int]]:
    classes = layout.size_classes
    return layout.cu_tokens, layout.cu_pairs, [c.molecules for c in classes], [c.capacity for c in classes]


def atom_forces(
    q_AHw: Tensor, k_AHw: Tensor, value_AH3: Tensor, bias_PH: Tensor, direction_P3: Tensor, layout: Layout, dropout: float
) -> Tensor:
    """Forces (A, 3), float32.

    Args:
        q_AHw: queries (scaled). k_AHw: keys. value_AH3: s.
        bias_PH: the encoder's bias; a view of a contiguous (H, P) float32 tensor is read where it is.
        direction_P3: u, which gets no gradient.
        dropout: probability of dropping an attention weight.
    """
    seed = draw_seed() if dropout > 0 else (0, 0)
    return _AtomForces.apply(q_AHw, k_AHw, value_AH3, bias_PH, direction_P3.detach(), layout, dropout, seed)


def dense_forces(
    q_AHw: Tensor,
    k_AHw: Tensor,
    value_AH3: Tensor,
    bias_PH: Tensor,
    direction_P3: Tensor,
    layout: Layout,
    keep: Sequence[Tensor] | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """What the kernels compute, one molecule at a time in plain torch, to test them: (A, 3).

    Args:
        keep: `dropout_keep`, of tokens; None keeps all weights.
    """
    outputs = []
    for number, n in enumerate(layout.sizes.tolist()):
        atoms = slice(int(layout.atom_starts[number]), int(layout.atom_starts[number]) + n)
        pairs = slice(int(layout.pair_starts[number]), int(layout.pair_starts[number]) + n * n)
        logits = torch.einsum("ihw,jhw->hij", q_AHw[atoms], k_AHw[atoms]) + bias_PH[pairs].view(n, n, -1).permute(2, 0, 1)
        weights = torch.softmax(logits, dim=2)
        if keep is not None:
            weights = weights * keep[number][:, 1:, 1:] / (1 - dropout)
        outputs.append(torch.einsum("hij,ija,jha->ia", weights, direction_P3[pairs].view(n, n, 3), value_AH3[atoms]))
    return torch.cat(outputs)


def self_test(device: torch.device) -> None:
    """Compare the kernels with `dense_forces` on a device, in float32, with dropout.

    Raises:
        RuntimeError: if output or a gradient is off by more than rounding can explain, with the figures.
    """
    random = torch.Generator().manual_seed(0)
    layout, heads, width, dropout, seed = Layout(torch.tensor([1, 9, 40]), device), 2, 24, 0.2, (123, -45)
    A, P = layout.num_total_atoms, layout.num_pairs
    shapes = ((A, heads, width), (A, heads, width), (A, heads, 3), (P, heads), (P, 3), (A, 3))
    with torch.enable_grad():
        *given, direction, upstream = (torch.randn(shape, generator=random).to(device) for shape in shapes)
        ours_in = [x.requires_grad_() for x in (0.3 * given[0], *given[1:])]
        exact = [x.detach().double().requires_grad_() for x in ours_in]
        ours = _AtomForces.apply(*ours_in, direction, layout, dropout, seed)
        keep = dropout_keep(seed, layout, heads, dropout)
        theirs = dense_forces(exact[0], exact[1], exact[2], exact[3], direction.double(), layout, keep, dropout)
        ours_d = torch.autograd.grad(ours, ours_in, upstream)
        theirs_d = torch.autograd.grad(theirs, exact, upstream.double())
    tolerance = 1e-2 if torch.backends.cuda.matmul.allow_tf32 else 1e-4
    names = ("forces", "d q", "d k", "d value", "d bias")
    errors = {
        name: float((a.detach().double() - b.detach()).abs().max() / b.detach().abs().max())
        for name, a, b in zip(names, (ours, *ours_d), (theirs, *theirs_d), strict=True)
    }
    if not max(errors.values()) <= tolerance:
        figures = ", ".join(f"{name} {error:.2g}" for name, error in errors.items())
        raise RuntimeError(f"atom_forces kernels on {device} are off by more than {tolerance:g} of the largest value: {figures}")


def variants() -> list[Variant]:
    """All configurations that can be launched at the presets' head widths."""
    found = []
    for (dtype, short), width in itertools.product(TRITON_TYPES.items(), PRESET_WIDTHS):
        kernels = (forces_forward, forces_backward_rows, forces_backward_columns)
        for kernel, products in itertools.product(kernels, dot_precisions(dtype)):
            constants = {**_constants(dtype, width), "PRECISION": products}
            signature = {name: _type(name, short) for name in kernel.arg_names if name not in constants}
            numbers = short if products == "ieee" else products
            found.append(Variant(f"atom_{kernel.__name__}/{numbers}/{BLOCK}x{width}", kernel, signature, constants, WARPS[products], 1))
    return found


def _type(argument: str, dtype: str) -> str:
    if argument.removeprefix("d_") in ("q_ptr", "k_ptr", "value_ptr"):
        return f"*{dtype}"
    if argument in ("tokens_ptr", "pairs_ptr"):
        return "*i64"
    if argument == "molecules_ptr":
        return "*i32"
    return "*fp32" if argument.endswith("_ptr") else "fp32" if argument == "keep_scale" else "i32"
