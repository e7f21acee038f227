"""UnifiedMol (Zhu et al. 2022): what is hidden of a molecule in 2D and 3D, its structure from its graph, and its atoms from its structure.

    mask       nine cross-entropies of hidden atoms' features + |d' - d| from atoms without a place to those that have one
    structure  mean distance of predicted places from the atoms', laid onto each other, in the best order of equivalent atoms; from 2D
    atoms      nine cross-entropies of every atom's features, from distances alone

Places are predicted in rounds: they begin at random, and each round moves them by what the encoder makes of 2D and the places so far.
Shape legend: B molecules, A atoms, P ordered pairs, N atoms that are asked for, K automorphisms, d embedding width.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.manifest import Manifest
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.heads import GeometryHead, NoiseHead, register_head
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import Shown
from moleblend_fs.objectives.common import gradients
from moleblend_fs.objectives.common.alignment import centred, errors_of, mean_of
from moleblend_fs.objectives.common.hashed_draws import GUESS, HIDDEN_ATOM, HIDDEN_PLACE, uniform
from moleblend_fs.objectives.common.subgraphs import check_share, paths_through, without_bonds
from moleblend_fs.objectives.common.views import encode, full_view
from moleblend_fs.objectives.objective import NATS, Curve, Objective, Prepared, Term, needs_structures
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import Linear
from moleblend_fs.ops.precision import at_least_float32
from moleblend_fs.ops.relation_bias import SHOW_DISTANCE
from moleblend_fs.option_fields import option

SIDECAR = "automorphisms"
VALUES = (119, 5, 12, 12, 10, 6, 6, 2, 2)
"""How many values each of OGB's nine atom features has."""
FEATURES_HEAD, DISTANCE_HEAD, SHIFT_HEAD = "unified_mol_features", "unified_mol_distance", "unified_mol_shift"
STRUCTURES = ("places", "distances")
AT_ONCE = 8
"""Automorphisms that are compared at a time."""


def features_head(config: ModelConfig) -> Linear:
    return Linear(config.embed_dim, sum(VALUES))


def distance_head(config: ModelConfig) -> GeometryHead:
    return GeometryHead(config, 1)


register_head(FEATURES_HEAD, features_head)
register_head(DISTANCE_HEAD, distance_head)
register_head(SHIFT_HEAD, NoiseHead)


@dataclass(frozen=True, kw_only=True)
class UnifiedMolOptions:
    """The README's by default."""

    unified_mol_rate: float = option(0.25, "probability that an atom's features are hidden; and, for itself, that its place is")
    unified_mol_structure: str = option(
        "places",
        "how a structure is predicted from 2D: places, in rounds, or (distances) the distances of all pairs, in one pass",
        STRUCTURES,
    )
    unified_mol_rounds: int = option(2, "rounds R in which places are predicted, a pass each")
    unified_mol_early_weight: float = option(0.1, "weight of the places of every round but the last, whose weight is 1")

    def __post_init__(self) -> None:
        check_share("--unified-mol-rate", self.unified_mol_rate)
        if self.unified_mol_rounds < 1:
            raise UserError(f"--unified-mol-rounds must be at least 1, got {self.unified_mol_rounds}")
        if not self.unified_mol_early_weight > 0:
            raise UserError(f"--unified-mol-early-weight must be above 0, got {self.unified_mol_early_weight}")


class Asked(NamedTuple):
    """What is shown, masked, flat and as a structure. Atoms (N,) whose features are asked for in the masked view, and in the structure;
    pairs (P,) whose distance is, in the masked view; molecules (B,) whose structure is; first places (A, 3); and atoms in the order of each
    automorphism (A, K), places in A."""

    masked: Shown
    flat: Shown
    solid: Shown
    hidden: Tensor
    unseen: Tensor
    pairs: Tensor
    molecules: Tensor
    guess: Tensor
    orders: Tensor


