"""Gradients of the whole model: complete, whatever a batch lacks, and the same when blocks are recomputed."""

import pytest
import torch

from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.heads import HEADS
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import Shown, show_all
from moleblend_fs.objectives.blend_then_predict import BlendConfig, draw_blend, targets_of
from moleblend_fs.ops.layout import Layout
from tests.model.molecules import ORDINARY, batch_of, graph, mixed_batch

SIZE = {"embed_dim": 12, "ffn_dim": 10, "attention_heads": 3, "gaussians": 5, "pair_dim": 4, "hidden_3d": 6}


@pytest.mark.parametrize("smiles", [("CCO", "C"), ("C", "[Na+]")], ids=["molecules", "lone atoms"])
@pytest.mark.parametrize("coordinates", [True, False])
def test_every_parameter_gets_a_gradient_in_pretraining(smiles, coordinates):
    """Distributed training waits for the gradient of every parameter, on every rank."""
    blend = BlendConfig()
    model = MoleBlend(ModelConfig(layers=2, **SIZE, heads=blend.predict)).train()
    batch = batch_of([graph(s, i, coordinates=coordinates) for i, s in enumerate(smiles)])
    layout = Layout(batch.num_atoms, "cpu")
    shown, noise = draw_blend(batch, layout, blend, seed=1, epoch=1)
    sums = model(batch, shown, layout, targets_of(batch, layout, shown, noise, blend)).losses
    torch.stack(list(sums.values())).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize(("modality", "readout"), [("2d", "token"), ("3d", "mean"), ("2d+3d", "token+mean")])
def test_every_parameter_gets_a_gradient_in_finetuning(modality, readout):
    model = MoleBlend(ModelConfig(layers=2, **SIZE, heads=("property",), tasks=2, readout=readout)).train()
    batch = batch_of([graph("CCO", 0), graph("CCN", 1)])
    layout = Layout(batch.num_atoms, "cpu")
    model(batch, show_all(batch, layout, modality), layout).properties.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    unused = model.relations.spd_table if modality == "3d" else model.relations.distance_out
    assert bool(unused.weight.grad.any()) == (modality == "2d+3d")


def gradients(model: MoleBlend, batch, shown: Shown) -> tuple[torch.Tensor, list[torch.Tensor]]:
    layout = Layout(batch.num_atoms, "cpu")
    torch.manual_seed(11)  # the same dropout and dropped blocks
    outputs = model(batch, shown, layout)
    torch.manual_seed(12)
    loss = sum((value * torch.randn_like(value)).sum() for name in HEADS if (value := getattr(outputs, name, None)) is not None)
    loss = loss + (outputs.properties * 3).sum()
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("recomputed", [1, 2, 3])
def test_recomputed_blocks_change_nothing_with_dropout_on(recomputed):
    rates = {"dropout": 0.2, "attention_dropout": 0.2, "activation_dropout": 0.2, "drop_path": 0.5}
    batch = mixed_batch(ORDINARY[:4], ())
    layout = Layout(batch.num_atoms, "cpu")
    shown = show_all(batch, layout, "2d+3d")
    torch.manual_seed(0)  # losses with and without dropout are near each other for some weights
    plain = MoleBlend(ModelConfig(layers=3, **SIZE, heads=HEADS, **rates)).train()
    saving = MoleBlend(ModelConfig(layers=3, **SIZE, heads=HEADS, **rates, checkpoint_layers=recomputed)).train()
    saving.load_state_dict(plain.state_dict())
    (loss, first), (other, second) = gradients(plain, batch, shown), gradients(saving, batch, shown)
    assert torch.equal(loss, other)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    unlike = gradients(plain.eval(), batch, shown)
    assert not torch.allclose(loss, unlike[0], rtol=1e-3), "dropout must have mattered"


def test_the_whole_model_by_finite_differences():
    """A random direction in parameter space: directional derivative against central differences in float64."""
    batch = mixed_batch(("CCO", "C=CC#N"), ())
    layout = Layout(batch.num_atoms, "cpu")
    shown = show_all(batch, layout, "2d+3d")
    shown = Shown(relations=shown.relations, degree=shown.degree, distances=shown.distances, coordinates=shown.coordinates.double())
    torch.manual_seed(2)
    model = MoleBlend(ModelConfig(layers=2, **SIZE, heads=HEADS)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        for table in (model.relations.spd_table, model.relations.bond_table):
            table.weight[0] = 0
    directions = [torch.randn_like(p) for p in model.parameters()]
    padding = {name for name, _ in model.named_parameters() if name in ("relations.spd_table.weight", "relations.bond_table.weight")}
    for (name, _), direction in zip(model.named_parameters(), directions, strict=True):
        if name in padding:
            direction[0] = 0
    _, slopes = gradients(model, batch, shown)
    slope = sum(float((d * g).sum()) for d, g in zip(directions, slopes, strict=True))

    def moved(step: float) -> float:
        with torch.no_grad():
            for p, d in zip(model.parameters(), directions, strict=True):
                p.add_(step * d)
        loss, _ = gradients(model, batch, shown)
        with torch.no_grad():
            for p, d in zip(model.parameters(), directions, strict=True):
                p.sub_(step * d)
        return float(loss)

    step = 1e-6
    assert slope == pytest.approx((moved(step) - moved(-step)) / (2 * step), rel=1e-6)
