"""A decoder of atoms' vectors (GraphMAE's, Mole-BERT's): one Transformer block in the place of their one layer of message passing.

Shape legend: A atoms, T tokens, P ordered pairs, H heads, C outputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.encoder import Block, LayerNorm
from moleblend_fs.ops.attention import prepare_bias
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import Linear
from moleblend_fs.ops.residual_norm import residual_norm

SEEN = ("all", "neighbours")
"""Atoms that it sees: all of the molecule, or bonded neighbours only."""
CLOSED = -1e4
"""Bias of a pair that the decoder does not see: its attention is 0 in every precision."""


class AtomDecoder(nn.Module):
    """PReLU, Linear without bias, hidden atoms set to 0, one Transformer block with the encoder's bias, Linear to the outputs."""

    def __init__(self, config: ModelConfig, outputs: int):
        super().__init__()
        self.heads = config.attention_heads
        self.slope = nn.Parameter(torch.empty(1))
        self.enter = Linear(config.embed_dim, config.embed_dim, bias=False)
        self.norm = LayerNorm(config.embed_dim)
        self.block = Block(config, 0.0)
        self.out = Linear(config.embed_dim, outputs)

    def start(self) -> None:
        """PReLU's usual slope."""
        nn.init.constant_(self.slope, 0.25)

    def forward(self, tokens_Td: Tensor, hidden_A: Tensor | None, bias_PH: Tensor, graph_bias_H: Tensor, layout: Layout) -> Tensor:
        """(A, C) of all atoms; those that are hidden, if any, enter as 0."""
        entered = self.enter(F.prelu(tokens_Td, self.slope))
        if hidden_A is not None:
            hidden = torch.zeros(layout.num_tokens, dtype=torch.bool, device=hidden_A.device).index_copy(0, layout.atom_tokens, hidden_A)
            entered = torch.where(hidden.unsqueeze(1), 0, entered)
        bias = prepare_bias(bias_PH, graph_bias_H, layout, tokens_Td.shape[1] // self.heads)
        x_Td, branch = self.block(entered, None, self.norm, bias, layout)
        decoded = residual_norm(x_Td, branch, self.block.ffn_norm, layout)
        return self.out(decoded.index_select(0, layout.atom_tokens))


def seen_by(decoder: str, bias_PH: Tensor, graph_bias_H: Tensor, batch: MoleculeBatch) -> tuple[Tensor, Tensor]:
    """The biases of a decoder that sees one of `SEEN`; neighbours do not see the graph token either."""
    if decoder == "all":
        return bias_PH, graph_bias_H
    return bias_PH.masked_fill((batch.spd > 1).unsqueeze(1), CLOSED), 0 * graph_bias_H + CLOSED
