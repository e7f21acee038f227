"""Attention over atoms weighted by unit displacements, by Triton kernels: the same as `reference`.

    force_ia = sum_hj softmax_j(q_hi . k_hj + bias_hij) u_ija s_hja

Shape legend: A atoms, P atom pairs, B molecules, H heads, w head width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from moleblend_fs.ops.atom_forces.kernels import forces_backward_columns, forces_backward_rows, forces_forward
from moleblend_fs.ops.atom_forces.kernels_directions import pair_directions
from moleblend_fs.ops.attention.kernel_parts import draw_seed, dropout_scale, dropout_threshold
from moleblend_fs.ops.kernel_common import cdiv, dot_precision, kernel_op, padded
from moleblend_fs.ops.layout import Layout

STEP = 16
"""Atoms that a program holds, and that it goes through at a time."""
WARPS = {"ieee": 1, "tf32": 2}
"""Kind of products -> warps of a program. A warp takes 16 rows; TF32 takes more. Programs of 32 rows and two warps took 1.2 times as long
on an H100."""


def constants_of(dtype: torch.dtype, width: int) -> dict[str, Any]:
    return {"W": width, "BLOCK": STEP, "STEP": STEP, "BLOCK_W": padded(width), "PRECISION": dot_precision(dtype)}


def _run(kernel: Any, q: Tensor, members: Tensor, capacity: int, data: Sequence[Any], counts: Sequence[Any], random: Sequence[Any]):
    _, heads, width = q.shape
    blocks = cdiv(capacity - 1, STEP)
    options = {**constants_of(q.dtype, width), "num_warps": WARPS[dot_precision(q.dtype)], "num_stages": 1}
    kernel[(len(members) * heads * blocks,)](*data, members, *counts, blocks, *random, **options)


@kernel_op("moleblend::atom_forces_forward")
def forward(
    q: Tensor,
    k: Tensor,
    value: Tensor,
    bias: Tensor,
    coordinates: Tensor,
    atom_molecule: Tensor,
    tokens: Tensor,
    pairs: Tensor,
    molecules: Sequence[Tensor],
    capacities: Sequence[int],
    dropout: float,
    seed_low: int,
    seed_high: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Force of each head (H, 3, A), log2 of the sum of each row's exponentials (H, A), and the directions (3, P); float32."""
    A, heads, _ = q.shape
    force, logsumexp, direction = bias.new_empty(heads, 3, A), bias.new_empty(heads, A), bias.new_empty(3, bias.shape[1])
    pair_directions[(A,)](coordinates, direction, atom_molecule, tokens, pairs, bias.shape[1], STEP=STEP, num_warps=1)
    random = (seed_low, seed_high, dropout_threshold(dropout), dropout_scale(dropout))
    for members, capacity in zip(molecules, capacities, strict=True):
        counts = (tokens, pairs, heads, A, bias.shape[1])
        _run(forces_forward, q, members, capacity, (q, k, value, bias, direction, force, logsumexp), counts, random)
    return force, logsumexp, direction


@forward.register_fake
def _(q, k, value, bias, coordinates, atom_molecule, tokens, pairs, molecules, capacities, dropout, seed_low, seed_high):
    A, heads, _ = q.shape
    return bias.new_empty(heads, 3, A), bias.new_empty(heads, A), bias.new_empty(3, bias.shape[1])


@kernel_op("moleblend::atom_forces_backward")
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
    random = (seed_low, seed_high, dropout_threshold(dropout), dropout_scale(dropout))
    given = (d_force, force, q, k, value, bias, direction, logsumexp)
    for members, capacity in zip(molecules, capacities, strict=True):
        counts = (tokens, pairs, heads, A, bias.shape[1])
        _run(forces_backward_rows, q, members, capacity, (*given, d_q, d_bias), counts, random)
        _run(forces_backward_columns, q, members, capacity, (*given, d_k, d_value), counts, random)
    return d_q, d_k, d_value, d_bias


@backward.register_fake
def _(d_force, force, logsumexp, q, k, value, bias, direction, tokens, pairs, molecules, capacities, dropout, seed_low, seed_high):
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(value), torch.empty_like(bias)


class AtomForces(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q_AHw, k_AHw, value_AH3, bias_PH, coordinates_A3, layout, dropout, seed):
        bias_HP, coordinates_A3 = (x.to(torch.float32).contiguous() for x in (bias_PH.t(), coordinates_A3))
        given = (q_AHw.contiguous(), k_AHw.to(q_AHw.dtype).contiguous(), value_AH3.to(q_AHw.dtype).contiguous(), bias_HP)
        ctx.layout, ctx.random, ctx.dtypes = layout, (dropout, *seed), (q_AHw.dtype, k_AHw.dtype, value_AH3.dtype, bias_PH.dtype)
        where = (layout.atom_molecule, *_where(layout))
        force_H3A, logsumexp, direction_3P = forward(*given, coordinates_A3, *where, *ctx.random)
        ctx.save_for_backward(force_H3A, logsumexp, *given, direction_3P)
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
    q_AHw: Tensor, k_AHw: Tensor, value_AH3: Tensor, bias_PH: Tensor, coordinates_A3: Tensor, layout: Layout, dropout: float
) -> Tensor:
    """Forces (A, 3), float32.

    Args:
        q_AHw: queries (scaled). k_AHw: keys. value_AH3: s.
        bias_PH: the encoder's bias; a view of a contiguous (H, P) float32 tensor is read where it is.
        coordinates_A3: r, which get no gradient.
        dropout: probability of dropping an attention weight.
    """
    seed = draw_seed() if dropout > 0 else (0, 0)
    return AtomForces.apply(q_AHw, k_AHw, value_AH3, bias_PH, coordinates_A3.detach(), layout, dropout, seed)
