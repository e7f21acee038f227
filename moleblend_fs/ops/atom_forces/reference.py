"""`atom_forces` in plain torch, a bucket of molecules of similar size at a time; b, n as in `ops.layout`."""

import torch
import torch.nn.functional as F
from torch import Tensor

from moleblend_fs.ops.layout import Layout

NEAR = 1e-5
"""Angstrom, added to each distance: the direction of an atom from itself is 0."""


def directions(coordinates_A3: Tensor, layout: Layout) -> Tensor:
    """u, unit displacement of every pair, (P, 3)."""
    displacement = coordinates_A3[layout.pair_column] - coordinates_A3[layout.pair_row]
    return displacement / (displacement.norm(dim=1, keepdim=True) + NEAR)


def atom_forces(
    q_AHw: Tensor, k_AHw: Tensor, value_AH3: Tensor, bias_PH: Tensor, coordinates_A3: Tensor, layout: Layout, dropout: float
) -> Tensor:
    """See `ops.atom_forces.atom_forces`."""
    parts, direction_P3 = [], directions(coordinates_A3, layout)
    for bucket in layout.buckets:
        b, n = bucket.atoms.shape
        atoms = bucket.atoms.reshape(-1)
        q, k, s = (x.index_select(0, atoms).view(b, n, *x.shape[1:]).transpose(1, 2) for x in (q_AHw, k_AHw, value_AH3))
        pairs = bucket.pairs.reshape(-1)
        bias = bias_PH.index_select(0, pairs).view(b, n, n, -1).permute(0, 3, 1, 2)
        logits = (q @ k.transpose(2, 3) + bias).masked_fill(~bucket.pair_exists.any(dim=1)[:, None, None, :], float("-inf"))
        probabilities = F.dropout(torch.softmax(logits, dim=-1, dtype=bias.dtype), dropout)
        direction = direction_P3.index_select(0, pairs).view(b, n, n, 3)
        # sum over heads first: (b, n, n) per axis, never (n, n, d)
        weight = torch.stack([torch.einsum("bhij,bhj->bij", probabilities, s[..., a].to(bias.dtype)) for a in range(3)], dim=-1)
        force = (weight * direction).sum(dim=2).reshape(b * n, 3)
        parts.append(force.index_select(0, bucket.atom_places))
    return torch.cat(parts).index_select(0, layout.atom_order)
