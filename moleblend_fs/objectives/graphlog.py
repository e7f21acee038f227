"""GraphLoG (Xu et al. 2021): a molecule and a copy with hidden atoms, close to each other as subgraphs, as graphs, and to prototypes.

    intra   -log[sum over hidden u of e^s(u, v') / sum over all atoms u of e^s(u, v')],  v' a hidden atom of the copy, u of its molecule
    inter   -log[e^s(g, g') / sum over molecules a of the group of e^s(a, g')],          g' the copy's vector
    proto   -log softmax of the nearest prototype, level by level from the highest down, among the children of the last one
    parent  -log softmax of each prototype's parent, over all prototypes one level up, mean over a level

s = cosine / tau of projections. The last two are there once prototypes were found (`moleblend prototypes`); they are trained from then on.
Shape legend: B molecules, A atoms, P ordered pairs, K prototypes, d embedding width.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.heads import register_head
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import Shown
from moleblend_fs.objectives.common.contrastive import (
    FAR,
    Compared,
    PoolingOptions,
    Projection,
    check_temperature,
    compared,
    info_nce,
    log_sum_exp_by,
    pairs_within,
    unit,
)
from moleblend_fs.objectives.common.groups import GroupOptions, group_of
from moleblend_fs.objectives.common.hashed_draws import HIDDEN_ATOM
from moleblend_fs.objectives.common.prototypes import PROJECTION, load_prototypes
from moleblend_fs.objectives.common.subgraphs import check_share, draw_atoms, share_and_one
from moleblend_fs.objectives.common.views import encode, full_view
from moleblend_fs.objectives.objective import Curve, Objective, Prepared, Term
from moleblend_fs.ops.constants import constant
from moleblend_fs.ops.layout import Layout
from moleblend_fs.option_fields import option

PROTOTYPES, LEVELS, LEVEL = "graphlog_prototypes", "graphlog_levels", "graphlog_level_"
"""The head, and its sizes: how many levels, and how many prototypes each has."""
POSITIVES = ("hidden", "same")


class PrototypeHead(nn.Module):
    """Prototypes (K, d) of each level, from the lowest one up."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        sizes = [config.size_of(f"{LEVEL}{number}") for number in range(config.size_of(LEVELS))]
        self.levels = nn.ParameterList(nn.Parameter(torch.empty(size, config.embed_dim)) for size in sizes)


register_head(PROJECTION, lambda config: Projection(config, activation=F.relu))
register_head(PROTOTYPES, PrototypeHead)


@dataclass(frozen=True, kw_only=True)
class GraphLoGOptions(GroupOptions, PoolingOptions):
    """Xu et al.'s code by default. They train an epoch without prototypes, and then ten with them."""

    graphlog_rate: float = option(0.3, "share r of a molecule's n atoms that its copy hides: floor(r n + 1)")
    graphlog_temperature: float = option(0.04, "tau, what cosines are divided by")
    graphlog_positives: str = option(
        "hidden",
        "which atoms of the molecule belong to a hidden atom of the copy: all that are hidden there, as coded, or the same",
        POSITIVES,
    )
    graphlog_prototypes: str = option("", "file of `moleblend prototypes`, which adds the losses of prototypes; none: without them")
    graphlog_prototype_weight: float = option(0.1, "weight of the losses of prototypes")

    def __post_init__(self) -> None:
        GroupOptions.__post_init__(self)
        check_share("--graphlog-rate", self.graphlog_rate)
        check_temperature("--graphlog-temperature", self.graphlog_temperature)
        if not self.graphlog_prototype_weight > 0:
            raise UserError(f"--graphlog-prototype-weight must be above 0, got {self.graphlog_prototype_weight}")


class Copied(NamedTuple):
    """The molecule and its copy, as shown; which atoms (A,) the copy hides, and which of these count; how the graphs are compared."""

    whole: Shown
    copy: Shown
    hidden: Tensor
    counted: Tensor
    meet: Compared


