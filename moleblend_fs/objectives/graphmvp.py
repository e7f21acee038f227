"""GraphMVP (Liu et al. 2022): a molecule's 2D view x and structure y tell each other from other molecules', and are made from each other.

Contrastive, EBM-NCE: s(-x y / T) + k s(x y' / T), of unit vectors, averaged over both orders of negatives, s(x) = log(1 + e^x).
Generative, in either direction, averaged: |decoder(mu + e^(logvar / 2) eps) - y|^2 + beta KL, mu and logvar linear maps of x,
KL = -1/2 sum(1 + logvar - mu^2 - e^logvar); no gradient reaches the target y.
Both views are of the same connected part of a molecule. GraphMVP-G adds AttrMask, GraphMVP-C ContextPred, on whole molecules.
Shape legend: B molecules, d embedding width.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.heads import register_head
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import Shown
from moleblend_fs.objectives.attr_mask import AttrMask, AttrMaskOptions
from moleblend_fs.objectives.common import gradients
from moleblend_fs.objectives.common.contrastive import (
    Compared,
    Projection,
    check_temperature,
    compared,
    info_nce,
    right_loss,
    similarity,
    wrong_loss,
)
from moleblend_fs.objectives.common.dual_views import (
    FORMULA,
    DualViewOptions,
    ShowsStructures,
    StructureView,
    num_structures,
    structure_encoder,
    structure_views,
    told_by_formula,
)
from moleblend_fs.objectives.common.groups import group_of, next_in_group
from moleblend_fs.objectives.common.hashed_draws import GROWTH
from moleblend_fs.objectives.common.reconstruction import ERRORS, BothWays, Reconstruction, divergence, error_of, latent_noise
from moleblend_fs.objectives.common.subgraphs import draw_connected, select_atoms
from moleblend_fs.objectives.common.views import encode, full_view
from moleblend_fs.objectives.context_pred import ContextPred, ContextPredOptions
from moleblend_fs.objectives.objective import Curve, Objective, Prepared, Read, Term
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.precision import at_least_float32
from moleblend_fs.option_fields import option

LATENT, MAPS = "graphmvp_latent", "graphmvp_projections"
CONTRASTS, TARGETS, PROJECTIONS = ("ebm_nce", "info_nce"), ("detached", "attached"), ("none", "mlp")
BESIDE = {"G": (AttrMask, 1.0), "C": (ContextPred, 0.1)}
"""What GraphMVP-G and GraphMVP-C learn besides, and its published weight."""


def latent_head(config: ModelConfig) -> nn.Module:
    return BothWays(config, Reconstruction)


def projections_head(config: ModelConfig) -> nn.Module:
    return BothWays(config, Projection)


register_head(LATENT, latent_head)
register_head(MAPS, projections_head)


@dataclass(frozen=True, kw_only=True)
class GraphMVPOptions(DualViewOptions, AttrMaskOptions, ContextPredOptions):
    """The published checkpoint's by default."""

    graphmvp_variant: str = option(
        "plain", "G: AttrMask besides; C: ContextPred besides, at a tenth; with their options", ("plain", *BESIDE)
    )
    graphmvp_drop: float = option(0.15, "share M of a molecule's atoms that neither view shows; floor((1 - M) n) + 1 connected ones stay")
    graphmvp_contrast: str = option("ebm_nce", "contrastive loss: EBM-NCE, or InfoNCE over the group", CONTRASTS)
    graphmvp_contrast_weight: float = option(1.0, "weight of the contrastive loss; 0 leaves it out")
    graphmvp_temperature: float = option(0.2, "T of the contrastive loss, what cosines are divided by")
    graphmvp_negatives: int = option(1, "k of EBM-NCE: other molecules that each molecule is compared with")
    graphmvp_projection: str = option(
        "none", "map of either view's vector before the contrastive loss: none, as published, or two layers", PROJECTIONS
    )
    graphmvp_generative_weight: float = option(1.0, "weight of the generative loss; 0 leaves it out")
    graphmvp_prior_weight: float = option(2.0, "beta, weight of the KL divergence within the generative loss")
    graphmvp_error: str = option("l2", "error of a vector made from the other: mean of squares, of absolute values, or 1 - cosine", ERRORS)
    graphmvp_target: str = option("detached", "whether the generative loss's gradient reaches its target", TARGETS)

    def __post_init__(self) -> None:
        for base in (DualViewOptions, AttrMaskOptions, ContextPredOptions):
            base.__post_init__(self)  # type: ignore[attr-defined]
        check_temperature("--graphmvp-temperature", self.graphmvp_temperature)
        if not 0 <= self.graphmvp_drop < 1:
            raise UserError(f"--graphmvp-drop must lie in [0, 1), got {self.graphmvp_drop}")
        if self.graphmvp_negatives < 1:
            raise UserError(f"--graphmvp-negatives must be at least 1, got {self.graphmvp_negatives}")
        weights = {
            name: getattr(self, name) for name in ("graphmvp_contrast_weight", "graphmvp_generative_weight", "graphmvp_prior_weight")
        }
        for name, weight in weights.items():
            if weight < 0:
                raise UserError(f"--{name.replace('_', '-')} must not be negative, got {weight}")
        if not self.graphmvp_contrast_weight and not self.graphmvp_generative_weight:
            raise UserError("--graphmvp-contrast-weight and --graphmvp-generative-weight are both 0: nothing is left to learn")

    def of(self, options: type) -> Any:
        """Those of them that are another objective's."""
        return options(**{field.name: getattr(self, field.name) for field in dataclasses.fields(options)})


