"""Masked motifs: one motif of a molecule is hidden, and classified from the sum of its parent's atoms' vectors.

    L = mean over molecules of CE(hidden motif)

MGSSL's question (see `mgssl`) of a model that does not see the answer, and without a recurrent network: a plain part of it, by a name of
its own. A motif's parent is the one that a walk from the first atom's motif comes from.
Shape legend: A atoms, M molecules with a hidden motif, K atoms that are read, d embedding width.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.heads import register_head
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import Shown
from moleblend_fs.objectives.common.hashed_draws import MOTIF, bits, places_by
from moleblend_fs.objectives.common.motifs import SIZE, LearnsMotifs, MotifOptions, motifs_in, sums_over_motifs
from moleblend_fs.objectives.common.subgraphs import paths_through, without_bonds
from moleblend_fs.objectives.common.views import encode, full_view
from moleblend_fs.objectives.objective import NATS, Curve, Prepared, Term
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import Linear
from moleblend_fs.ops.precision import at_least_float32
from moleblend_fs.ops.relation_bias import SHOW_EDGE, SHOW_SPD
from moleblend_fs.option_fields import option

HEAD = "motif_mask"
HIDDEN_BITS = {"atoms": 0, "bonds": SHOW_EDGE, "paths": SHOW_EDGE | SHOW_SPD}
READ = ("parent", "own")


class MotifHead(nn.Module):
    """Linear, ReLU, Linear to the motifs' classes."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.hidden, self.out = Linear(config.embed_dim, config.embed_dim), Linear(config.embed_dim, config.size_of(SIZE))

    def forward(self, x_Md: Tensor) -> Tensor:
        """(M, classes)."""
        return at_least_float32(self.out(F.relu(self.hidden(x_Md))))


register_head(HEAD, MotifHead)


@dataclass(frozen=True, kw_only=True)
class MotifMaskOptions(MotifOptions):
    """What is hidden of a motif, and where its class is read."""

    motif_mask_hide: str = option(
        "bonds",
        "what is hidden: the motif's atoms, also the classes of bonds in all paths over them, or (paths) also those paths' lengths",
        tuple(HIDDEN_BITS),
    )
    motif_mask_read: str = option(
        "parent", "whose atoms tell the class: the parent's, so that a molecule's first motif is never drawn, or its own", READ
    )


class Hidden(NamedTuple):
    """What is shown; places in A of the atoms that are read (K,), and the question each belongs to; the classes asked for (M,)."""

    shown: Shown
    atoms: Tensor
    question: Tensor
    classes: Tensor


class MotifMask(LearnsMotifs):
    """See the module."""

    name: ClassVar[str] = "motif_mask"
    Options: ClassVar[type] = MotifMaskOptions
    options: MotifMaskOptions
    curves: ClassVar[dict[str, Curve]] = {"hidden_motif": Curve("The hidden motif (motif_mask)", NATS)}

    def heads(self) -> tuple[str, ...]:
        return (HEAD,)

    def terms(self) -> tuple[Term, ...]:
        return (Term("hidden_motif", 1.0),)

    def prepare(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Prepared:
        found, of_parent = motifs_in(batch, layout, self.vocabulary), self.options.motif_mask_read == "parent"
        lists = found.lists
        may = lists.parent >= 0 if of_parent else torch.ones_like(lists.parent, dtype=torch.bool)
        key = bits(MOTIF, seed, epoch, batch.molecule_id[lists.molecule], lists.number) + (~may).long() * (1 << 32)
        with_motifs = torch.unique_consecutive(lists.molecule, return_inverse=True)[1]  # molecules may be more than motifs
        drawn = may & (places_by(with_motifs, key) == 0)
        motifs = drawn.nonzero().squeeze(1)
        hidden = torch.zeros_like(layout.atom_molecule, dtype=torch.bool).index_fill(0, found.atoms[drawn[lists.owner]], True)
        shown = full_view(batch, layout, "2d")
        through = paths_through(batch, layout, hidden) & (layout.pair_row != layout.pair_column)
        relations = without_bonds(shown.relations, through, HIDDEN_BITS[self.options.motif_mask_hide])
        question = torch.full_like(lists.parent, -1)
        question[lists.parent[motifs] if of_parent else motifs] = torch.arange(len(motifs), device=motifs.device)
        read = question[lists.owner] >= 0
        parts = Hidden(
            dataclasses.replace(shown, relations=relations, hidden=hidden),
            found.atoms[read],
            question[lists.owner[read]],
            found.classes[motifs],
        )
        return Prepared(batch, layout, torch.tensor([len(motifs)], dtype=torch.float64), parts)

    def loss_sums(self, model: MoleBlend, prepared: Prepared) -> Tensor:
        hidden: Hidden = prepared.parts
        atoms = encode(model, prepared.batch, hidden.shown, prepared.layout).atoms
        logits = model.heads[HEAD](sums_over_motifs(atoms, hidden.atoms, hidden.question, len(hidden.classes)))
        return F.cross_entropy(logits, hidden.classes, reduction="sum").reshape(1)
