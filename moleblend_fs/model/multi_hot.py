"""The embedding sums of all tokens as one product: a matrix of zeros and ones, a row for each token, times the rows of all tables.

GPUs multiply in a fraction of the time that they take to gather rows, to add them up, and to sort them for their gradient.

Shape legend: A atoms, T tokens, K columns, d embedding width.
"""

import torch
from torch import Tensor

from moleblend_fs.ops.constants import constant
from moleblend_fs.ops.embedding_rows import ATOM_FIRST_ROW, TABLE_ROWS
from moleblend_fs.ops.layout import Layout

FEATURE_COLUMNS = (256, *[16] * 8)
"""Of OGB's atom features: the element has all values of a byte, hidden atoms' among them; the others have 12 at most."""
DEGREES = 256
FIRST_COLUMNS = tuple(sum(FEATURE_COLUMNS[:i]) for i in range(len(FEATURE_COLUMNS)))
DEGREE_COLUMN = sum(FEATURE_COLUMNS)
GRAPH_COLUMN, BIAS_COLUMN = DEGREE_COLUMN + DEGREES, DEGREE_COLUMN + DEGREES + 1
COLUMNS = BIAS_COLUMN + 7
"""With some of zeros behind, a multiple of 8: products are slow where rows do not begin at 16 bytes."""
ATOM_ROWS = tuple(ATOM_FIRST_ROW + TABLE_ROWS * i + value for i, size in enumerate(FEATURE_COLUMNS) for value in range(size))
"""Rows of the atom table that have a column."""


def by_product(like: Tensor) -> bool:
    """Whether the sums are made so: not on CPUs, where gathering is quicker and other last digits would come."""
    return like.is_cuda


def table_of_columns(atom_table: Tensor, degree_rows: Tensor, graph_token: Tensor, bias: Tensor) -> Tensor:
    """(K, d) what each column stands for.

    Args:
        degree_rows: (256, d), of degree 0 to 255.
        bias: (d,) of the 3D feature.
    """
    atom_rows = atom_table.index_select(0, constant(ATOM_ROWS, torch.int64, atom_table.device))
    rest = atom_table.new_zeros(COLUMNS - BIAS_COLUMN - 1, atom_table.shape[1])
    return torch.cat([atom_rows, degree_rows, graph_token.unsqueeze(0), bias.unsqueeze(0), rest])


def multi_hot(features_A9: Tensor, shows_A9: Tensor, degree_A: Tensor, shows_degree_A: Tensor, bias_A: Tensor, layout: Layout) -> Tensor:
    """(T, K) how often each token has each column, in the type of `bias_A`.

    Args:
        features_A9: uint8. shows_A9: bool, which of them count.
        bias_A: factor of the 3D feature's bias.
    """
    device = features_A9.device
    limits = constant(tuple(size - 1 for size in FEATURE_COLUMNS), torch.uint8, device)
    features = torch.minimum(features_A9, limits) + constant(FIRST_COLUMNS, torch.int64, device)
    degree, bias = degree_A.long() + DEGREE_COLUMN, torch.full_like(degree_A, 0, dtype=torch.int64) + BIAS_COLUMN
    columns = torch.cat([features, degree.unsqueeze(1), bias.unsqueeze(1)], dim=1)
    values = torch.cat([torch.cat([shows_A9, shows_degree_A.unsqueeze(1)], dim=1).to(bias_A.dtype), bias_A.unsqueeze(1)], dim=1)
    hot = bias_A.new_zeros(layout.num_tokens * COLUMNS)
    hot.scatter_(0, (layout.atom_tokens.unsqueeze(1) * COLUMNS + columns).view(-1), values.view(-1))
    return hot.index_fill_(0, layout.graph_tokens * COLUMNS + GRAPH_COLUMN, 1.0).view(layout.num_tokens, COLUMNS)