class OneStructure(NamedTuple):
    """A structure's view; the molecules that have it (N,); for each shift the negatives (B,), places in the batch, and whether molecules
    have one; which molecules of those that are present are compared with which; and their noise's place."""

    view: StructureView
    molecules: Tensor
    negatives: list[tuple[Tensor, Tensor]]
    meet: Compared
    number: int


class Views(NamedTuple):
    """What is left of the molecules; the 2D view of it; its structures; seed and epoch; what the objective beside has prepared; and how
    many molecules their formula tells, see `told_by_formula`."""

    batch: MoleculeBatch
    layout: Layout
    flat: Shown
    structures: list[OneStructure]
    draw: tuple[int, int]
    beside: Prepared | None
    formula: Tensor


class GraphMVP(ShowsStructures):
    """See the module."""

    name: ClassVar[str] = "graphmvp"
    Options: ClassVar[type] = GraphMVPOptions
    options: GraphMVPOptions
    curves: ClassVar[dict[str, Curve]] = {
        "same_molecule": Curve("A 2D view and its own structure (graphmvp)", "nats"),
        "another_molecule": Curve("A 2D view and another structure (graphmvp)", "nats"),
        "made_vector": Curve("A view made from the other (graphmvp)", "error"),
        "latent_prior": Curve("Divergence from the prior (graphmvp)", "nats"),
        **AttrMask.curves,
        **ContextPred.curves,
    }

    def __init__(self, options: GraphMVPOptions):
        super().__init__(options)
        found, self.beside_weight = BESIDE.get(options.graphmvp_variant, (None, 0.0))
        self.beside: Objective | None = None if found is None else found(options.of(found.Options))

    def heads(self) -> tuple[str, ...]:
        options = self.options
        maps = (MAPS,) if options.graphmvp_projection == "mlp" and options.graphmvp_contrast_weight else ()
        latent = (LATENT,) if options.graphmvp_generative_weight else ()
        return (*maps, *latent, *options.heads, *(self.beside.heads() if self.beside else ()))

    def terms(self) -> tuple[Term, ...]:
        options, contrast = self.options, self.options.graphmvp_contrast_weight
        found = [Term("same_molecule", contrast)] if contrast else []
        if contrast and options.graphmvp_contrast == "ebm_nce":
            found.append(Term("another_molecule", contrast * options.graphmvp_negatives))
        if generative := options.graphmvp_generative_weight:
            found += [Term("made_vector", generative), Term("latent_prior", generative * options.graphmvp_prior_weight)]
        if self.beside:
            found += [Term(term.name, self.beside_weight * term.weight) for term in self.beside.terms()]
        return tuple(found)

    @property
    def passes(self) -> float:
        kept = 1 - self.options.graphmvp_drop
        return kept * (1 + self.conformers) + (self.beside.passes if self.beside else 0)

    def prepare(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Prepared:
        beside = self.beside.prepare(batch, layout, seed=seed, epoch=epoch) if self.beside else None
        whole, whole_layout, drop = batch, layout, self.options.graphmvp_drop
        flat, views = full_view(batch, layout, "2d"), structure_views(batch, layout, self.options)
        if drop > 0:
            count = torch.floor(layout.cu_atoms.diff().double() * (1 - drop) + 1).long()
            sub = select_atoms(batch, layout, draw_connected(batch, layout, count, stream=GROWTH, seed=seed, epoch=epoch))
            batch, layout, flat = sub.batch, sub.layout, sub.show(flat)
            views = [StructureView(sub.show(view.shown), view.present) for view in views]
        shifts = range(1, self.options.graphmvp_negatives + 1)
        structures = []
        for number, view in enumerate(views):
            molecules = view.present.nonzero().squeeze(1)
            found = [next_in_group(batch, seed=seed, epoch=epoch, shift=shift, among=view.present) for shift in shifts]
            negatives = [(partner, other & view.present) for partner, other in found]
            structures.append(OneStructure(view, molecules, negatives, compared(group_of(batch), molecules, molecules), number))
        counts = self._counts(structures)
        if beside is not None:
            counts = torch.cat([counts, beside.counts])
        formula = told_by_formula(whole, whole_layout, num_structures(whole, self.options) > 0)
        return Prepared(whole, whole_layout, counts, Views(batch, layout, flat, structures, (seed, epoch), beside, formula))

    def _counts(self, structures: list[OneStructure]) -> Tensor:
        present = torch.stack([one.view.present.sum() for one in structures]).sum()
        counts = []
        if self.options.graphmvp_contrast_weight and self.options.graphmvp_contrast == "ebm_nce":
            counts += [present, 2 * torch.stack([other.sum() for one in structures for _, other in one.negatives]).sum()]
        elif self.options.graphmvp_contrast_weight:
            counts.append(2 * torch.stack([one.meet.counts.sum() for one in structures]).sum())
        if self.options.graphmvp_generative_weight:
            counts += [2 * present, 2 * present]
        return torch.stack(counts).double()

    def loss_sums(self, model: MoleBlend, prepared: Prepared) -> Tensor:
        views, options = prepared.parts, self.options
        tower, pooling = structure_encoder(model), options.pooling
        flat_Bd = encode(model, views.batch, views.flat, views.layout).pooled(views.layout, pooling)
        sums = []
        for one in views.structures:
            solid_Bd = encode(tower, views.batch, one.view.shown, views.layout).pooled(views.layout, pooling)
            sums.append(
                torch.stack([*self._contrast(model, flat_Bd, solid_Bd, one), *self._generate(model, flat_Bd, solid_Bd, one, views)])
            )
        total = torch.stack(sums).sum(dim=0)
        if self.beside is not None:
            total = torch.cat([total, self.beside.loss_sums(model, views.beside).to(total.dtype)])
        return total

    def _contrast(self, model: MoleBlend, flat_Bd: Tensor, solid_Bd: Tensor, one: OneStructure) -> Iterator[Tensor]:
        """Sums of the contrastive losses of one structure of each molecule."""
        options, temperature = self.options, self.options.graphmvp_temperature
        if not options.graphmvp_contrast_weight:
            return
        if options.graphmvp_projection == "mlp":
            maps: BothWays = model.heads[MAPS]  # type: ignore[assignment]
            flat_Bd, solid_Bd = maps.flat(flat_Bd), maps.structure(solid_Bd)
        if options.graphmvp_contrast == "ebm_nce":
            yield (right_loss(similarity(flat_Bd, solid_Bd, temperature)) * one.view.present).sum()
            wrong = [
                (wrong_loss(similarity(flat_Bd, solid_Bd[partner], temperature)) * other).sum()
                + (wrong_loss(similarity(solid_Bd, flat_Bd[partner], temperature)) * other).sum()
                for partner, other in one.negatives
            ]
            yield torch.stack(wrong).sum()
            return
        x, y = (both.index_select(0, one.molecules) for both in (flat_Bd, solid_Bd))
        ways = [info_nce(a, b, one.meet, temperature=temperature, denominator="all").sum() for a, b in ((x, y), (y, x))]
        yield torch.stack(ways).sum()

    def _generate(self, model: MoleBlend, flat_Bd: Tensor, solid_Bd: Tensor, one: OneStructure, views: Views) -> Iterator[Tensor]:
        """Sums of errors and of divergences, in both directions."""
        if not self.options.graphmvp_generative_weight:
            return
        latent: BothWays = model.heads[LATENT]  # type: ignore[assignment]
        errors, divergences = [], []
        for way, (module, x, y) in enumerate(((latent.flat, flat_Bd, solid_Bd), (latent.structure, solid_Bd, flat_Bd))):
            noise = latent_noise(views.batch, x.shape[1], 2 * one.number + way, views.draw).to(at_least_float32(x).dtype)
            made, mu, logvar = module(x, noise)
            target = gradients.stopped(y) if self.options.graphmvp_target == "detached" else y
            errors.append(error_of(at_least_float32(made), at_least_float32(target), self.options.graphmvp_error) * one.view.present)
            divergences.append(divergence(mu, logvar) * one.view.present)
        yield torch.stack(errors).sum()
        yield torch.stack(divergences).sum()

    def statistics(self, prepared: Prepared) -> dict[str, Tensor]:
        beside = self.beside.statistics(prepared.parts.beside) if self.beside else {}
        return {"formula": prepared.parts.formula, **beside}

    def logged(self) -> dict[str, Callable[[Read], float]]:
        return FORMULA | (self.beside.logged() if self.beside else {})
