"""Distances predicted from 2D, shown in place of a structure's."""

from dataclasses import replace

import pytest
import torch

from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import show_all
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import SHOW_DISTANCE
from tests.model.molecules import ORDINARY, batch_of, graph

CONFIG = ModelConfig(
    layers=2, embed_dim=32, ffn_dim=32, attention_heads=2, gaussians=8, pair_dim=4, hidden_3d=8, heads=("property",), predicted_3d=True
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = MoleBlend(CONFIG).eval()
    with torch.no_grad():
        for parameter in [*made.parameters(), *made.distances.buffers()]:
            if parameter.is_floating_point() and parameter.ndim > 1:
                parameter.normal_(0, 0.3)
        made.distances.model.heads["distance"].axes.bias.fill_(3.0)
    return made


@pytest.fixture
def batch():
    return batch_of([graph(smiles, i) for i, smiles in enumerate(("C", *ORDINARY[:3]))])


def test_true_distances_given_as_predicted_are_those_of_coordinates(model, batch):
    """The same bias and Gaussian sums, whichever way the distances come; other distances give others."""
    layout = Layout(batch.num_atoms, "cpu")
    shown = show_all(batch, layout, "2d+3d")
    shown = replace(
        shown, relations=shown.relations * (torch.arange(layout.num_pairs) % 3 > 0), distances=torch.arange(len(shown.degree)) % 2 > 0
    )
    between = (batch.coordinates[layout.pair_row] - batch.coordinates[layout.pair_column]).norm(dim=1)
    expected = model.relations(batch, shown, layout)
    given = model.relations(batch, replace(shown, coordinates=torch.full_like(shown.coordinates, torch.nan)), layout, between)
    other = model.relations(batch, shown, layout, between * 1.01)
    for mine, theirs, wrong in zip(given, expected, other, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
        assert (wrong - theirs).abs().max() > 1e-4
    assert ((shown.relations & SHOW_DISTANCE) > 0).any()


def test_predicted_distances_are_symmetric_and_those_of_the_head(model, batch):
    layout = Layout(batch.num_atoms, "cpu")
    distances = model.distances(batch, layout)
    backwards = layout.pair_reversed
    assert torch.equal(layout.pair_row[backwards], layout.pair_column)
    assert torch.equal(distances, distances[backwards])
    own = layout.pair_row == layout.pair_column
    assert (distances[own] == 0).all()
    pretrained = MoleBlend(replace(CONFIG, heads=("distance",), predicted_3d=False)).eval()
    pretrained.load_state_dict(model.distances.model.state_dict())
    ordered = pretrained(batch, show_all(batch, layout, "2d"), layout).distance
    expected = ((ordered + ordered[backwards]) / 2).clamp(min=0)
    assert expected[~own].std() > 0.01
    torch.testing.assert_close(distances[~own], expected[~own])


def test_coordinates_have_no_path_and_nothing_of_the_predictor_is_trained(model, batch):
    layout = Layout(batch.num_atoms, "cpu")
    moved = batch_of([graph(smiles, i, coordinates=False) for i, smiles in enumerate(("C", *ORDINARY[:3]))])
    shown = [show_all(one, layout, "2d+predicted3d") for one in (batch, moved)]
    first, second = (model(one, of, layout).properties for one, of in zip((batch, moved), shown, strict=True))
    assert torch.equal(first, second)
    before = {name: value.clone() for name, value in model.distances.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    assert not model.distances.model.training
    model(batch, shown[0], layout).properties.square().sum().backward()
    assert model.relations.gaussian_means.grad.abs().max() > 0
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.distances.state_dict().items())
    assert not torch.equal(model(batch, shown[0], layout).properties, first)


def test_the_predictor_keeps_its_precision(model):
    whole = model.distances.model.encoder.blocks[0].qkv.weight.clone()
    model.to(torch.bfloat16)
    assert model.encoder.blocks[0].qkv.weight.dtype == torch.bfloat16
    assert torch.equal(model.distances.model.encoder.blocks[0].qkv.weight, whole)
