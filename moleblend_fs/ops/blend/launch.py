"""The custom op of the blend, and how its kernel is launched."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from moleblend_fs.data.graph import MAX_HOPS
from moleblend_fs.ops.blend import TALLIES, Blend, Rules
from moleblend_fs.ops.blend.kernels import blend_molecules
from moleblend_fs.ops.constants import constant
from moleblend_fs.ops.kernel_common import kernel_op
from moleblend_fs.ops.layout import Layout

BLOCK, ATOMS, WARPS = 128, 32, 4
"""Pairs and atoms that a program goes through at a time, and its warps: PCQM4Mv2's molecules have 225 pairs on average."""


@kernel_op("moleblend::blend")
def blend_op(
    molecule_id_B: Tensor,
    has_coordinates_B: Tensor,
    cu_atoms: Tensor,
    cu_pairs: Tensor,
    spd_P: Tensor,
    path_P5: Tensor,
    coordinates_A3: Tensor,
    edge_class: Tensor,
    limits: Tensor,
    numbers: Tensor,
    keys: Sequence[int],
    hidden_only: bool,
) -> list[Tensor]:
    """The fields of `Blend`, in their order; flags are uint8, tallies those of each molecule."""
    made = _empty(molecule_id_B, spd_P, coordinates_A3)
    given = (molecule_id_B, has_coordinates_B, cu_atoms, cu_pairs, spd_P, path_P5, coordinates_A3, edge_class, limits, numbers)
    signed = [key - (1 << 32) if key >= 1 << 31 else key for key in keys]
    sizes = {"HIDDEN_ONLY": hidden_only, "BLOCK": BLOCK, "ATOMS": ATOMS}
    blend_molecules[(len(molecule_id_B),)](*given, *made, *signed, **sizes, num_warps=WARPS, num_stages=1)
    return made


@blend_op.register_fake
def _(molecule_id_B, has_coordinates_B, cu_atoms, cu_pairs, spd_P, path_P5, coordinates_A3, *others):
    return _empty(molecule_id_B, spd_P, coordinates_A3)


def _empty(molecule_id_B: Tensor, spd_P: Tensor, coordinates_A3: Tensor) -> list[Tensor]:
    new, pairs, atoms = spd_P.new_empty, spd_P.shape[0], coordinates_A3.shape[0]
    return [
        new(pairs, dtype=torch.uint8),
        new(atoms, dtype=torch.uint8),
        new(atoms, 3, dtype=torch.float32),
        new(atoms, 3, dtype=torch.float32),
        new(pairs, dtype=torch.int8),
        new(pairs, MAX_HOPS, dtype=torch.int8),
        new(pairs, 3, dtype=torch.float32),
        new(pairs, dtype=torch.float32),
        new(atoms, dtype=torch.uint8),
        new(molecule_id_B.shape[0], TALLIES, dtype=torch.int32),
    ]


@torch.no_grad()
def blend(
    molecule_id_B: Tensor, has_coordinates_B: Tensor, spd_P: Tensor, path_P5: Tensor, coordinates_A3: Tensor, layout: Layout, rules: Rules
) -> Blend:
    """The blend of a batch.

    Args:
        molecule_id_B: int64. has_coordinates_B: bool. spd_P, path_P5: uint8. coordinates_A3: float32, Angstrom.
    """
    device = spd_P.device
    made = blend_op(
        molecule_id_B.contiguous(),
        has_coordinates_B.contiguous().view(torch.uint8),
        layout.cu_atoms,
        layout.cu_pairs,
        spd_P.contiguous(),
        path_P5.contiguous(),
        coordinates_A3.float().contiguous(),
        constant(rules.edge_class, torch.int8, device),
        constant(rules.limits, torch.int64, device),
        constant((rules.noise_scale, 2 * math.pi), torch.float64, device),
        [rules.relation_key, rules.atom_key, rules.radius_key, rules.angle_key],
        rules.hidden_only,
    )
    relations, distances, noise, shown, spd, edge, displacement, weight, noisy, tallies = made
    flags = distances.view(torch.bool), noisy.view(torch.bool)
    return Blend(relations, flags[0], noise, shown, spd, edge, displacement, weight, flags[1], tallies.sum(0))