class UnifiedMol(Objective):
    """See the module."""

    name: ClassVar[str] = "unified_mol"
    Options: ClassVar[type] = UnifiedMolOptions
    options: UnifiedMolOptions
    curves: ClassVar[dict[str, Curve]] = {
        "hidden_features": Curve("Features of hidden atoms (unified_mol)", f"{NATS}, summed over nine"),
        "hidden_place": Curve("Distances to hidden places (unified_mol)", "absolute error (\u00c5)"),
        "structure": Curve("Structure from the graph (unified_mol)", "distance from the atoms (\u00c5)"),
        "early_structure": Curve("Structure, earlier rounds (unified_mol)", "distance from the atoms (\u00c5)"),
        "structure_features": Curve("Features from the structure (unified_mol)", f"{NATS}, summed over nine"),
    }

    @property
    def rounds(self) -> int:
        return self.options.unified_mol_rounds if self.options.unified_mol_structure == "places" else 1

    def heads(self) -> tuple[str, ...]:
        places = (SHIFT_HEAD,) if self.options.unified_mol_structure == "places" else ()
        return (FEATURES_HEAD, DISTANCE_HEAD, *places)

    def terms(self) -> tuple[Term, ...]:
        early = (Term("early_structure", self.options.unified_mol_early_weight),) if self.rounds > 1 else ()
        return (Term("hidden_features", 1.0), Term("hidden_place", 1.0), Term("structure", 1.0), *early, Term("structure_features", 1.0))

    def check(self, manifest: Manifest, store: str) -> None:
        needs_structures(manifest, store, self.name)

    @property
    def passes(self) -> float:
        return 2.0 + self.rounds

    def sidecars(self) -> tuple[str, ...]:
        return (SIDECAR,)

    def prepare(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Prepared:
        owner, rate = batch.molecule_id[layout.atom_molecule], self.options.unified_mol_rate
        there = batch.has_coordinates[layout.atom_molecule]
        hidden = uniform(HIDDEN_ATOM, seed, epoch, owner, layout.atom_number) < rate
        lost = (uniform(HIDDEN_PLACE, seed, epoch, owner, layout.atom_number) < rate) & there
        axes = [uniform(GUESS, seed, epoch, owner, 4 * layout.atom_number + axis) for axis in range(3)]
        solid = full_view(batch, layout, "3d")
        size, unseen = layout.cu_atoms.diff(), there.nonzero().squeeze(1)
        pairs = lost[layout.pair_row] & ~lost[layout.pair_column]
        asked = Asked(
            masked=masked_view(batch, layout, hidden, lost),
            flat=full_view(batch, layout, "2d"),
            solid=dataclasses.replace(solid, hidden=torch.ones_like(hidden)),
            hidden=hidden.nonzero().squeeze(1),
            unseen=unseen,
            pairs=pairs,
            molecules=batch.has_coordinates & (size > 1),
            guess=(2 * torch.stack(axes, dim=1) - 1).float(),
            orders=orders_of(batch.extra[SIDECAR], layout),
        )
        structures = asked.molecules.sum()
        early = [(self.rounds - 1) * structures] if self.rounds > 1 else []
        counts = torch.stack([hidden.sum(), pairs.sum(), structures, *early, there.sum()])
        return Prepared(batch, layout, counts.double(), asked)

    def loss_sums(self, model: MoleBlend, prepared: Prepared) -> Tensor:
        asked, batch, layout = prepared.parts, prepared.batch, prepared.layout
        masked, solid = (encode(model, batch, shown, layout).atoms for shown in (asked.masked, asked.solid))
        distance = distances_by(model, masked, layout)
        coordinates = batch.coordinates.to(distance.dtype)
        true = (coordinates[layout.pair_row] - coordinates[layout.pair_column]).norm(dim=1)
        if self.options.unified_mol_structure == "places":
            *early, structure = self._places(model, prepared)
        else:
            found = distances_by(model, encode(model, batch, asked.flat, layout).atoms, layout)
            early, structure = [], distance_errors(found, true, asked.orders, layout)
        return torch.stack(
            [
                feature_losses(model, masked, batch, asked.hidden),
                torch.where(asked.pairs, (distance - true).abs(), 0).sum(),
                torch.where(asked.molecules, structure, 0).sum(),
                *([torch.where(asked.molecules, torch.stack(early).sum(dim=0), 0).sum()] if early else []),
                feature_losses(model, solid, batch, asked.unseen),
            ]
        )

    def _places(self, model: MoleBlend, prepared: Prepared) -> list[Tensor]:
        """(B,) error of each round, in the order of the atoms that fits the last round best."""
        asked, batch, layout = prepared.parts, prepared.batch, prepared.layout
        molecule, size = layout.atom_molecule, layout.cu_atoms.diff()
        guess, found = centred(asked.guess, molecule, size), []
        every = torch.ones_like(asked.flat.degree)
        for _ in range(self.rounds):
            guess = gradients.stopped(guess)  # a round learns to mend places, not to make them easy to mend
            shown = dataclasses.replace(
                asked.flat, relations=asked.flat.relations | SHOW_DISTANCE, distances=every, coordinates=guess.float()
            )
            encoded = encode(model, batch, shown, layout)
            start = guess.to(at_least_float32(encoded.atoms).dtype)
            shift = model.heads[SHIFT_HEAD](encoded.atoms, encoded.bias, start.to(encoded.bias.dtype), layout)
            guess = centred(start + at_least_float32(shift), molecule, size)
            found.append(guess)
        orders = best_orders(guess, batch.coordinates, asked.orders, layout)
        target = batch.coordinates[orders].unsqueeze(1)
        return [errors_of(places, target, molecule, size).squeeze(1) for places in found]


def masked_view(batch: MoleculeBatch, layout: Layout, hidden: Tensor, lost: Tensor) -> Shown:
    """2D and 3D without the hidden atoms' features and bonds, and without the distances of atoms whose place is lost."""
    shown = full_view(batch, layout, "2d+3d")
    through = paths_through(batch, layout, hidden) & (layout.pair_row != layout.pair_column)
    relations = without_bonds(shown.relations, through)
    relations = without_bonds(relations, lost[layout.pair_row] | lost[layout.pair_column], SHOW_DISTANCE)
    # An atom's 3D feature is a sum over all atoms of its molecule, so that it would tell where the lost ones are.
    all_there = mean_of(lost.float(), layout.atom_molecule, layout.cu_atoms.diff()) == 0
    return dataclasses.replace(shown, relations=relations, hidden=hidden, distances=shown.distances & all_there[layout.atom_molecule])


def orders_of(lists_BL: Tensor, layout: Layout) -> Tensor:
    """(A, K) int64, places in A of the atoms that stand for each atom in each automorphism; the identity is the first, and stands in for
    those that a molecule has less than others.

    Args:
        lists_BL: of each molecule how many it has besides the identity, and these, one after another; 0 past the end.
    """
    molecule, first = layout.atom_molecule, layout.cu_atoms[:-1]
    local = torch.arange(layout.num_total_atoms, device=molecule.device) - first[molecule]
    lists = F.pad(lists_BL.long(), (0, 1))
    orders = [local]
    for number in range(int(lists[:, 0].max())):
        place = (1 + number * layout.cu_atoms.diff()[molecule] + local).clamp(max=lists.shape[1] - 1)
        orders.append(torch.where(number < lists[molecule, 0], lists[molecule, place], local))
    return torch.stack(orders, dim=1) + first[molecule].unsqueeze(1)


def distances_by(model: MoleBlend, atoms_Ad: Tensor, layout: Layout) -> Tensor:
    """(P,) predicted distances, Angstrom, the same from either end."""
    found = at_least_float32(model.heads[DISTANCE_HEAD](atoms_Ad, layout)).squeeze(1)
    return (found + found.index_select(0, layout.pair_reversed)) / 2


def feature_losses(model: MoleBlend, atoms_Ad: Tensor, batch: MoleculeBatch, places_N: Tensor) -> Tensor:
    """Sum over some atoms of the cross-entropies of their nine features."""
    logits = at_least_float32(model.heads[FEATURES_HEAD](atoms_Ad.index_select(0, places_N))).split(VALUES, dim=1)
    features = batch.atom_features.index_select(0, places_N).long()
    return torch.stack([F.cross_entropy(x, features[:, i], reduction="sum") for i, x in enumerate(logits)]).sum()


def chosen(errors_KB: list[Tensor], orders_AK: Tensor, layout: Layout) -> Tensor:
    """(A,) the order with each molecule's least error."""
    best = torch.cat(errors_KB).argmin(dim=0)
    return orders_AK.gather(1, best[layout.atom_molecule].unsqueeze(1)).squeeze(1)


@torch.no_grad()
def best_orders(guess_A3: Tensor, true_A3: Tensor, orders_AK: Tensor, layout: Layout) -> Tensor:
    """(A,) of each molecule the order of its atoms in which its structure is nearest to the places."""
    molecule, size = layout.atom_molecule, layout.cu_atoms.diff()
    return chosen([errors_of(guess_A3, true_A3[part], molecule, size).T for part in orders_AK.split(AT_ONCE, dim=1)], orders_AK, layout)


def distance_errors(found_P: Tensor, true_P: Tensor, orders_AK: Tensor, layout: Layout) -> Tensor:
    """(B,) mean absolute error over the pairs of two atoms of each molecule, in the order of its atoms where that is least."""
    molecule, size = layout.pair_molecule, layout.cu_atoms.diff()
    first, start, width = layout.cu_atoms[molecule], layout.cu_pairs[molecule], size[molecule]

    def errors(order_A: Tensor) -> Tensor:
        row, column = order_A[layout.pair_row] - first, order_A[layout.pair_column] - first
        away = (found_P - true_P[start + row * width + column]).abs() * (layout.pair_row != layout.pair_column)
        total = torch.zeros_like(away[:1]).expand(len(size)).index_add(0, molecule, away)
        return total / (size * (size - 1)).clamp(min=1).to(total.dtype)

    with torch.no_grad():
        best = chosen([errors(order).unsqueeze(0) for order in orders_AK.unbind(1)], orders_AK, layout)
    return errors(best)
