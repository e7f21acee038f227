"""MoleculeSDE (Liu et al. 2023): atoms of a 2D view and of a structure find each other, and each view denoises the other.

Contrastive, over atoms, EBM-NCE: s(-x y / T) + s(x y' / T) of unit vectors of an atom in both views, averaged over both orders of
negatives; y' is an atom of another molecule. Generative: 2D -> 3D, from 2D vectors and a noised structure its noise,

    L = mean over molecules of the mean over atoms of |f - eps|^2 (of three axes)

3D -> 2D, from vectors of the structure and noised elements (one-hot) and bonds (0: none, 1 + type) their noise, the mean of (f - z)^2 of
either, averaged. Schedules and decoders, which are leaner than the published ones, are in `common/diffusion`.
Shape legend: B molecules, A atoms, N atoms that are compared, E edges, M pairs, d embedding width.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.graph import ELEMENTS, bond_class_features
from moleblend_fs.errors import UserError
from moleblend_fs.model.heads import register_head
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.readout import mean_of_atoms
from moleblend_fs.model.shown import Shown
from moleblend_fs.objectives.common.contrastive import check_temperature, right_loss, similarity, wrong_loss
from moleblend_fs.objectives.common.diffusion import KINDS, NEAR, GraphDecoder, Noised, StructureDecoder, schedule
from moleblend_fs.objectives.common.dual_views import ShowsStructures, StructureOptions, StructureView, structure_encoder, structure_views
from moleblend_fs.objectives.common.groups import next_in_group
from moleblend_fs.objectives.common.hashed_draws import (
    BOND_ANGLE,
    BOND_RADIUS,
    ELEMENT_ANGLE,
    ELEMENT_RADIUS,
    OTHER_ATOM,
    PLACE_ANGLE,
    PLACE_RADIUS,
    TIME,
    bits,
    normal,
)
from moleblend_fs.objectives.common.views import encode, full_view
from moleblend_fs.objectives.objective import Curve, Prepared, Term
from moleblend_fs.ops.constants import constant
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.precision import at_least_float32
from moleblend_fs.option_fields import option

STRUCTURE, GRAPH = "molecule_sde_structure", "molecule_sde_graph"
TIMES = 1000
"""Times that are drawn: 0, 1 / 1000, ..., 999 / 1000."""
BOND_NUMBERS = (0, *(int(kind) + 1 for kind in bond_class_features()[:, 0]))
"""Of each bond class."""

register_head(STRUCTURE, StructureDecoder)
register_head(GRAPH, GraphDecoder)


@dataclass(frozen=True, kw_only=True)
class MoleculeSDEOptions(StructureOptions):
    """The released code's by default, in its VE form."""

    molecule_sde_temperature: float = option(0.1, "T of the contrastive loss, what cosines are divided by")
    molecule_sde_noise: str = option("ve", "schedule of the noise: variance exploding or preserving", KINDS)
    molecule_sde_structure_smallest: float = option(0.2, "least noise of a structure under VE, Angstrom")
    molecule_sde_structure_largest: float = option(1.0, "most noise of a structure under VE, Angstrom")
    molecule_sde_graph_smallest: float = option(0.1, "least noise of a graph under VE")
    molecule_sde_graph_largest: float = option(1.0, "most noise of a graph under VE")
    molecule_sde_contrast_weight: float = option(1.0, "weight of the contrastive loss; 0 leaves it out")
    molecule_sde_structure_weight: float = option(1.0, "weight of denoising structures from the 2D view; 0 leaves it out")
    molecule_sde_graph_weight: float = option(1.0, "weight of denoising graphs from structures; 0 leaves it out")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature("--molecule-sde-temperature", self.molecule_sde_temperature)
        for what in ("structure", "graph"):
            smallest, largest = (getattr(self, f"molecule_sde_{what}_{end}") for end in ("smallest", "largest"))
            if not 0 < smallest <= largest:
                ends = f"--molecule-sde-{what}-smallest and --molecule-sde-{what}-largest"
                raise UserError(f"{ends} must be above 0 and in this order, got {smallest} and {largest}")
        weights = {name: getattr(self, f"molecule_sde_{name}_weight") for name in ("contrast", "structure", "graph")}
        for name, weight in weights.items():
            if weight < 0:
                raise UserError(f"--molecule-sde-{name}-weight must not be negative, got {weight}")
        if not any(weights.values()):
            raise UserError("the weights of --objective molecule_sde are all 0: nothing is left to learn")


