"""Attention bias of the relations that each pair shows, and the atoms' 3D features.

The three encodings (SPD, edge, distance) are those of Graphormer (Ying et al. 2021) and Transformer-M (Luo et al. 2023).
Shape legend: A atoms, P pairs, H heads, K Gaussians.
"""

import torch
from torch import Tensor

from moleblend_fs.ops.dispatch import uses_triton
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias.reference import LookedUpBias, distance_bias
from moleblend_fs.ops.relation_bias.weights import SHOW_DISTANCE, SHOW_EDGE, SHOW_SPD, DistanceWeights, RelationWeights

__all__ = ["SHOW_DISTANCE", "SHOW_EDGE", "SHOW_SPD", "DistanceWeights", "RelationWeights", "relation_bias"]

HALVES = (torch.bfloat16, torch.float16)


def relation_bias(
    shown_P: Tensor,
    spd_P: Tensor,
    path_P5: Tensor,
    atom_distance_A: Tensor,
    coordinates_A3: Tensor,
    element_A: Tensor,
    weights: RelationWeights,
    layout: Layout,
    distances_P: Tensor | None = None,
    model: torch.dtype = torch.float32,
    table: int = 0,
) -> tuple[Tensor, Tensor]:
    """The bias of every pair, (P, H): the sum of the encodings that it shows; and the atoms' Gaussian sums, (A, K).

    Args:
        shown_P: uint8, bits of `SHOW_SPD` and the others.
        spd_P, path_P5: shortest path distances and bond classes along the paths, as in the records.
        atom_distance_A: (A,) bool, atoms whose 3D feature is asked for.
        coordinates_A3: Angstrom, noise included.
        element_A: the atomic-number feature.
        distances_P: Angstrom, in place of those between the coordinates; plain torch encodes them, on GPUs too.
        model: what the model's own products are computed in: in half precision the kernels' are in TF32. Bias and weights are float32.
        table: points of the table that the kernels read the distance encoding from in half precision, where there are more pairs than
            points and the table is good enough (`relation_bias.table`); 0 computes every pair.
    """
    if distances_P is not None:
        nowhere = atom_distance_A & ~atom_distance_A
        tables = shown_P & (SHOW_SPD | SHOW_EDGE)
        bias, _ = relation_bias(tables, spd_P, path_P5, nowhere, coordinates_A3, element_A, weights, layout, model=model)
        return distance_bias(bias, shown_P, atom_distance_A, coordinates_A3, element_A, weights.distance, layout, distances_P)
    dtype = model if weights.mul.dtype == torch.float32 else weights.mul.dtype
    if uses_triton("relation_bias", shown_P.device, dtype, (weights.spd_table.shape[1], len(weights.means))):
        from moleblend_fs.ops.relation_bias import autograd

        points = table if dtype in HALVES and len(shown_P) > table else 0
        return autograd.relation_bias(shown_P, spd_P, path_P5, atom_distance_A, coordinates_A3, element_A, weights, layout, model, points)
    bias = LookedUpBias.apply(shown_P, spd_P, path_P5, weights.spd_table, weights.hop_table)
    return distance_bias(bias, shown_P, atom_distance_A, coordinates_A3, element_A, weights.distance, layout)
