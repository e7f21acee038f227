"""Random draws of a molecule: a hash of (seed, epoch, molecule, place), never of a generator's state.

What is drawn for a molecule therefore does not depend on batch, worker, rank or device, and a resumed run draws the same.
Shape legend: B molecules, A atoms, P ordered pairs.
"""

import math
from typing import TypeVar

import torch
from torch import Tensor

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.ops.layout import Layout

Number = TypeVar("Number", int, Tensor)

MASK32 = 0xFFFFFFFF
RELATION, ATOM, NOISE_RADIUS, NOISE_ANGLE, MODALITY, CIRCLE, HIDDEN_ATOM, REPLACEMENT, UNIFORM_NOISE = range(9)
COUNT, KIND, ROOT, GROWTH, HIDDEN_BOND, VIEW_START = range(9, 15)
VIEW_KIND, VIEW_ATOM, VIEW_BOND, VIEW_GROWTH = ((first, first + 1) for first in range(15, 23, 2))
LATENT_RADIUS, LATENT_ANGLE = range(23, 25)
HIDDEN_PLACE, GUESS = range(25, 27)
MOTIF, TIME, OTHER_ATOM, PLACE_RADIUS, PLACE_ANGLE, ELEMENT_RADIUS, ELEMENT_ANGLE, BOND_RADIUS, BOND_ANGLE = range(27, 36)
LEFT_OUT_CODE = 36
"""Streams: one per kind of draw, so that no two share a number; pairs of them for two views."""


def mix(x: Number) -> Number:
    """A bijection of 32-bit integers (held in int64) without visible structure: Wellons' "lowbias32" finaliser."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & MASK32
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & MASK32
    return x ^ (x >> 16)


def key(stream: int, seed: int, epoch: int) -> int:
    """What the hash has made of these, below 2^32: the same for all molecules and places."""
    return mix((mix((seed * 0x9E3779B9 + stream * 0x85EBCA6B + 1) & MASK32) + (epoch & MASK32) * 0x9E3779B1) & MASK32)


def bits(stream: int, seed: int, epoch: int, molecule: Tensor, place: Tensor) -> Tensor:
    """32 random bits for every (molecule, place), int64 in [0, 2^32)."""
    state = mix(((molecule & MASK32) * 0x9E3779B1 + key(stream, seed, epoch)) & MASK32)
    for word in ((molecule >> 32) & MASK32, place & MASK32):
        state = mix((state + word * 0x9E3779B1) & MASK32)
    return state


def uniform(stream: int, seed: int, epoch: int, molecule: Tensor, place: Tensor) -> Tensor:
    """Uniform float64 in [0, 1), a multiple of 2^-32."""
    return bits(stream, seed, epoch, molecule, place).double() / 2**32


def categories(draws: Tensor, shares: Tensor) -> Tensor:
    """Category of each uniform draw.

    Args:
        draws: (N,) in [0, 1).
        shares: (N, C) non-negative shares that sum to 1 in each row (rows of zeros give category C).
    """
    return (draws.unsqueeze(1) >= shares.cumsum(dim=1)).sum(dim=1)


def places_by(group: Tensor, key: Tensor) -> Tensor:
    """(N,) int64, the place of each member of a group, 0 ... of its size - 1, in the order of keys.

    Args:
        group: (N,) numbers below N. key: (N,).
    """
    order = torch.argsort(key, stable=True)
    order = order[torch.argsort(group[order], stable=True)]
    counts = torch.zeros_like(group).index_add(0, group, torch.ones_like(group))
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return place - (counts.cumsum(0) - counts)[group]


def next_in_circle(group: Tensor, key: Tensor, shift: int = 1) -> Tensor:
    """(N,) int64, the member `shift` places on where a group's members stand in a circle in the order of keys."""
    counts = torch.zeros_like(group).index_add(0, group, torch.ones_like(group))
    start, place = (counts.cumsum(0) - counts)[group], places_by(group, key)
    order = torch.empty_like(place)
    order[start + place] = torch.arange(len(place), device=place.device)
    return order[start + (place + shift) % counts[group]]


def normal(radius_stream: int, angle_stream: int, seed: int, epoch: int, molecule: Tensor, place: Tensor) -> Tensor:
    """Standard normal float64: Box-Muller on hashed bits."""
    radius = (-2 * torch.log1p(-uniform(radius_stream, seed, epoch, molecule, place))).sqrt()
    return radius * torch.cos(2 * math.pi * uniform(angle_stream, seed, epoch, molecule, place))


def draw_noise(batch: MoleculeBatch, layout: Layout, *, scale: float, seed: int, epoch: int) -> Tensor:
    """Gaussian noise on every coordinate, (A, 3) float32, Angstrom; 0 without coordinates."""
    molecule = batch.molecule_id[layout.atom_molecule].repeat_interleave(3)
    axis = torch.arange(3, device=molecule.device).repeat(layout.num_total_atoms)
    place = layout.atom_number.repeat_interleave(3) * 4 + axis
    noise = normal(NOISE_RADIUS, NOISE_ANGLE, seed, epoch, molecule, place)
    present = batch.has_coordinates[layout.atom_molecule].unsqueeze(1)
    return (scale * noise).float().view(-1, 3) * present


def draw_modality(batch: MoleculeBatch, *, seed: int, epoch: int) -> Tensor:
    """(B,) uniform draws for `show_random_modality`."""
    return uniform(MODALITY, seed, epoch, batch.molecule_id, torch.zeros_like(batch.molecule_id))
