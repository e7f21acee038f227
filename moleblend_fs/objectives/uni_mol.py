"""Uni-Mol (Zhou et al. 2023): hidden atoms, with noise on their places, in the 3D view: their elements, places and distances.

Shape legend: A atoms, P ordered pairs, M the drawn atoms.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.graph import ELEMENTS
from moleblend_fs.data.manifest import Manifest
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.encoder import LayerNorm
from moleblend_fs.model.heads import GeometryHead, NoiseHead, register_head
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import Shown, show_all
from moleblend_fs.objectives.common.hashed_draws import COUNT, HIDDEN_ATOM, KIND, REPLACEMENT, UNIFORM_NOISE, bits, next_in_circle, uniform
from moleblend_fs.objectives.common.subgraphs import check_share, draw_atoms
from moleblend_fs.objectives.common.views import encode
from moleblend_fs.objectives.objective import NATS, Curve, Objective, Prepared, Term, needs_structures
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import Linear
from moleblend_fs.ops.precision import at_least_float32
from moleblend_fs.option_fields import option


class ElementHead(nn.Module):
    """Linear, GELU, LayerNorm, Linear to the elements."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.hidden = Linear(config.embed_dim, config.embed_dim)
        self.norm = LayerNorm(config.embed_dim)
        self.out = Linear(config.embed_dim, ELEMENTS)

    def forward(self, x: Tensor) -> Tensor:
        """(M, 119)."""
        return self.out(self.norm(F.gelu(self.hidden(x))))


ELEMENT_HEAD, PLACE_HEAD, DISTANCE_HEAD = "uni_mol_element", "uni_mol_place", "uni_mol_distance"
register_head(ELEMENT_HEAD, ElementHead)
register_head(PLACE_HEAD, NoiseHead)
register_head(DISTANCE_HEAD, lambda config: GeometryHead(config, 1))


@dataclass(frozen=True, kw_only=True)
class UniMolOptions:
    """The released pretraining task's; its data set's own defaults are --uni-mol-unchanged 0.1 --uni-mol-random 0.1."""

    uni_mol_rate: float = option(0.15, "share of atoms that are drawn, rounded up or down at random")
    uni_mol_unchanged: float = option(0.05, "share of the drawn atoms that are shown as they are, without noise")
    uni_mol_random: float = option(
        0.05, "share of drawn atoms that show the features of a random atom of their molecule; the rest is hidden"
    )
    uni_mol_noise: float = option(1.0, "largest noise on each coordinate of hidden and replaced atoms, Angstrom; it is uniform")
    uni_mol_token_weight: float = option(1.0, "weight of the element's loss")
    uni_mol_coordinate_weight: float = option(5.0, "weight of the coordinates' loss")
    uni_mol_distance_weight: float = option(10.0, "weight of the distances' loss")
    uni_mol_distance_mean: float = option(6.312581655060595, "mean that is taken off distances, Angstrom; the default is the release's")
    uni_mol_distance_std: float = option(3.3899264663911888, "what distances are divided by, Angstrom; the default is the release's")

    def __post_init__(self) -> None:
        check_share("--uni-mol-rate", self.uni_mol_rate)
        kept, swapped = self.uni_mol_unchanged, self.uni_mol_random
        if min(kept, swapped) < 0 or kept + swapped > 1:
            raise UserError(f"--uni-mol-unchanged and --uni-mol-random must be shares that sum to at most 1, got {kept} and {swapped}")
        for name in ("noise", "distance_std"):
            if not getattr(self, f"uni_mol_{name}") > 0:
                raise UserError(f"--uni-mol-{name.replace('_', '-')} must be above 0, got {getattr(self, f'uni_mol_{name}')}")
        for name in ("token", "coordinate", "distance"):
            if not getattr(self, f"uni_mol_{name}_weight") > 0:
                raise UserError(f"--uni-mol-{name}-weight must be above 0, got {getattr(self, f'uni_mol_{name}_weight')}")


class Noised(NamedTuple):
    """The batch and what is shown of it; the atoms (N,) that are drawn, places in A; the noise (A, 3); which pairs (P,) count."""

    batch: MoleculeBatch
    shown: Shown
    atoms: Tensor
    noise: Tensor
    pairs: Tensor


def standardised(distance: Tensor, options: UniMolOptions) -> Tensor:
    """(d - mean) / std."""
    return (distance - options.uni_mol_distance_mean) / options.uni_mol_distance_std


