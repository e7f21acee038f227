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
from moleblend_fs.ops.layer_norm import reads_half_precision
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import Linear, gelu_linear, norm_linear, recomputed_alike


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """F.dropout that keeps a mask of bytes on the CPU too, where F.dropout keeps one of floats."""
    if not training or probability == 0:
        return x
    return torch.native_dropout(x, probability, True)[0]


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

    def forward(self, sum_Td: Tensor, norm: nn.LayerNorm | None, bias: Any, layout: Layout) -> Tensor:
        """One block, from one residual sum to the next.

        Args:
            sum_Td: (T, d) what `norm` turns into the block's input: the previous block's residual sum.
            norm: the previous block's last norm, so that sums are kept for the backward pass and their norms are not. None where `sum_Td`
                is the block's input itself.
            bias: from `ops.attention.prepare_bias`.
        """
        x_Td, qkv = (sum_Td, self.qkv(sum_Td)) if norm is None else norm_linear(sum_Td, norm, self.qkv)
        qkv = qkv.view(len(x_Td), 3, self.heads, -1)
        attended = attention_linear(qkv, bias, layout, self.attention_dropout if self.training else 0.0, self.attention_out)
        sum_Td = x_Td + self._branch(attended, layout)
        x_Td, hidden = norm_linear(sum_Td, self.attention_norm, self.ffn_in)
        return x_Td + self._branch(gelu_linear(hidden, self.ffn_out, self.activation_dropout if self.training else 0.0), layout)

    def _branch(self, x_Td: Tensor, layout: Layout) -> Tensor:
        x_Td = dropout(x_Td, self.dropout, self.training)
        if not self.training or self.drop_path == 0:
            return x_Td
        keep = torch.empty(layout.num_molecules, 1, dtype=x_Td.dtype, device=x_Td.device).bernoulli_(1 - self.drop_path)
        return x_Td * (keep / (1 - self.drop_path))[layout.token_molecule]


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
        for number, block in enumerate(self.blocks[:blocks]):
            if self.training and number < self.checkpoint_layers:
                x_Td = checkpoint(block, x_Td, norm, bias, layout, use_reentrant=False, context_fn=recomputed_alike)
            else:
                x_Td = block(x_Td, norm, bias, layout)
            norm = block.ffn_norm  # type: ignore[assignment]
        return x_Td if norm is None else norm(x_Td)
