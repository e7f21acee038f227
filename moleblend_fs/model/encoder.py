"""The encoder: post-norm transformer blocks over packed tokens (paper, Eq. 4-5).

Shape legend: T tokens, B molecules, H heads, w head width, d embedding width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from moleblend_fs.model.config import ModelConfig
from moleblend_fs.ops.attention import attention_linear
from moleblend_fs.ops.gelu_dropout import adds_bias, gelu_dropout_linear
from moleblend_fs.ops.layer_norm import reads_half_precision
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import Linear, recomputed_alike
from moleblend_fs.ops.residual_norm import Branch, adds_biases, residual_norm, residual_norm_linear, residual_sum


class LayerNorm(nn.LayerNorm):
    """Layer normalisation with its statistics in float32 for half-precision inputs, too."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype not in (torch.float16, torch.bfloat16) or reads_half_precision(x, self.weight):
            return super().forward(x)
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class Block(nn.Module):
    """x = LN(x + attention(x)); x = LN(x + feed-forward(x)), each branch dropped per molecule with probability `drop_path`."""

    def __init__(self, config: ModelConfig, drop_path: float):
        super().__init__()
        d = config.embed_dim
        self.heads = config.attention_heads
        self.dropout = config.dropout
        self.attention_dropout = config.attention_dropout
        self.activation_dropout = config.activation_dropout
        self.drop_path = drop_path
        self.qkv = Linear(d, 3 * d)
        self.attention_out = Linear(d, d)
        self.attention_norm = LayerNorm(d)
        self.ffn_in = Linear(d, config.ffn_dim)
        self.ffn_out = Linear(config.ffn_dim, d)
        self.ffn_norm = LayerNorm(d)

    def forward(self, x_Td: Tensor, branch: Branch | None, norm: nn.LayerNorm | None, bias: Any, layout: Layout) -> tuple[Tensor, Branch]:
        """One block, from one sum to the next, of which the last is not added up: (its first summand, its branch).

        Args:
            x_Td, branch: what `norm` turns the sum of into the block's input: the previous block's results, or a sum and None.
            norm: the previous block's last norm, so that sums are kept for the backward pass and their norms are not. None where `x_Td`
                is the block's input itself.
            bias: from `ops.attention.prepare_bias`.
        """
        if norm is None:
            qkv = self.qkv(x_Td)
        else:
            x_Td, qkv = residual_norm_linear(x_Td, branch, norm, self.qkv, layout)
        qkv = qkv.view(len(x_Td), 3, self.heads, -1)
        bare, bare_hidden = adds_biases(x_Td), adds_bias(x_Td, self.ffn_in.out_features)
        attention_dropout, activation_dropout = (p if self.training else 0.0 for p in (self.attention_dropout, self.activation_dropout))
        attended = attention_linear(qkv, bias, layout, attention_dropout, self.attention_out.without_bias(bare))
        ffn_in, branch = self.ffn_in.without_bias(bare_hidden), self._branch(attended, self.attention_out, bare)
        x_Td, hidden = residual_norm_linear(x_Td, branch, self.attention_norm, ffn_in, layout)
        hidden_bias = self.ffn_in.bias if bare_hidden else None
        out = gelu_dropout_linear(hidden, hidden_bias, self.ffn_out.without_bias(bare), activation_dropout)
        return x_Td, self._branch(out, self.ffn_out, bare)

    def _branch(self, out_Td: Tensor, layer: nn.Linear, bare: bool) -> Branch:
        rates = (self.dropout, self.drop_path) if self.training else (0.0, 0.0)
        return Branch(out_Td, layer if bare else None, *rates)


class Encoder(nn.Module):
    """LayerNorm of the embedding sums, then the blocks."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.checkpoint_layers = config.checkpoint_layers
        self.embedding_norm = LayerNorm(config.embed_dim)
        last = max(config.layers - 1, 1)
        self.blocks = nn.ModuleList(Block(config, config.drop_path * i / last) for i in range(config.layers))

    def forward(self, x_Td: Tensor, bias: Any, layout: Layout, blocks: int | None = None, *, normalised: bool = False) -> Tensor:
        """(T, d) representations of all tokens, from their embedding sums; after the first `blocks` blocks where that is given.

        Args:
            normalised: whether the sums went through `embedding_norm` already.
        """
        norm: nn.LayerNorm | None = None if normalised else self.embedding_norm
        branch: Branch | None = None
        for number, block in enumerate(self.blocks[:blocks]):
            recomputed = self.training and number < self.checkpoint_layers
            if branch is not None and (recomputed or not adds_biases(x_Td)):
                x_Td, branch = residual_sum(x_Td, branch, layout), None
            if recomputed:
                given = (block, x_Td, norm, bias, layout)
                x_Td = checkpoint(_sum_to_sum, *given, use_reentrant=False, context_fn=recomputed_alike)
            else:
                x_Td, branch = block(x_Td, branch, norm, bias, layout)
            norm = block.ffn_norm  # type: ignore[assignment]
        return x_Td if norm is None else residual_norm(x_Td, branch, norm, layout)


def _sum_to_sum(block: nn.Module, sum_Td: Tensor, norm: nn.LayerNorm | None, bias: Any, layout: Layout) -> Tensor:
    """A block that is computed again in the backward pass: one tensor is kept for it."""
    x_Td, branch = block(sum_Td, None, norm, bias, layout)
    return residual_sum(x_Td, branch, layout)
