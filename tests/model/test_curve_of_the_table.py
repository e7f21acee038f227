"""The curve of training whose distances are read from a table is that of training which computes every pair."""

from functools import partial

import torch

from moleblend_fs.model.config import PRESETS, ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.objectives.blend_then_predict import BlendConfig, draw_blend, targets_of
from moleblend_fs.ops import relation_bias
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias.table import distance_bias_from_table
from tests.model.molecules import ORDINARY, batch_of, graph

UPDATES = 40
TOO_FEW = 64
"""Points: a model would not believe such a table."""


def curve() -> torch.Tensor:
    """(UPDATES,) losses of the smallest shipped model, from the same weights and draws each time. The distance encoding begins with large
    weights and narrow Gaussians, as after long training: as initialised it hardly matters."""
    torch.manual_seed(0)
    blend = BlendConfig()
    config = ModelConfig(**PRESETS["tiny"], heads=blend.predict).without_dropout()
    model = MoleBlend(config).double()
    with torch.no_grad():
        for layer in (model.relations.distance_hidden, model.relations.distance_out):
            layer.weight.normal_(0, 0.5)
        model.relations.gaussian_stds.uniform_(0.05, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4, eps=1e-5)
    batch = batch_of([graph(smiles, seed) for seed, smiles in enumerate(ORDINARY)])
    layout = Layout(batch.num_atoms, "cpu")
    losses = []
    for update in range(UPDATES):
        shown, noise = draw_blend(batch, layout, blend, seed=1, epoch=update)
        sums = model(batch, shown, layout, targets_of(batch, layout, shown, noise, blend)).losses
        loss = torch.stack(list(sums.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def test_the_curve_with_a_table_is_that_without(monkeypatch):
    """In float64, so that they part by the table's error alone: 1e-10 of a loss, and 1e-4 with points that are too far apart."""
    exact = curve()
    assert exact[-1] < 0.5 * exact[0], "the curve must move more than it may differ"
    apart = {}
    for points in (ModelConfig().distance_table, TOO_FEW):
        monkeypatch.setattr(relation_bias, "distance_bias", partial(distance_bias_from_table, number=points))
        apart[points] = float(((curve() - exact) / exact).abs().max())
    assert 0 < apart[ModelConfig().distance_table] < 1e-8
    assert apart[TOO_FEW] > 1e-5
