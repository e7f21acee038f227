"""Noise schedules, and the two lean decoders of MoleculeSDE: structure from a 2D view, and graph from a structure.

At time t a thing x is shown as a x + sigma z, z standard normal. Variance exploding (VE): a = 1, sigma = s0 (s1 / s0)^t. Variance
preserving (VP): a = exp(-t^2 (b1 - b0) / 4 - t b0 / 2), sigma = (1 - a^2)^(1/2).
Shape legend: B molecules, A atoms, P ordered pairs, E edges, d embedding width, F Fourier features.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleblend_fs.data.graph import ELEMENTS
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.encoder import LayerNorm
from moleblend_fs.ops.linear import Linear
from moleblend_fs.ops.precision import at_least_float32

KINDS = ("ve", "vp")
BETAS = (0.2, 1.0)
"""b0 and b1 of VP."""
FOURIER = 8
"""Frequencies of a number's embedding."""
NEAR = 3
"""Bonds between the ends of an edge, at most."""


class Noised(NamedTuple):
    """Of each molecule: what its thing is multiplied by, and the noise's scale (B,) float64."""

    kept: Tensor
    sigma: Tensor


def schedule(time_B: Tensor, kind: str, smallest: float, largest: float) -> Noised:
    """At times in [0, 1]; smallest and largest are s0 and s1 of VE."""
    if kind == "ve":
        return Noised(torch.ones_like(time_B), smallest * (largest / smallest) ** time_B)
    kept = torch.exp(-(time_B**2) * (BETAS[1] - BETAS[0]) / 4 - time_B * BETAS[0] / 2)
    return Noised(kept, (1 - kept**2).sqrt())


def fourier(x: Tensor) -> Tensor:
    """(..., 2F) cos and sin of 2^k x / 2, k = 0 ... F - 1 from a quarter on."""
    waves = x.unsqueeze(-1) * 2.0 ** torch.arange(-2, FOURIER - 2, device=x.device, dtype=x.dtype)
    return torch.cat([waves.cos(), waves.sin()], dim=-1)


class Mlp(nn.Module):
    """Linear, LayerNorm, GELU, Linear."""

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__()
        self.enter, self.norm, self.out = Linear(inputs, hidden), LayerNorm(hidden), Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.norm(self.enter(x))))


class Frames(NamedTuple):
    """Of each edge (i, j) three vectors that turn with the molecule (E, 3, 3), and numbers that do not (E, 4).

    The vectors are the unit difference a of both places, the unit cross product b of them, and a x b. Under a reflection b turns the other
    way: what is made of all three tells a molecule from its mirror image.
    """

    axes: Tensor
    told: Tensor


def frames_of(place_A3: Tensor, first_E: Tensor, second_E: Tensor) -> Frames:
    """Places are those around the molecule's centre."""
    ours, theirs = place_A3.index_select(0, first_E), place_A3.index_select(0, second_E)
    away, across = ours - theirs, torch.linalg.cross(ours, theirs)
    length, area = away.norm(dim=1, keepdim=True), across.norm(dim=1, keepdim=True)
    a, b = away / (length + 1e-5), across / (area + 1e-5)
    c = torch.linalg.cross(a, b)
    told = torch.cat([length, (ours * a).sum(1, keepdim=True), (theirs * a).sum(1, keepdim=True), area / (length + 1e-5)], dim=1)
    return Frames(torch.stack([a, b, c], dim=1), told)


class StructureDecoder(nn.Module):
    """The noise on every atom's place from 2D vectors and the noised structure (2D -> 3D), lean: two rounds over edges.

    Edges join atoms up to `NEAR` bonds apart. A round embeds an edge from its ends' vectors u, the frame's numbers and the noise's scale,
    gives the edge's vectors weights, and adds the mean of its embeddings to u; the output is the sum over rounds of the mean over an atom's
    edges of its weighted vectors. The published network has two modules of two attention layers on the same edges and frames.
    """

    ROUNDS = 2

    def __init__(self, config: ModelConfig):
        super().__init__()
        d, told = config.embed_dim, 2 * FOURIER
        self.enter, self.scale = Linear(d, d), Linear(told, d)
        self.edges = nn.ModuleList(Mlp(2 * d + 4 * told, d, d) for _ in range(self.ROUNDS))
        self.weights = nn.ModuleList(Mlp(d, d, 3) for _ in range(self.ROUNDS))

    def forward(self, flat_Ad: Tensor, place_A3: Tensor, sigma_A: Tensor, first_E: Tensor, second_E: Tensor) -> Tensor:
        """(A, 3) the noise, in units of its scale; 0 of atoms without an edge."""
        frames, dtype = frames_of(at_least_float32(place_A3), first_E, second_E), flat_Ad.dtype
        told = fourier(frames.told).flatten(1).to(dtype)
        u_Ad = self.enter(flat_Ad) + self.scale(fourier(sigma_A.log()).to(dtype))
        number = torch.zeros_like(sigma_A).index_add(0, first_E, torch.ones_like(sigma_A[first_E])).clamp(min=1).unsqueeze(1)
        moved = at_least_float32(flat_Ad).new_zeros(len(flat_Ad), 3)
        for edge, weigh in zip(self.edges, self.weights, strict=True):
            ends = u_Ad.index_select(0, first_E), u_Ad.index_select(0, second_E)
            made = edge(torch.cat([*ends, told], dim=1))
            weights = at_least_float32(weigh(made)).to(moved.dtype)
            moved = moved.index_add(0, first_E, (weights.unsqueeze(2) * frames.axes.to(moved.dtype)).sum(dim=1))
            u_Ad = u_Ad + torch.zeros_like(u_Ad).index_add(0, first_E, made) / number.to(dtype)
        return moved / number.to(moved.dtype)


class GraphDecoder(nn.Module):
    """The noise on elements' one-hot vectors and on bonds' numbers from 3D vectors and both noised (3D -> 2D), lean: no layers of its own.

    x = Linear(h) + Linear(noised element) + Linear(scale) + Linear(sum of an atom's noised bonds); an element's noise is an MLP of x, a
    bond's one of x_i + x_j, x_i x_j and its noised number. The published networks attend over dense graphs padded to the largest molecule.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        d, told = config.embed_dim, 2 * FOURIER
        self.structure, self.element = Linear(d, d), Linear(ELEMENTS, d)
        self.scale, self.strength = Linear(told, d), Linear(told, d)
        self.elements = Mlp(d, d, ELEMENTS)
        self.bonds = Mlp(2 * d + told, d, 1)

    def forward(
        self, solid_Ad: Tensor, element_AC: Tensor, bond_P: Tensor, sigma_A: Tensor, first_P: Tensor, second_P: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Noise of elements (A, 119) and of bonds (P,), in units of its scale; each pair is given once, its order does not matter."""
        dtype = solid_Ad.dtype
        strength_A = torch.zeros_like(sigma_A).index_add(0, first_P, bond_P).index_add(0, second_P, bond_P)
        numbers = self.scale(fourier(sigma_A.log()).to(dtype)) + self.strength(fourier(strength_A).to(dtype))
        x_Ad = self.structure(solid_Ad) + self.element(element_AC.to(dtype)) + numbers
        ours, theirs = x_Ad.index_select(0, first_P), x_Ad.index_select(0, second_P)
        bonds = self.bonds(torch.cat([ours + theirs, ours * theirs, fourier(bond_P).to(dtype)], dim=1))
        return at_least_float32(self.elements(x_Ad)), at_least_float32(bonds).squeeze(1)
