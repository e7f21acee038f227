"""GraphMAE (Hou et al. 2022), as for molecules: hidden atoms' elements by a decoder that sees them only through their neighbours.

Shape legend: A atoms.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.graph import ELEMENTS
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.heads import register_head
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import Shown, show_all
from moleblend_fs.objectives.common.decoder import SEEN, AtomDecoder, seen_by
from moleblend_fs.objectives.common.hashed_draws import HIDDEN_ATOM
from moleblend_fs.objectives.common.subgraphs import check_share, draw_atoms, share_and_one
from moleblend_fs.objectives.common.views import encode
from moleblend_fs.objectives.objective import Curve, Objective, Prepared, Term
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.precision import at_least_float32
from moleblend_fs.option_fields import option

HEAD = "graph_mae_decoder"


def element_decoder(config: ModelConfig) -> AtomDecoder:
    return AtomDecoder(config, ELEMENTS)


register_head(HEAD, element_decoder)


@dataclass(frozen=True, kw_only=True)
class GraphMAEOptions:
    """The chemistry script's by default."""

    graph_mae_rate: float = option(0.25, "share r of a molecule's n atoms that are hidden: floor(r n + 1)")
    graph_mae_alpha: float = option(1.0, "power of the loss (1 - cosine)^alpha, at least 1")
    graph_mae_decoder: str = option(
        "all", "atoms that the decoder's one block sees: all of the molecule, or bonded neighbours only, as the published one", SEEN
    )

    def __post_init__(self) -> None:
        check_share("--graph-mae-rate", self.graph_mae_rate)
        if not self.graph_mae_alpha >= 1:
            raise UserError(f"--graph-mae-alpha must be at least 1, got {self.graph_mae_alpha}")


def scaled_cosine_error(output_M119: Tensor, element_M: Tensor, alpha: float) -> Tensor:
    """(M,) (1 - cos(output, one-hot))^alpha."""
    right = output_M119.gather(1, element_M.unsqueeze(1)).squeeze(1)
    return (1 - right / output_M119.norm(dim=1).clamp(min=1e-8)).clamp(min=0) ** alpha


class Masked(NamedTuple):
    """What is shown, and the atoms (N,) that are predicted, places in A."""

    shown: Shown
    atoms: Tensor


class GraphMAE(Objective):
    """See the module."""

    name: ClassVar[str] = "graph_mae"
    Options: ClassVar[type] = GraphMAEOptions
    options: GraphMAEOptions
    curves: ClassVar[dict[str, Curve]] = {"masked_atom": Curve("Hidden atoms (graph_mae)", "(1 - cosine)^alpha", uninformed=1.0)}

    def heads(self) -> tuple[str, ...]:
        return (HEAD,)

    def terms(self) -> tuple[Term, ...]:
        return (Term("masked_atom", 1.0),)

    def prepare(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Prepared:
        count = share_and_one(layout, self.options.graph_mae_rate)
        hidden = draw_atoms(batch, layout, count, stream=HIDDEN_ATOM, seed=seed, epoch=epoch)
        shown = dataclasses.replace(show_all(batch, layout, "2d"), hidden=hidden)
        predicted = hidden
        if self.options.graph_mae_decoder == "neighbours":  # of an atom whose neighbours are all hidden the decoder has nothing but zeros
            tells = (batch.spd == 1) & ~hidden[layout.pair_column]
            predicted = hidden & torch.zeros_like(hidden).index_put((layout.pair_row[tells],), torch.ones_like(hidden[:1]))
        return Prepared(batch, layout, predicted.sum().double().reshape(1), Masked(shown, predicted.nonzero().squeeze(1)))

    def loss_sums(self, model: MoleBlend, prepared: Prepared) -> Tensor:
        (shown, places), batch, layout = prepared.parts, prepared.batch, prepared.layout
        encoded = encode(model, batch, shown, layout)
        bias, graph_bias = seen_by(self.options.graph_mae_decoder, encoded.bias, model.relations.graph_bias, batch)
        output = model.heads[HEAD](encoded.tokens, shown.hidden, bias, graph_bias, layout)
        chosen = at_least_float32(output.index_select(0, places))
        losses = scaled_cosine_error(chosen, batch.atom_features[places, 0].long(), self.options.graph_mae_alpha)
        return losses.sum().reshape(1)
