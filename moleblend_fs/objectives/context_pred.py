"""ContextPred (Hu et al. 2020): whether an atom's neighbourhood and a ring of atoms around it are of the same molecule.

An atom r is the root. The encoder sees the atoms up to K bonds away from it; h is its vector of r. A small encoder of its own sees those
that are K to K + 2 bonds away; the anchors, which are K away and belong to both, have the mean vector c there.

    L = mean of s(-h c) over molecules + k * mean of s(h c') over c' of k other molecules,  s(x) = log(1 + e^x)

Shape legend: B molecules, A atoms, d embedding width.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.heads import register_head
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import Shown
from moleblend_fs.objectives.common.groups import GroupOptions, next_in_group
from moleblend_fs.objectives.common.hashed_draws import ROOT, bits, places_by
from moleblend_fs.objectives.common.subgraphs import SubBatch, select_atoms
from moleblend_fs.objectives.common.views import encode, full_view
from moleblend_fs.objectives.objective import Curve, Objective, Prepared, Read, Term
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.precision import at_least_float32
from moleblend_fs.option_fields import option

HEAD, CONTEXT_LAYERS = "context_pred_encoder", 3
MODES, ROOTS = ("cbow", "skipgram"), ("with_context", "any")


class ContextEncoder(nn.Module):
    """A model of the same width with three blocks and weights of its own."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        recomputed = min(config.checkpoint_layers, CONTEXT_LAYERS)
        self.model = MoleBlend(dataclasses.replace(config, layers=CONTEXT_LAYERS, checkpoint_layers=recomputed, heads=()))

    def start(self) -> None:
        """As every model begins."""
        self.model.reset_parameters()


register_head(HEAD, ContextEncoder)


