"""The atoms' rows of all tokens. Each is taken once, so that its gradient is taken back and nothing is added up.

Shape legend: A atoms, T tokens, d embedding width.
"""

import torch
from torch import Tensor

from moleblend_fs.ops.layout import Layout


class _AtomsOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens_Td, layout):
        ctx.layout = layout
        return tokens_Td.index_select(0, layout.atom_tokens)

    @staticmethod
    def backward(ctx, d_atoms_Ad):
        return d_atoms_Ad.index_select(0, ctx.layout.token_atoms).index_fill_(0, ctx.layout.graph_tokens, 0.0), None


def atoms_of(tokens_Td: Tensor, layout: Layout) -> Tensor:
    """(A, d)."""
    return _AtomsOf.apply(tokens_Td, layout)
