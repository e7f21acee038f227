"""Embedding sums by one product are those by gathering, and so are their gradients."""

import dataclasses

import pytest
import torch

from moleblend_fs.model import heads, multi_hot
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.embedding import AtomEmbedding
from moleblend_fs.model.heads import NoiseHead
from moleblend_fs.model.shown import show_all
from moleblend_fs.onnx_export.inputs import ATOM_SIZES
from moleblend_fs.ops.atom_rows import atoms_of
from moleblend_fs.ops.layout import Layout
from tests.model.molecules import mixed_batch

BATCH = mixed_batch()
LAYOUT = Layout(BATCH.num_atoms, "cpu")
EVERY_THIRD = torch.arange(LAYOUT.num_total_atoms) % 3 == 1
MASKS = {
    "all": {},
    "hidden": {"hidden": EVERY_THIRD},
    "bare": {"bare": EVERY_THIRD},
    "both": {"hidden": EVERY_THIRD, "bare": ~EVERY_THIRD},
}


def test_every_value_of_ogbs_features_has_a_column():
    assert all(columns >= size for columns, size in zip(multi_hot.FEATURE_COLUMNS, ATOM_SIZES, strict=True))
    assert multi_hot.FEATURE_COLUMNS[0] == 256, "hidden atoms have the last value of a byte"
    assert multi_hot.COLUMNS % 8 == 0


@pytest.mark.parametrize("modality", ["2d", "2d+3d"])
@pytest.mark.parametrize("masks", MASKS)
def test_sums_and_gradients_are_those_of_gathered_rows(masks, modality, monkeypatch):
    torch.manual_seed(0)
    atoms = AtomEmbedding(ModelConfig(embed_dim=32, attention_heads=4, gaussians=16)).double()
    with torch.no_grad():
        for parameter in atoms.parameters():
            parameter.normal_()
        for table in (atoms.atom_table, atoms.in_degree_table, atoms.out_degree_table):
            table.weight[0] = 0
    shown = dataclasses.replace(show_all(BATCH, LAYOUT, modality), **MASKS[masks])
    sums, upstream = torch.randn(LAYOUT.num_total_atoms, 16, dtype=torch.float64), torch.randn(LAYOUT.num_tokens, 32, dtype=torch.float64)
    found = []
    for product in (False, True):
        monkeypatch.setattr(multi_hot, "by_product", lambda like, product=product: product)
        given = sums.clone().requires_grad_()
        tokens = atoms(BATCH, shown, given, LAYOUT)
        found.append([tokens, *torch.autograd.grad(tokens, [given, *atoms.parameters()], upstream)])
    for gathered, multiplied in zip(*found, strict=True):
        torch.testing.assert_close(multiplied, gathered, rtol=1e-12, atol=1e-12)


def test_the_noise_heads_one_product_is_that_of_each_head(monkeypatch):
    torch.manual_seed(0)
    head = NoiseHead(ModelConfig(embed_dim=24, attention_heads=4, gaussians=16)).double()
    value, upstream = torch.randn(7, 4, 6, dtype=torch.float64, requires_grad=True), torch.randn(7, 4, 3, dtype=torch.float64)
    axes = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    found = []
    for product in (False, True):
        monkeypatch.setattr(heads, "by_product", lambda like, product=product: product)
        projected = head._project(value, axes)
        found.append([projected, *torch.autograd.grad(projected, [value, axes], upstream)])
    for each, together in zip(*found, strict=True):
        torch.testing.assert_close(together, each, rtol=1e-12, atol=1e-12)


def test_the_gradient_of_the_atoms_rows_is_taken_back():
    tokens = torch.randn(LAYOUT.num_tokens, 5, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(LAYOUT.num_total_atoms, 5, dtype=torch.float64)
    (exact,) = torch.autograd.grad(tokens.index_select(0, LAYOUT.atom_tokens), tokens, upstream)
    atoms = atoms_of(tokens, LAYOUT)
    assert torch.equal(atoms, tokens[LAYOUT.atom_tokens])
    (ours,) = torch.autograd.grad(atoms, tokens, upstream)
    assert torch.equal(ours, exact)
    assert torch.autograd.gradgradcheck(lambda x: atoms_of(x, LAYOUT).sin(), tokens)
