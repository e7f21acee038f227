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
DEGREES = 256 + 6
"""All values of a byte, and as many more as make the columns a multiple of 8: products are slow where rows do not begin at 16 bytes."""
DEGREE_COLUMN = sum(FEATURE_COLUMNS)
GRAPH_COLUMN, BIAS_COLUMN = DEGREE_COLUMN + DEGREES, DEGREE_COLUMN + DEGREES + 1
COLUMNS = BIAS_COLUMN + 1
FIRST_COLUMNS = (*[sum(FEATURE_COLUMNS[:i]) for i in range(len(FEATURE_COLUMNS))], DEGREE_COLUMN, BIAS_COLUMN)
LAST_VALUES = (*[size - 1 for size in FEATURE_COLUMNS], 255, 0)
"""Of each atom's columns: of its features, its degree, and the bias of its 3D feature."""
ATOM_ROWS = tuple(ATOM_FIRST_ROW + TABLE_ROWS * i + value for i, size in enumerate(FEATURE_COLUMNS) for value in range(size))
"""Rows of the atom table that have a column."""


def by_product(like: Tensor) -> bool:
    """Whether the sums are made so: not on CPUs, where gathering is quicker and other last digits would come."""
    return like.is_cuda


def table_of_columns(atom_table: Tensor, degree_rows: Tensor, graph_token: Tensor, bias: Tensor) -> Tensor:
    """(K, d) what each column stands for.

    Args:
        degree_rows: (DEGREES, d), of degree 0 and on.
        bias: (d,) of the 3D feature.
    """
    atom_rows = atom_table.index_select(0, constant(ATOM_ROWS, torch.int64, atom_table.device))
    return torch.cat([atom_rows, degree_rows, graph_token.unsqueeze(0), bias.unsqueeze(0)])


def multi_hot(
    features_A9: Tensor, shows_A9: Tensor | None, degree_A: Tensor, shows_degree_A: Tensor, bias_A: Tensor, layout: Layout
) -> Tensor:
    """(T, K) how often each token has each column, in the type of `bias_A`.

    Args:
        features_A9, degree_A: uint8. shows_A9: bool, which of the features count; None: all.
        bias_A: factor of the 3D feature's bias.
    """
    given = torch.cat([features_A9, degree_A.unsqueeze(1), degree_A.unsqueeze(1)], dim=1)
    limits, first = (constant(each, dtype, bias_A.device) for each, dtype in ((LAST_VALUES, torch.uint8), (FIRST_COLUMNS, torch.int64)))
    columns = torch.minimum(given, limits) + first
    values = bias_A.new_ones(columns.shape)
    if shows_A9 is not None:
        values[:, :-2] = shows_A9
    values[:, -2], values[:, -1] = shows_degree_A, bias_A
    hot = bias_A.new_zeros(layout.num_tokens, COLUMNS)
    places = torch.add(columns, layout.atom_tokens.unsqueeze(1), alpha=COLUMNS)
    hot.view(-1).scatter_(0, places.view(-1), values.view(-1))
    hot[:, GRAPH_COLUMN].index_fill_(0, layout.graph_tokens, 1.0)
    return hot
