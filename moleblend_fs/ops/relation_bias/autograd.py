"""relation_bias by Triton kernels; the same as `reference`.

Forward: `look_up` writes the SPD and edge part of every pair's bias; `list_distances` lists the pairs that show a distance, on the
device; `add_distance_bias` works through that list, or `add_from_table` does with a table of few points (`table`); `sum_gaussians` gives
the atoms' sums. Backward recomputes the Gaussians and the hidden layer: per pair, only its place in the list and its x are kept. All sums
over pairs are made in an order that is fixed by the batch and the device, without atomics.

Shape legend: A atoms, P ordered pairs, H heads, K Gaussians, M the pairs that show a distance.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from moleblend_fs.ops.kernel_common import tf32_allowed
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias.launch import relation_bias_backward, relation_bias_forward
from moleblend_fs.ops.relation_bias.weights import RelationWeights

MAX_GAUSSIANS, MAX_HEADS, MAX_CLASSES = 256, 128, 64
"""Sizes that the kernels compile for; beyond the shipped ones, some of them spill registers and are slow."""


def precision(model: torch.dtype = torch.float32) -> str:
    """`input_precision` of float32 products: TF32 where torch's own may use it or the model is in half precision, which has no more bits;
    else three TF32 products, which keep float32's accuracy.

    "ieee" would leave the matrix units unused: some ten times slower.
    """
    return "tf32" if tf32_allowed() or model in (torch.bfloat16, torch.float16) else "tf32x3"


def relation_bias(
    shown_P: Tensor,
    spd_P: Tensor,
    path_P5: Tensor,
    atom_distance_A: Tensor,
    coordinates_A3: Tensor,
    element_A: Tensor,
    weights: Sequence[Tensor],
    layout: Layout,
    model: torch.dtype = torch.float32,
    points: int = 0,
) -> tuple[Tensor, Tensor]:
    """Attention bias of what each pair shows, and the sums of Gaussians of the atoms that want them.

    Args:
        shown_P, spd_P, path_P5: uint8.
        atom_distance_A: bool.
        coordinates_A3: Angstrom; no gradient goes to them.
        element_A: the atomic-number feature, below 256.
        weights: spd_table (512, H), hop_table (5, classes, H), mul and shift (3 * 512,), means and stds (K,), weight1 (K, K), bias1,
            weight2 (H, K), bias2; half precision is converted to float32.
        model: what the model's own products are computed in, see `precision`.
        points: of the table that the distance encoding is read from where that is good enough, see `table`; 0 computes every pair.

    Returns:
        The bias (P, H), a view of (H, P), and the sums (A, K); float32.

    Raises:
        ValueError: for shapes or types that the kernels are not made for.
    """
    obstacle = unsupported(weights)
    if obstacle:
        raise ValueError(f"{obstacle}; --ops relation_bias=reference runs plain torch instead")
    result: tuple[Tensor, Tensor] = RelationBias.apply(
        precision(model),
        points,
        shown_P.contiguous(),
        spd_P.contiguous(),
        path_P5.contiguous(),
        atom_distance_A.contiguous().view(torch.uint8),
        coordinates_A3.detach().float().contiguous(),
        element_A.to(torch.uint8).contiguous(),
        layout.atom_molecule,
        layout.cu_atoms,
        layout.cu_pairs,
        *(weight.float().contiguous() for weight in weights),
    )
    return result


def unsupported(weights: Sequence[Tensor]) -> str | None:
    """Why the kernels cannot take these weights; None if they can."""
    named = RelationWeights(*weights)
    heads, gaussians, classes = named.spd_table.shape[1], len(named.means), named.hop_table.shape[1]
    sizes = (("attention heads", heads, MAX_HEADS), ("Gaussians", gaussians, MAX_GAUSSIANS), ("bond classes", classes, MAX_CLASSES))
    for what, size, limit in sizes:
        if size > limit:
            return f"the relation_bias kernels handle at most {limit} {what}, got {size}"
    if any(weight.dtype == torch.float64 for weight in weights):
        return "the relation_bias kernels compute in float32, got float64 weights"
    return None


def in_groups(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Six inputs, three places of the layout, the weights, and what comes after these."""
    rest = iter(tensors)
    return [*(list(itertools.islice(rest, count)) for count in (6, 3, len(RelationWeights._fields))), list(rest)]


class RelationBias(torch.autograd.Function):
    """Autograd around the two custom ops; tensors: see `in_groups`."""

    @staticmethod
    def forward(ctx: Any, products: str, points: int, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        inputs, places, weights, _ = in_groups(tensors)
        bias_HP, sums_AK, *listed = relation_bias_forward(*inputs, weights, *places, products, points)
        ctx.save_for_backward(*tensors, *listed)
        ctx.products = products
        ctx.set_materialize_grads(False)
        return bias_HP.t(), sums_AK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_bias_PH: Tensor | None, d_sums_AK: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs, places, weights, listed = in_groups(ctx.saved_tensors)
        d_bias_HP = None if d_bias_PH is None else d_bias_PH.t().float().contiguous()
        d_sums_AK = None if d_sums_AK is None else d_sums_AK.float().contiguous()
        pair_M, x_M, count, *table = listed
        gradients = relation_bias_backward(d_bias_HP, d_sums_AK, *inputs, weights, *places, pair_M, x_M, count, table, ctx.products)
        return *[None] * 11, *gradients