class OneStructure(NamedTuple):
    """A structure's view.

    Attributes:
        draw: seed and epoch of what is drawn of it, another epoch for each structure of a molecule.
        atoms: (N,) places in A of atoms that have it; others: (N,) each one's negative, and different: (N,) whether it has one.
        edges: (2, E) atoms up to `NEAR` bonds apart, in both orders.
        share: (A,) float64, 1 over how many atoms of its molecule have an edge; 0 of those that have none.
        pairs: (2, M) all pairs of atoms of a molecule, once; bonds: (M,) float64, their numbers.
    """

    view: StructureView
    draw: tuple[int, int]
    atoms: Tensor
    others: Tensor
    different: Tensor
    edges: Tensor
    share: Tensor
    pairs: Tensor
    bonds: Tensor


class Views(NamedTuple):
    """The 2D view, and the structures."""

    flat: Shown
    structures: list[OneStructure]


def draw_times(batch: MoleculeBatch, place: int, *, seed: int, epoch: int) -> Tensor:
    """(B,) float64 times. An odd epoch has 1 - 1/1000 less those of the epoch before it: the released code draws such pairs in a batch."""
    drawn = bits(TIME, seed, epoch // 2, batch.molecule_id, torch.full_like(batch.molecule_id, place)) % TIMES
    return (TIMES - 1 - drawn if epoch % 2 else drawn).double() / TIMES


def structure_loss(predicted_A3: Tensor, noise_A3: Tensor, share_A: Tensor) -> Tensor:
    """Sum over molecules of the mean over their atoms of |f - eps|^2."""
    return ((predicted_A3 - noise_A3).square().sum(dim=1) * share_A).sum()


class MoleculeSDE(ShowsStructures):
    """See the module."""

    name: ClassVar[str] = "molecule_sde"
    Options: ClassVar[type] = MoleculeSDEOptions
    options: MoleculeSDEOptions
    curves: ClassVar[dict[str, Curve]] = {
        "same_atom": Curve("An atom in both views (molecule_sde)", "nats"),
        "other_atom": Curve("Atoms of two molecules (molecule_sde)", "nats"),
        "structure_noise": Curve("Noise of structures (molecule_sde)", "squared error", uninformed=3.0),
        "element_noise": Curve("Noise of elements (molecule_sde)", "squared error", uninformed=1.0),
        "bond_noise": Curve("Noise of bonds (molecule_sde)", "squared error", uninformed=1.0),
    }

    def heads(self) -> tuple[str, ...]:
        options = self.options
        decoders = ((STRUCTURE, options.molecule_sde_structure_weight), (GRAPH, options.molecule_sde_graph_weight))
        return (*(name for name, weight in decoders if weight), *options.heads)

    def terms(self) -> tuple[Term, ...]:
        contrast, structure, graph = (getattr(self.options, f"molecule_sde_{name}_weight") for name in ("contrast", "structure", "graph"))
        every = (
            Term("same_atom", contrast),
            Term("other_atom", contrast),
            Term("structure_noise", structure),
            Term("element_noise", graph / 2),
            Term("bond_noise", graph / 2),
        )
        return tuple(term for term in every if term.weight)

    @property
    def passes(self) -> float:
        """Those of the encoder, and decoders of about three tenths of one."""
        return 1.3 + self.conformers

    def prepare(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Prepared:
        views = structure_views(batch, layout, self.options)
        structures = [_one_structure(batch, layout, view, (seed, epoch + (number << 24))) for number, view in enumerate(views)]
        counts = {
            "same_atom": sum(len(one.atoms) for one in structures),
            "other_atom": 2 * sum(int(one.different.sum()) for one in structures),
            "structure_noise": sum(len(torch.unique(layout.atom_molecule[one.edges[0]])) for one in structures),
            "element_noise": sum(len(one.atoms) for one in structures),
            "bond_noise": sum(len(one.bonds) for one in structures),
        }
        counted = torch.tensor([counts[term.name] for term in self.terms()], dtype=torch.float64)
        return Prepared(batch, layout, counted, Views(full_view(batch, layout, "2d"), structures))

    def loss_sums(self, model: MoleBlend, prepared: Prepared) -> Tensor:
        views, batch, layout = prepared.parts, prepared.batch, prepared.layout
        tower, total = structure_encoder(model), []
        flat_Ad = encode(model, batch, views.flat, layout).atoms
        for one in views.structures:
            solid_Ad = encode(tower, batch, one.view.shown, layout).atoms
            found: dict[str, Tensor] = {}
            if self.options.molecule_sde_contrast_weight:
                found |= self._contrast(flat_Ad, solid_Ad, one)
            if self.options.molecule_sde_structure_weight:
                found["structure_noise"] = self._structure(model, flat_Ad, one, prepared)
            if self.options.molecule_sde_graph_weight:
                found |= self._graph(model, solid_Ad, one, prepared)
            total.append(torch.stack([found[term.name] for term in self.terms()]))
        return torch.stack(total).sum(dim=0)

    def _contrast(self, flat_Ad: Tensor, solid_Ad: Tensor, one: OneStructure) -> dict[str, Tensor]:
        temperature = self.options.molecule_sde_temperature
        (x, x_other), (y, y_other) = ([h.index_select(0, places) for places in (one.atoms, one.others)] for h in (flat_Ad, solid_Ad))
        wrong = [wrong_loss(similarity(*pair, temperature)) * one.different for pair in ((x, y_other), (y, x_other))]
        return {"same_atom": right_loss(similarity(x, y, temperature)).sum(), "other_atom": torch.stack(wrong).sum()}

    def _noised(self, what: str, one: OneStructure, prepared: Prepared) -> tuple[Noised, Tensor]:
        """How much noise there is (B,), and the scale of each atom's (A,)."""
        options, (seed, epoch) = self.options, one.draw
        time = draw_times(prepared.batch, int(what == "graph"), seed=seed, epoch=epoch)
        ends = (getattr(options, f"molecule_sde_{what}_{end}") for end in ("smallest", "largest"))
        noised = schedule(time, options.molecule_sde_noise, *ends)
        return noised, noised.sigma[prepared.layout.atom_molecule]

    def _structure(self, model: MoleBlend, flat_Ad: Tensor, one: OneStructure, prepared: Prepared) -> Tensor:
        layout, molecule = prepared.layout, prepared.layout.atom_molecule
        noised, sigma_A = self._noised("structure", one, prepared)
        place = one.view.shown.coordinates.double()
        centred = place - mean_of_atoms(place, layout)[molecule]
        noise = structure_noise(prepared.batch, layout, one.draw)
        shown = (noised.kept[molecule].unsqueeze(1) * centred + sigma_A.unsqueeze(1) * noise).to(at_least_float32(flat_Ad).dtype)
        predicted = model.heads[STRUCTURE](flat_Ad, shown, sigma_A.to(shown.dtype), *one.edges)
        return structure_loss(predicted, noise.to(shown.dtype), one.share.to(shown.dtype))

    def _graph(self, model: MoleBlend, solid_Ad: Tensor, one: OneStructure, prepared: Prepared) -> dict[str, Tensor]:
        batch, layout = prepared.batch, prepared.layout
        noised, sigma_A = self._noised("graph", one, prepared)
        dtype, kept_A = at_least_float32(solid_Ad).dtype, noised.kept[layout.atom_molecule]
        kind = torch.arange(ELEMENTS, device=sigma_A.device)
        atom_place = (layout.atom_number * 128).unsqueeze(1) + kind
        owner = batch.molecule_id[layout.atom_molecule]
        element_noise = normal(ELEMENT_RADIUS, ELEMENT_ANGLE, *one.draw, owner.unsqueeze(1).expand_as(atom_place), atom_place)
        element = (batch.atom_features[:, :1] == kind) * kept_A.unsqueeze(1) + sigma_A.unsqueeze(1) * element_noise
        first, second = one.pairs
        numbers = layout.atom_number[first], layout.atom_number[second]
        pair_place = torch.minimum(*numbers) * 65_536 + torch.maximum(*numbers)
        bond_noise = normal(BOND_RADIUS, BOND_ANGLE, *one.draw, owner[first], pair_place)
        bond = kept_A[first] * one.bonds + sigma_A[first] * bond_noise
        made = model.heads[GRAPH](solid_Ad, element.to(dtype), bond.to(dtype), sigma_A.to(dtype), first, second)
        errors = (made[0] - element_noise.to(dtype)).square().mean(dim=1), (made[1] - bond_noise.to(dtype)).square()
        return {"element_noise": errors[0].index_select(0, one.atoms).sum(), "bond_noise": errors[1].sum()}


def structure_noise(batch: MoleculeBatch, layout: Layout, draw: tuple[int, int]) -> Tensor:
    """(A, 3) float64 standard normal, by (seed, epoch, molecule, atom, axis)."""
    axis = torch.arange(3, device=layout.atom_number.device)
    place = (layout.atom_number * 4).unsqueeze(1) + axis
    return normal(PLACE_RADIUS, PLACE_ANGLE, *draw, batch.molecule_id[layout.atom_molecule].unsqueeze(1).expand_as(place), place)


def _one_structure(batch: MoleculeBatch, layout: Layout, view: StructureView, draw: tuple[int, int]) -> OneStructure:
    present_A, present_P = view.present[layout.atom_molecule], view.present[layout.pair_molecule]
    atoms = present_A.nonzero().squeeze(1)
    partner, other = next_in_group(batch, seed=draw[0], epoch=draw[1], among=view.present)
    molecule = layout.atom_molecule[atoms]
    theirs = partner[molecule]
    hashed = bits(OTHER_ATOM, *draw, batch.molecule_id[molecule], layout.atom_number[atoms])
    place = torch.empty_like(layout.atom_number)  # of atoms by their numbers
    first = layout.cu_atoms[:-1]
    place[first[layout.atom_molecule] + layout.atom_number] = torch.arange(len(place), device=place.device)
    others = place[first[theirs] + hashed % layout.cu_atoms.diff()[theirs]]
    near = (present_P & (batch.spd >= 1) & (batch.spd <= NEAR)).nonzero().squeeze(1)
    edges = torch.stack([layout.pair_row[near], layout.pair_column[near]])
    joined = torch.zeros_like(present_A).index_fill(0, edges[0], True)
    number_of = torch.zeros_like(layout.cu_atoms[1:]).index_add(0, layout.atom_molecule, joined.long())
    share = joined / number_of.clamp(min=1)[layout.atom_molecule].double()
    once = layout.atom_number[layout.pair_row] < layout.atom_number[layout.pair_column]
    every = (present_P & once).nonzero().squeeze(1)
    kinds = constant(BOND_NUMBERS, torch.float64, batch.spd.device)
    bonds = torch.where(batch.spd[every] == 1, kinds[batch.path_bonds[every, 0].long()], 0)
    pairs = torch.stack([layout.pair_row[every], layout.pair_column[every]])
    return OneStructure(view, draw, atoms, others, (other & view.present)[molecule], edges, share, pairs, bonds)
