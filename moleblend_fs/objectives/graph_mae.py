"""GraphMAE (Hou et al. 2022), as for molecules: hidden atoms' elements by a decoder that sees them only through their neighbours.

Shape legend: A atoms, T tokens, P ordered pairs, H heads.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.graph import ELEMENTS
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.encoder import Block, LayerNorm
from moleblend_fs.model.heads import register_head
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import Shown, show_all
from moleblend_fs.objectives.common.hashed_draws import HIDDEN_ATOM
from moleblend_fs.objectives.common.subgraphs import check_share, draw_atoms, share_and_one
from moleblend_fs.objectives.common.views import encode
from moleblend_fs.objectives.objective import Curve, Objective, Prepared, Term
from moleblend_fs.ops.attention import prepare_bias
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import Linear
from moleblend_fs.ops.precision import at_least_float32
from moleblend_fs.ops.residual_norm import residual_norm
from moleblend_fs.option_fields import option

HEAD = "graph_mae_decoder"
SEEN = ("all", "neighbours")
CLOSED = -1e4
"""Bias of a pair that the decoder does not see: its attention is 0 in every precision."""


class Decoder(nn.Module):
    """PReLU, Linear without bias, hidden atoms set to 0, one Transformer block with the encoder's bias, Linear to the elements."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.heads = config.attention_heads
        self.slope = nn.Parameter(torch.empty(1))
        self.enter = Linear(config.embed_dim, config.embed_dim, bias=False)
        self.norm = LayerNorm(config.embed_dim)
        self.block = Block(config, 0.0)
        self.out = Linear(config.embed_dim, ELEMENTS)

    def start(self) -> None:
        """PReLU's usual slope."""
        nn.init.constant_(self.slope, 0.25)

    def forward(self, tokens_Td: Tensor, hidden_A: Tensor, bias_PH: Tensor, graph_bias_H: Tensor, layout: Layout) -> Tensor:
        """(A, 119) of all atoms."""
        entered = self.enter(F.prelu(tokens_Td, self.slope))
        hidden = torch.zeros(layout.num_tokens, dtype=torch.bool, device=hidden_A.device).index_copy(0, layout.atom_tokens, hidden_A)
        entered = torch.where(hidden.unsqueeze(1), 0, entered)
        bias = prepare_bias(bias_PH, graph_bias_H, layout, tokens_Td.shape[1] // self.heads)
        x_Td, branch = self.block(entered, None, self.norm, bias, layout)
        decoded = residual_norm(x_Td, branch, self.block.ffn_norm, layout)
        return self.out(decoded.index_select(0, layout.atom_tokens))


register_head(HEAD, Decoder)


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
        bias: Tensor = encoded.bias
        graph_bias: Tensor = model.relations.graph_bias
        if self.options.graph_mae_decoder == "neighbours":
            bias, graph_bias = bias.masked_fill((batch.spd > 1).unsqueeze(1), CLOSED), 0 * graph_bias + CLOSED
        output = model.heads[HEAD](encoded.tokens, shown.hidden, bias, graph_bias, layout)
        chosen = at_least_float32(output.index_select(0, places))
        losses = scaled_cosine_error(chosen, batch.atom_features[places, 0].long(), self.options.graph_mae_alpha)
        return losses.sum().reshape(1)