@dataclass(frozen=True, kw_only=True)
class ContextPredOptions(GroupOptions):
    """Hu et al.'s code by default, but for the root."""

    context_pred_hops: int = option(5, "bonds K from the root to the edge of its neighbourhood, where the anchors are")
    context_pred_width: int = option(3, "distances that the context has, from K on: K ... K + 2 by default")
    context_pred_mode: str = option(
        "cbow", "what stands for a context: the mean of its anchors, or (skipgram) each anchor for itself", MODES
    )
    context_pred_negatives: int = option(1, "other molecules that each molecule is compared with")
    context_pred_root: str = option(
        "with_context", "root: any atom, as published, or one of those that have a context if the molecule has such", ROOTS
    )

    def __post_init__(self) -> None:
        GroupOptions.__post_init__(self)
        for name in ("context_pred_hops", "context_pred_width", "context_pred_negatives"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if self.context_pred_hops + self.context_pred_width > 200:
            raise UserError(f"--context-pred-hops and --context-pred-width must be below 200 together, got {self}")


class Side(NamedTuple):
    """A part of each molecule: what is left of the batch, what is shown of it, and those of its atoms that are read (N,), places in A'."""

    sub: SubBatch
    shown: Shown
    read: Tensor


class Contexts(NamedTuple):
    """Neighbourhoods, read at their roots; contexts, read at their anchors; and of each molecule (B,) whether it has a context. Negatives:
    (B,) places in the batch, and whether they are other molecules, for each shift."""

    neighbourhood: Side
    context: Side
    present: Tensor
    negatives: list[tuple[Tensor, Tensor]]


def draw_roots(batch: MoleculeBatch, layout: Layout, hops: int, roots: str, *, seed: int, epoch: int) -> Tensor:
    """(A,) bool, one atom of each molecule."""
    key = bits(ROOT, seed, epoch, batch.molecule_id[layout.atom_molecule], layout.atom_number)
    if roots == "with_context":
        at_edge = layout.pair_row[batch.spd == hops]
        key = key + torch.full_like(key, 1 << 32).index_fill(0, at_edge, 0)
    return places_by(layout.atom_molecule, key) == 0


class ContextPred(Objective):
    """See the module."""

    name: ClassVar[str] = "context_pred"
    Options: ClassVar[type] = ContextPredOptions
    options: ContextPredOptions
    curves: ClassVar[dict[str, Curve]] = {
        "own_context": Curve("A neighbourhood and its own context (context_pred)", "nats"),
        "other_context": Curve("A neighbourhood and another context (context_pred)", "nats"),
    }

    def heads(self) -> tuple[str, ...]:
        return (HEAD,)

    def terms(self) -> tuple[Term, ...]:
        return (Term("own_context", 1.0), Term("other_context", float(self.options.context_pred_negatives)))

    @property
    def passes(self) -> float:
        """The neighbourhood is most of a molecule, the context's encoder a part of the base model's."""
        return 1.1

    @property
    def group(self) -> int | None:
        return self.options.negatives_group

    def prepare(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Prepared:
        options = self.options
        hops = options.context_pred_hops
        root = draw_roots(batch, layout, hops, options.context_pred_root, seed=seed, epoch=epoch)
        away = batch.spd[root[layout.pair_row]].long()  # of the roots' rows, which hold every atom once
        anchor = away == hops
        anchors = torch.zeros_like(layout.cu_atoms[1:]).index_add(0, layout.atom_molecule, anchor.long())
        present = anchors > 0
        near, ring = away <= hops, anchor | ((away > hops) & (away < hops + options.context_pred_width))
        counts_too = present[layout.atom_molecule]  # of molecules without a context the root alone is encoded
        view = full_view(batch, layout, "2d")
        neighbourhood, context = (select_atoms(batch, layout, torch.where(counts_too, part, root)) for part in (near, ring))
        shifts = range(1, options.context_pred_negatives + 1)
        negatives = [next_in_group(batch, seed=seed, epoch=epoch, shift=shift, among=present) for shift in shifts]
        each = present.long() if options.context_pred_mode == "cbow" else anchors
        counts = torch.stack([each.sum(), torch.stack([(each * (other & present)).sum() for _, other in negatives]).sum()])
        sides = Contexts(
            Side(neighbourhood, neighbourhood.show(view), root[neighbourhood.atoms].nonzero().squeeze(1)),
            Side(context, context.show(view), anchor[context.atoms].nonzero().squeeze(1)),
            present,
            negatives,
        )
        return Prepared(batch, layout, counts.double(), sides)

    def loss_sums(self, model: MoleBlend, prepared: Prepared) -> Tensor:
        near, ring, present, negatives = prepared.parts
        small: MoleBlend = model.heads[HEAD].model  # type: ignore[assignment, union-attr]
        atoms, around = (at_least_float32(encode(m, s.sub.batch, s.shown, s.sub.layout).atoms) for m, s in ((model, near), (small, ring)))
        root_Bd, anchor_Nd = atoms.index_select(0, near.read), around.index_select(0, ring.read)
        anchor_molecule = ring.sub.layout.atom_molecule[ring.read]
        if self.options.context_pred_mode == "cbow":
            total = torch.zeros_like(root_Bd).index_add(0, anchor_molecule, anchor_Nd)
            number = torch.zeros_like(root_Bd[:, 0]).index_add(0, anchor_molecule, torch.ones_like(anchor_Nd[:, 0]))
            context = total / number.clamp(min=1).unsqueeze(1)
            return context_losses(root_Bd, context, negatives, present)
        return anchor_losses(root_Bd, anchor_Nd, anchor_molecule, negatives, present)

    def statistics(self, prepared: Prepared) -> dict[str, Tensor]:
        present = prepared.parts.present
        return {"molecules": torch.stack([present.sum(), torch.ones_like(present).sum()]).double()}

    def logged(self) -> dict[str, Callable[[Read], float]]:
        """The share of molecules that have a context: the others count for nothing."""

        def share(read: Read) -> float:
            some, all_ = read.statistic("molecules").tolist()
            return round(some / max(all_, 1), 4)

        return {"with_context": share}


def context_losses(root_Bd: Tensor, context_Bd: Tensor, negatives: list[tuple[Tensor, Tensor]], present_B: Tensor) -> Tensor:
    """(2,) sums of s(-h c) and of s(h c')."""
    right = F.softplus(-(root_Bd * context_Bd).sum(dim=1)) * present_B
    wrong = [F.softplus((root_Bd * context_Bd[partner]).sum(dim=1)) * (other & present_B) for partner, other in negatives]
    return torch.stack([right.sum(), torch.stack(wrong).sum()])


def anchor_losses(
    root_Bd: Tensor, anchor_Nd: Tensor, molecule_N: Tensor, negatives: list[tuple[Tensor, Tensor]], present_B: Tensor
) -> Tensor:
    """The same with each anchor a for itself: s(-h a), and s(h' a) with h' of other molecules."""
    right = F.softplus(-(root_Bd[molecule_N] * anchor_Nd).sum(dim=1))
    wrong = [
        (F.softplus((root_Bd[partner[molecule_N]] * anchor_Nd).sum(dim=1)) * (other & present_B)[molecule_N]).sum()
        for partner, other in negatives
    ]
    return torch.stack([right.sum(), torch.stack(wrong).sum()])