class UniMol(Objective):
    """See the module."""

    name: ClassVar[str] = "uni_mol"
    Options: ClassVar[type] = UniMolOptions
    options: UniMolOptions
    curves: ClassVar[dict[str, Curve]] = {
        "drawn_element": Curve("Elements of drawn atoms (uni_mol)", NATS),
        "coordinates": Curve("Coordinates of drawn atoms (uni_mol)", "Smooth-L1 (\u00c5)"),
        "drawn_distance": Curve("Distances of drawn atoms (uni_mol)", "Smooth-L1, standardised"),
    }

    def heads(self) -> tuple[str, ...]:
        return (ELEMENT_HEAD, PLACE_HEAD, DISTANCE_HEAD)

    def terms(self) -> tuple[Term, ...]:
        o = self.options
        weights = (o.uni_mol_token_weight, o.uni_mol_coordinate_weight, o.uni_mol_distance_weight)
        return tuple(Term(name, weight) for name, weight in zip(self.curves, weights, strict=True))

    def check(self, manifest: Manifest, store: str) -> None:
        needs_structures(manifest, store, self.name)

    def prepare(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Prepared:
        options, draw = self.options, {"seed": seed, "epoch": epoch}
        owner = batch.molecule_id[layout.atom_molecule]
        up = uniform(COUNT, seed, epoch, batch.molecule_id, torch.zeros_like(batch.molecule_id))
        count = torch.floor(options.uni_mol_rate * layout.cu_atoms.diff() + up).long() * batch.has_coordinates
        drawn = draw_atoms(batch, layout, count, stream=HIDDEN_ATOM, **draw)
        kind = uniform(KIND, seed, epoch, owner, layout.atom_number)
        unchanged = drawn & (kind < options.uni_mol_unchanged)
        replaced = drawn & ~unchanged & (kind < options.uni_mol_unchanged + options.uni_mol_random)
        other = next_in_circle(layout.atom_molecule, bits(REPLACEMENT, seed, epoch, owner, layout.atom_number))
        features = torch.where(replaced.unsqueeze(1), batch.atom_features[other], batch.atom_features)
        axes = [uniform(UNIFORM_NOISE, seed, epoch, owner, 4 * layout.atom_number + axis) for axis in range(3)]
        noise = options.uni_mol_noise * (2 * torch.stack(axes, dim=1) - 1).float()
        noise = noise * (drawn & ~unchanged).unsqueeze(1)
        shown = dataclasses.replace(
            show_all(batch, layout, "3d"), hidden=drawn & ~unchanged & ~replaced, coordinates=batch.coordinates + noise
        )
        pairs = drawn[layout.pair_row] & (layout.pair_row != layout.pair_column)
        counts = torch.stack([drawn.sum(), 3 * drawn.sum(), pairs.sum()]).double()
        noised = dataclasses.replace(batch, atom_features=features)
        return Prepared(batch, layout, counts, Noised(noised, shown, drawn.nonzero().squeeze(1), noise, pairs))

    def loss_sums(self, model: MoleBlend, prepared: Prepared) -> Tensor:
        (noised, shown, places, noise, pairs), batch, layout = prepared.parts, prepared.batch, prepared.layout
        encoded = encode(model, noised, shown, layout)
        logits = at_least_float32(model.heads[ELEMENT_HEAD](encoded.atoms.index_select(0, places)))
        element = F.cross_entropy(logits, batch.atom_features[places, 0].long(), reduction="sum")
        moved = at_least_float32(model.heads[PLACE_HEAD](encoded.atoms, encoded.bias, shown.coordinates.to(encoded.bias.dtype), layout))
        back = F.smooth_l1_loss(moved.index_select(0, places), -noise.to(moved.dtype)[places], reduction="sum")
        predicted = at_least_float32(model.heads[DISTANCE_HEAD](encoded.atoms, layout)).squeeze(1)
        predicted = (predicted + predicted.index_select(0, layout.pair_reversed)) / 2
        coordinates = batch.coordinates.to(predicted.dtype)
        true = standardised((coordinates[layout.pair_row] - coordinates[layout.pair_column]).norm(dim=1), self.options)
        distance = torch.where(pairs, F.smooth_l1_loss(predicted, true, reduction="none"), 0).sum()
        return torch.stack([element, back, distance])