class GraphLoG(Objective):
    """See the module."""

    name: ClassVar[str] = "graphlog"
    Options: ClassVar[type] = GraphLoGOptions
    options: GraphLoGOptions
    curves: ClassVar[dict[str, Curve]] = {
        "hidden_subgraph": Curve("Hidden atoms find their molecule's (graphlog)", "nats"),
        "same_graph": Curve("A copy finds its molecule (graphlog)", "nats"),
        "prototype": Curve("A molecule and its prototypes (graphlog)", "nats, summed over levels"),
        "parent_prototype": Curve("Prototypes and their parents (graphlog)", "nats, summed over levels"),
    }

    def __init__(self, options: GraphLoGOptions):
        super().__init__(options)
        self.prototypes = load_prototypes(options.graphlog_prototypes) if options.graphlog_prototypes else None
        if self.prototypes is not None and self.prototypes.pooling != options.pooling:
            raise UserError(f"{options.graphlog_prototypes}: found with --pooling {self.prototypes.pooling}; train with the same")

    def heads(self) -> tuple[str, ...]:
        return (PROJECTION,) if self.prototypes is None else (PROJECTION, PROTOTYPES)

    def terms(self) -> tuple[Term, ...]:
        local = (Term("hidden_subgraph", 1.0), Term("same_graph", 1.0))
        if self.prototypes is None:
            return local
        weight = self.options.graphlog_prototype_weight
        found = (*local, Term("prototype", weight))
        return (*found, Term("parent_prototype", weight)) if self.prototypes.parents else found

    @property
    def passes(self) -> float:
        return 2.0

    @property
    def group(self) -> int | None:
        return self.options.negatives_group

    def config_fields(self) -> dict[str, Any]:
        if self.prototypes is None:
            return {}
        levels = self.prototypes.levels
        return {"sizes": {LEVELS: len(levels)} | {f"{LEVEL}{number}": len(level) for number, level in enumerate(levels)}}

    def begin(self, model: MoleBlend) -> None:
        if self.prototypes is None:
            return
        if self.prototypes.width != model.config.embed_dim:
            raise UserError(
                f"{self.options.graphlog_prototypes}: prototypes of a model with --embed-dim {self.prototypes.width}, but this one has "
                f"{model.config.embed_dim}"
            )
        with torch.no_grad():
            for parameter, values in zip(levels_of(model), self.prototypes.levels, strict=True):
                parameter.copy_(torch.tensor(values))

    def prepare(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Prepared:
        count = share_and_one(layout, self.options.graphlog_rate)
        hidden = draw_atoms(batch, layout, count, stream=HIDDEN_ATOM, seed=seed, epoch=epoch)
        whole = full_view(batch, layout, "2d")
        counted = hidden & (count < layout.cu_atoms.diff())[layout.atom_molecule]  # where all are hidden there is nothing to tell apart
        if self.options.graphlog_positives == "same":
            counted = hidden & (layout.cu_atoms.diff() > 1)[layout.atom_molecule]
        every = torch.arange(len(batch), device=hidden.device)
        meet = compared(group_of(batch), every, every)
        counts = [counted.sum(), meet.counts.sum(), *[torch.ones_like(every).sum()] * (len(self.terms()) - 2)]
        copy = dataclasses.replace(whole, hidden=hidden)
        return Prepared(batch, layout, torch.stack(counts).double(), Copied(whole, copy, hidden, counted, meet))

    def loss_sums(self, model: MoleBlend, prepared: Prepared) -> Tensor:
        (whole, copy, hidden, counted, meet), batch, layout = prepared.parts, prepared.batch, prepared.layout
        tau, project = self.options.graphlog_temperature, model.heads[PROJECTION]
        original, other = (encode(model, batch, shown, layout) for shown in (whole, copy))
        score_P = pairs_within(unit(project(original.atoms)), unit(project(other.atoms)), layout) / tau
        same = self.options.graphlog_positives == "same"
        right_P = layout.pair_row == layout.pair_column if same else hidden[layout.pair_row]
        intra = subgraph_losses(score_P, right_P, layout)
        graph_Bd, copy_Bd = (project(each.pooled(layout, self.options.pooling)) for each in (original, other))
        inter = info_nce(copy_Bd, graph_Bd, meet, temperature=tau, denominator="all")
        sums = [torch.where(counted, intra, 0).sum(), inter.sum()]
        if self.prototypes is not None:
            levels, parents = levels_of(model), self.prototypes.parents
            sums.append(prototype_losses(graph_Bd, levels, parents, tau).sum())
            if parents:
                sums.append(len(batch) * parent_loss(levels, parents, tau))  # the same for each molecule, so that parts of a batch add up
        return torch.stack(sums)


def levels_of(model: MoleBlend) -> Sequence[Tensor]:
    """Prototypes of a model, from the lowest level up."""
    head: PrototypeHead = model.heads[PROTOTYPES]  # type: ignore[assignment]
    return list(head.levels)


def subgraph_losses(score_P: Tensor, right_P: Tensor, layout: Layout) -> Tensor:
    """(A,) -log of the share of e^s that right pairs have, of all pairs (u, v') of an atom v' of the copy."""
    column, atoms = layout.pair_column, layout.num_total_atoms
    every = log_sum_exp_by(score_P, column, atoms)
    return every - log_sum_exp_by(score_P.masked_fill(~right_P, FAR), column, atoms)


def prototype_losses(graph_Bd: Tensor, levels: Sequence[Tensor], parents: Sequence[Sequence[int]], tau: float) -> Tensor:
    """(B,) -log softmax of the nearest prototype, summed over levels; below the highest, among the children of the one chosen above."""
    graph, losses, chosen = unit(graph_Bd), [], None
    for number in reversed(range(len(levels))):
        score = graph @ unit(levels[number]).to(graph.dtype).T / tau
        if chosen is not None:
            parent = constant(tuple(parents[number]), torch.int64, graph.device)
            score = score.masked_fill(parent.unsqueeze(0) != chosen.unsqueeze(1), FAR)
        chosen = score.argmax(dim=1)
        losses.append(-score.log_softmax(dim=1).gather(1, chosen.unsqueeze(1)).squeeze(1))
    return torch.stack(losses).sum(dim=0)


def parent_loss(levels: Sequence[Tensor], parents: Sequence[Sequence[int]], tau: float) -> Tensor:
    """Mean over a level's prototypes of -log softmax of the parent, summed over levels."""
    each = []
    for below, above, parent in zip(levels, levels[1:], parents, strict=False):
        target = constant(tuple(parent), torch.int64, below.device)
        each.append(F.cross_entropy(unit(below) @ unit(above).T / tau, target))
    return torch.stack(each).sum()
