"""Atoms and relations as the encoder sees them: embedding tables, their index conventions, and the attention bias.

Shape legend: A atoms, T tokens, P pairs, H heads, K Gaussians, d embedding width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.graph import MAX_HOPS, NUM_BOND_CLASSES, bond_class_features
from moleblend_fs.model import multi_hot
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.shown import Shown
from moleblend_fs.ops.constants import constant
from moleblend_fs.ops.embedding_rows import ATOM_FIRST_ROW, BOND_FIRST_ROW, DEGREE_FIRST_ROW, ELEMENT_ROWS, HIDDEN, TABLE_ROWS
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import Linear, linear, products_in
from moleblend_fs.ops.precision import all_at_least_float32
from moleblend_fs.ops.relation_bias import RelationWeights, relation_bias

ATOM_FEATURES, BOND_FEATURES = 9, 3
PADDING_ROW = 0
"""Row of every table that is zero and stays it."""
HIDDEN_ROWS = (ATOM_FIRST_ROW + HIDDEN, *[PADDING_ROW] * (ATOM_FEATURES - 1))
"""Rows of the atom table that a hidden atom is the sum of."""
NOT_ELEMENT = (False, *[True] * (ATOM_FEATURES - 1))
"""Which of the features are not the element, which is the first."""


FACTOR_3D = 0.01
"""Keeps a fresh 3D feature as small as the other embeddings (reference release)."""


class AtomEmbedding(nn.Module):
    """Atom features, then either the degree embedding or the 3D feature or both; a graph token before each molecule."""

    feature_rows: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        d = config.embed_dim
        self.atom_table = nn.Embedding(ATOM_FEATURES * TABLE_ROWS + 1, d, padding_idx=0)
        self.in_degree_table = nn.Embedding(TABLE_ROWS, d, padding_idx=0)
        self.out_degree_table = nn.Embedding(TABLE_ROWS, d, padding_idx=0)
        self.graph_token = nn.Parameter(torch.empty(d))
        self.from_gaussians = Linear(config.gaussians, d)
        self.register_buffer("feature_rows", ATOM_FIRST_ROW + TABLE_ROWS * torch.arange(ATOM_FEATURES), persistent=False)

    def forward(self, batch: MoleculeBatch, shown: Shown, gaussian_sums_AK: Tensor, layout: Layout) -> Tensor:
        """(T, d) embedding sums."""
        if multi_hot.by_product(gaussian_sums_AK):
            return self._by_product(batch, shown, gaussian_sums_AK, layout)
        atoms = self._features(batch.atom_features + self.feature_rows, shown)
        has_degree, has_3d = shown.visible(shown.degree), shown.visible(shown.distances)
        row = torch.where(has_degree, batch.degree.long() + DEGREE_FIRST_ROW, PADDING_ROW)
        both = (self.in_degree_table.weight + self.out_degree_table.weight)[DEGREE_FIRST_ROW:]
        degree = F.embedding(row, F.pad(both, (0, 0, DEGREE_FIRST_ROW, 0)), padding_idx=PADDING_ROW)
        feature_3d = FACTOR_3D * self.from_gaussians(gaussian_sums_AK.to(self.from_gaussians.weight.dtype))
        atoms = atoms + degree + feature_3d * has_3d.unsqueeze(1)
        tokens = self.graph_token.repeat(layout.num_tokens, 1)
        return tokens.index_copy(0, layout.atom_tokens, atoms)

    def _by_product(self, batch: MoleculeBatch, shown: Shown, gaussian_sums_AK: Tensor, layout: Layout) -> Tensor:
        """The same sums by `multi_hot`."""
        features, shows = batch.atom_features, None
        not_element = constant(NOT_ELEMENT, torch.bool, features.device)
        if shown.bare is not None:
            shows = ~(shown.bare.unsqueeze(1) & not_element)
        if shown.hidden is not None:
            hidden = shown.hidden.unsqueeze(1)
            others = ~(hidden & not_element)
            features, shows = features.masked_fill(hidden, HIDDEN), others if shows is None else shows & others
        dtype = self.graph_token.dtype
        factor_3d, none = (constant((number,), dtype, features.device) for number in (FACTOR_3D, 0.0))
        factor = torch.where(shown.visible(shown.distances), factor_3d, none)
        degrees = (self.in_degree_table.weight + self.out_degree_table.weight)[DEGREE_FIRST_ROW : DEGREE_FIRST_ROW + multi_hot.DEGREES]
        table = multi_hot.table_of_columns(self.atom_table.weight, degrees, self.graph_token, self.from_gaussians.bias)
        hot = multi_hot.multi_hot(features, shows, batch.degree, shown.visible(shown.degree), factor, layout)
        weight = self.from_gaussians.weight
        sums = gaussian_sums_AK.to(weight.dtype) * factor.unsqueeze(1)
        sums = sums.new_zeros(layout.num_tokens, sums.shape[1]).index_copy_(0, layout.atom_tokens, sums)
        return torch.addmm(linear(sums, weight, None), hot, table)

    def _features(self, rows_A9: Tensor, shown: Shown) -> Tensor:
        """(A, d) sums of the features' rows, of the element's alone for a bare atom, and of one row instead for a hidden atom."""
        if shown.hidden is None and shown.bare is None:
            return F.embedding_bag(rows_A9, self.atom_table.weight, mode="sum")
        rows, device = rows_A9, rows_A9.device
        if shown.bare is not None:
            rows = rows.masked_fill(shown.bare.unsqueeze(1) & constant(NOT_ELEMENT, torch.bool, device), PADDING_ROW)
        if shown.hidden is not None:
            rows = torch.where(shown.hidden.unsqueeze(1), constant(HIDDEN_ROWS, torch.int64, device), rows)
        return F.embedding_bag(rows, self.atom_table.weight, mode="sum", padding_idx=PADDING_ROW)


class RelationEncoder(nn.Module):
    """The three encodings of a relation as attention bias per head."""

    class_rows: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        h, k = config.attention_heads, config.gaussians
        self.distance_table = config.distance_table
        self.spd_table = nn.Embedding(TABLE_ROWS, h, padding_idx=0)
        self.bond_table = nn.Embedding(BOND_FEATURES * TABLE_ROWS + 1, h, padding_idx=0)
        self.hop_matrices = nn.Parameter(torch.empty(MAX_HOPS, h, h))
        self.graph_bias = nn.Parameter(torch.empty(h))
        self.distance_mul = nn.Parameter(torch.empty(ELEMENT_ROWS))
        self.distance_shift = nn.Parameter(torch.empty(ELEMENT_ROWS))
        self.gaussian_means = nn.Parameter(torch.empty(k))
        self.gaussian_stds = nn.Parameter(torch.empty(k))
        self.distance_hidden = Linear(k, k)
        self.distance_out = Linear(k, h)
        rows = torch.from_numpy(bond_class_features()) + BOND_FIRST_ROW + TABLE_ROWS * torch.arange(BOND_FEATURES, device="cpu")
        self.register_buffer("class_rows", rows, persistent=False)

    def hop_table(self) -> Tensor:
        """mean over bond features of their rows, times each hop's matrix, for every bond class: (5, 61, H), 0 for "no bond"."""
        return self._hop_table(*all_at_least_float32((self.bond_table.weight, self.hop_matrices)))

    def _hop_table(self, bond_table: Tensor, hop_matrices_5HH: Tensor) -> Tensor:
        classes = bond_table[self.class_rows].mean(dim=1)
        table = torch.einsum("ch,khg->kcg", classes, hop_matrices_5HH)
        return F.pad(table, (0, 0, NUM_BOND_CLASSES - len(classes), 0))

    def forward(self, batch: MoleculeBatch, shown: Shown, layout: Layout, distances_P: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The bias (P, H) of what is shown, and the Gaussian sums (A, K) behind the atoms' 3D features.

        Args:
            distances_P: Angstrom, in place of those between the coordinates.
        """
        parameters = (
            self.bond_table.weight,
            self.hop_matrices,
            self.spd_table.weight,
            self.distance_mul,
            self.distance_shift,
            self.gaussian_means,
            self.gaussian_stds,
            self.distance_hidden.weight,
            self.distance_hidden.bias,
            self.distance_out.weight,
            self.distance_out.bias,
        )
        bond_table, hop_matrices, spd_table, *others = all_at_least_float32(parameters)
        weights = RelationWeights(spd_table, self._hop_table(bond_table, hop_matrices), *others)
        element = batch.atom_features[:, 0]
        with products_in(None):
            return relation_bias(
                shown.relations,
                batch.spd,
                batch.path_bonds,
                shown.visible(shown.distances),
                shown.coordinates.to(weights.spd_table.dtype),
                element if shown.hidden is None else element.masked_fill(shown.hidden, HIDDEN),
                weights,
                layout,
                None if distances_P is None else distances_P.to(weights.spd_table.dtype),
                model=self.distance_hidden.weight.dtype,
                table=self.distance_table,
            )
