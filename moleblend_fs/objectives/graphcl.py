"""GraphCL (You et al. 2020): two views of a molecule, each changed by a random augmentation, find each other among those of a group.

    L = mean over molecules i of -log[e^(s_ii) / sum over j of e^(s_ij)],  s_ij = cos(z_i, z'_j) / T

z is a projection of the graph token. Under the fraction stand all of the group, or (as published) all but i.
Shape legend: B molecules, A atoms, P ordered pairs, d embedding width.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.errors import UserError
from moleblend_fs.model.heads import register_head
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import Shown
from moleblend_fs.objectives.common.contrastive import (
    DENOMINATORS,
    Compared,
    PoolingOptions,
    Projection,
    check_temperature,
    compared,
    info_nce,
)
from moleblend_fs.objectives.common.groups import GroupOptions, group_of
from moleblend_fs.objectives.common.hashed_draws import VIEW_ATOM, VIEW_BOND, VIEW_GROWTH, VIEW_KIND, uniform
from moleblend_fs.objectives.common.subgraphs import (
    SubBatch,
    bonds_in,
    bonds_of,
    check_share,
    draw_around,
    draw_atoms,
    draw_bonds,
    draw_connected,
    paths_over,
    select_atoms,
    without_bonds,
)
from moleblend_fs.objectives.common.views import encode, full_view
from moleblend_fs.objectives.objective import Curve, Objective, Prepared, Term
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import SHOW_EDGE, SHOW_SPD
from moleblend_fs.option_fields import option

HEAD = "graphcl"
AUGMENTATIONS = ("drop", "subgraph", "edge", "mask", "identity")
SIDES, SUBGRAPHS = ("two", "one"), ("connected", "star")
register_head(HEAD, lambda config: Projection(config, activation=F.relu))


@dataclass(frozen=True, kw_only=True)
class GraphCLOptions(GroupOptions, PoolingOptions):
    """Bounded and two-sided by default; --graphcl-denominator negatives --graphcl-sides one --graphcl-subgraph-kept 0.2
    --graphcl-subgraph star is the released chemistry code."""

    graphcl_augmentations: str = option(
        "drop,subgraph",
        "what a view may be made by, one drawn for each molecule and view, separated by commas: drop (atoms), subgraph (what is kept), "
        "edge (bonds are taken away), mask (atoms are hidden), identity",
    )
    graphcl_rate: float = option(0.2, "share r of n atoms that are dropped or hidden, and of m bonds: floor(r n), floor(r m)")
    graphcl_subgraph_kept: float = option(0.8, "share r of n atoms that a subgraph keeps: floor(r n) + 1; the released code has 0.2")
    graphcl_subgraph: str = option(
        "connected", "how a subgraph grows: by neighbours of what is in, or (star, as released) of its first atom alone", SUBGRAPHS
    )
    graphcl_sides: str = option("two", "whether first views look for second ones alone (one), or also the other way round", SIDES)
    graphcl_denominator: str = option(
        "all", "under the fraction: all, or (as published) only the others, which has no lower bound at 0", DENOMINATORS
    )
    graphcl_temperature: float = option(0.1, "what cosines are divided by")

    def __post_init__(self) -> None:
        GroupOptions.__post_init__(self)
        check_share("--graphcl-rate", self.graphcl_rate)
        check_share("--graphcl-subgraph-kept", self.graphcl_subgraph_kept)
        check_temperature("--graphcl-temperature", self.graphcl_temperature)
        wrong = [name for name in self.augmentations if name not in AUGMENTATIONS]
        if wrong or len(set(self.augmentations)) < len(self.augmentations):
            known, got = ", ".join(AUGMENTATIONS), self.graphcl_augmentations
            raise UserError(f"--graphcl-augmentations is a list of {known}, each once, got {got!r}")

    @property
    def augmentations(self) -> list[str]:
        """Their names."""
        return [name.strip() for name in self.graphcl_augmentations.split(",")]


class View(NamedTuple):
    """What is left of a batch, and what is shown of it."""

    sub: SubBatch
    shown: Shown


class Augmented(NamedTuple):
    """The two views, and which molecules are compared with which."""

    views: tuple[View, View]
    meet: Compared


def graphcl_view(batch: MoleculeBatch, layout: Layout, options: GraphCLOptions, which: int, *, seed: int, epoch: int) -> View:
    """The first (0) or second (1) view: each molecule by an augmentation of its own."""
    names, draw = options.augmentations, {"seed": seed, "epoch": epoch}
    drawn = uniform(VIEW_KIND[which], seed, epoch, batch.molecule_id, torch.zeros_like(batch.molecule_id))
    kind, sizes, rate = (drawn * len(names)).long(), layout.cu_atoms.diff().double(), options.graphcl_rate
    by = {name: kind == names.index(name) if name in names else torch.zeros_like(batch.has_coordinates) for name in AUGMENTATIONS}
    atoms = draw_atoms(batch, layout, torch.floor(rate * sizes), stream=VIEW_ATOM[which], **draw)
    keep = ~(atoms & by["drop"][layout.atom_molecule])
    if "subgraph" in names:
        kept = torch.minimum(torch.floor(options.graphcl_subgraph_kept * sizes) + 1, sizes)
        grown = draw_connected if options.graphcl_subgraph == "connected" else _star
        inside = grown(batch, layout, torch.where(by["subgraph"], kept, 1).long(), stream=VIEW_GROWTH[which], **draw)
        keep = keep & (inside | ~by["subgraph"][layout.atom_molecule])
    shown = full_view(batch, layout, "2d")
    if "mask" in names:
        shown = dataclasses.replace(shown, hidden=atoms & by["mask"][layout.atom_molecule])
    if "edge" in names:
        bonds = bonds_of(batch, layout)
        count = torch.floor(rate * bonds_in(bonds, layout).double()) * by["edge"]
        removed = bonds[draw_bonds(batch, layout, bonds, count, stream=VIEW_BOND[which], **draw)]
        gone = paths_over(batch, layout, removed)
        shown = dataclasses.replace(shown, relations=without_bonds(shown.relations, gone, SHOW_SPD | SHOW_EDGE))
    sub = select_atoms(batch, layout, keep)
    return View(sub, sub.show(shown))


def _star(batch: MoleculeBatch, layout: Layout, count_B: Tensor, *, stream: int, seed: int, epoch: int) -> Tensor:
    """A random atom and of its neighbours so many that they are `count_B` together, or all."""
    return draw_around(batch, layout, count_B, stream=stream, seed=seed, epoch=epoch, within=1)


class GraphCL(Objective):
    """See the module."""

    name: ClassVar[str] = "graphcl"
    Options: ClassVar[type] = GraphCLOptions
    options: GraphCLOptions
    curves: ClassVar[dict[str, Curve]] = {"two_views": Curve("Two views of a molecule (graphcl)", "nats")}

    def heads(self) -> tuple[str, ...]:
        return (HEAD,)

    def terms(self) -> tuple[Term, ...]:
        return (Term("two_views", 1.0),)

    @property
    def passes(self) -> float:
        """Two, of as many atoms as the augmentations leave on average."""
        options = self.options
        left = {"drop": 1 - options.graphcl_rate, "subgraph": options.graphcl_subgraph_kept}
        return round(2 * sum(left.get(name, 1.0) for name in options.augmentations) / len(options.augmentations), 2)

    @property
    def group(self) -> int | None:
        return self.options.negatives_group

    def prepare(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Prepared:
        first, second = (graphcl_view(batch, layout, self.options, which, seed=seed, epoch=epoch) for which in (0, 1))
        everyone = torch.arange(layout.num_molecules, device=layout.device)
        meet = compared(group_of(batch), everyone, everyone)
        counts = meet.counts.sum().double().reshape(1) * len(self._directions())
        return Prepared(batch, layout, counts, Augmented((first, second), meet))

    def _directions(self) -> tuple[tuple[int, int], ...]:
        return ((0, 1), (1, 0)) if self.options.graphcl_sides == "two" else ((0, 1),)

    def loss_sums(self, model: MoleBlend, prepared: Prepared) -> Tensor:
        (views, meet), options = prepared.parts, self.options
        passes = [encode(model, view.sub.batch, view.shown, view.sub.layout) for view in views]
        pooled = [each.pooled(view.sub.layout, options.pooling) for each, view in zip(passes, views, strict=True)]
        z = [model.heads[HEAD](x) for x in pooled]
        temperature, denominator = options.graphcl_temperature, options.graphcl_denominator
        sums = [info_nce(z[a], z[b], meet, temperature=temperature, denominator=denominator).sum() for a, b in self._directions()]
        return torch.stack(sums).sum().reshape(1)
