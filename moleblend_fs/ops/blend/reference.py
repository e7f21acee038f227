"""What the kernel computes, a pair and an atom at a time in Python's integers, to test it."""

import math

import torch
from torch import Tensor

from moleblend_fs.data.graph import UNREACHABLE
from moleblend_fs.ops.blend import (
    EDGE_AT,
    GEOMETRY_AT,
    IGNORED,
    NOISY_AT,
    OUT_OF_RANGE,
    OUT_OF_RANGE_AT,
    SPD_CLASSES,
    TALLIES,
    Blend,
    Rules,
)
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias.weights import SHOW_DISTANCE, SHOW_EDGE, SHOW_SPD

MASK32 = 0xFFFFFFFF


def hashed(state: int, *words: int) -> int:
    """32 bits of a state and words: Wellons' "lowbias32" after each."""
    for word in words:
        x = (state + word * 0x9E3779B1) & MASK32
        x = ((x ^ (x >> 16)) * 0x7FEB352D) & MASK32
        x = ((x ^ (x >> 15)) * 0x846CA68B) & MASK32
        state = x ^ (x >> 16)
    return state


def blend(
    molecule_id_B: Tensor, has_coordinates_B: Tensor, spd_P: Tensor, path_P5: Tensor, coordinates_A3: Tensor, layout: Layout, rules: Rules
) -> Blend:
    """As `launch.blend`, on the CPU."""
    relations, spd_class, edge, displacement, weight, distances, noise, noisy = ([] for _ in range(8))  # type: ignore[var-annotated]
    tallies, pair, first = [0] * TALLIES, 0, 0
    spds, paths, points = spd_P.tolist(), path_P5.tolist(), coordinates_A3.cpu()
    for number, known, size in zip(molecule_id_B.tolist(), has_coordinates_B.tolist(), layout.sizes.tolist(), strict=True):
        id_words, limits = (number & MASK32, (number >> 32) & MASK32), rules.limits[known]
        geometry = []
        for i in range(size):
            for j in range(size):
                bits = hashed(rules.relation_key, *id_words, i * 65536 + j)
                place = sum(bits >= limit for limit in limits[:3])
                shown = (SHOW_SPD, SHOW_EDGE, SHOW_DISTANCE, 0)[place]
                spd_counts, edge_counts, geometry_counts = (i != j and not (rules.hidden_only and shown == x) for x in (1, 2, 4))
                spd = spds[pair]
                relations.append(shown)
                spd_class.append(min(max(spd, 1), SPD_CLASSES) - 1 if spd_counts and spd != UNREACHABLE else IGNORED)
                edge.append([rules.edge_class[bond] if edge_counts else IGNORED for bond in paths[pair]])
                displacement.append(points[first + j] - points[first + i])
                geometry.append(geometry_counts and known)
                for at in [spd_class[-1], *(EDGE_AT + kind for kind in edge[-1] if kind >= 0)]:
                    tallies[max(at, 0)] += at >= 0
                tallies[OUT_OF_RANGE_AT] += edge[-1].count(OUT_OF_RANGE)
                pair += 1
        weight += [counts / max(sum(geometry), 1) for counts in geometry]
        tallies[GEOMETRY_AT] += any(geometry)
        for atom in range(size):
            distances.append(known and hashed(rules.atom_key, *id_words, atom) >= limits[3])
            noisy.append(distances[-1] and size > 1)
            draws = [[hashed(key, *id_words, atom * 4 + axis) / 2**32 for key in (rules.radius_key, rules.angle_key)] for axis in range(3)]
            normal = [math.sqrt(-2 * math.log1p(-radius)) * math.cos(2 * math.pi * angle) for radius, angle in draws]
            noise.append([rules.noise_scale * value * known for value in normal])
        tallies[NOISY_AT] += sum(noisy[-size:])
        first += size
    noise_A3 = torch.tensor(noise, dtype=torch.float32)
    return Blend(
        relations=torch.tensor(relations, dtype=torch.uint8),
        distances=torch.tensor(distances),
        noise=noise_A3,
        coordinates=points + noise_A3,
        spd=torch.tensor(spd_class, dtype=torch.int8),
        edge=torch.tensor(edge, dtype=torch.int8),
        displacement=torch.stack(displacement),
        geometry_weight=torch.tensor(weight, dtype=torch.float32),
        noisy=torch.tensor(noisy),
        tallies=torch.tensor(tallies),
    )
