"""`torch.autocast` around the model: its type for large products, float32 for all else."""

import pytest
import torch

from moleblend_fs.data.batch import collate
from moleblend_fs.data.record import encode
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import show_all
from moleblend_fs.objectives.blend_then_predict import BlendConfig, draw_blend, targets_of
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import products_in
from tests.model.molecules import ORDINARY, graph

SIZES = {"layers": 2, "embed_dim": 64, "ffn_dim": 64, "attention_heads": 4, "gaussians": 32, "pair_dim": 32, "hidden_3d": 32}


@pytest.fixture(scope="module")
def batch():
    return collate([encode(graph(smiles, number, coordinates=True), number) for number, smiles in enumerate(ORDINARY)])


def pass_of(batch, context, *, property_head: bool, checkpoint_layers: int = 0) -> list[torch.Tensor]:
    """The loss and all gradients; the backward pass is outside of the context."""
    torch.manual_seed(0)
    blend = BlendConfig()
    heads = ("property",) if property_head else blend.predict
    model = MoleBlend(ModelConfig(**SIZES, heads=heads, checkpoint_layers=checkpoint_layers).without_dropout())
    layout = Layout(batch.num_atoms, "cpu")
    with context:
        if property_head:
            found = model(batch, show_all(batch, layout, "2d+3d"), layout).properties
            loss = found.square().sum()
        else:
            shown, noise = draw_blend(batch, layout, blend, seed=1, epoch=1)
            losses = model(batch, shown, layout, targets_of(batch, layout, shown, noise, blend)).losses
            loss = torch.stack(list(losses.values())).sum()
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("property_head", [True, False], ids=["property", "pretraining"])
def test_large_products_alone_are_lowered(batch, property_head):
    exact = pass_of(batch, torch.enable_grad(), property_head=property_head)
    lowered = pass_of(batch, torch.autocast("cpu", torch.bfloat16), property_head=property_head)
    ours = pass_of(batch, products_in(torch.bfloat16), property_head=property_head)
    assert len(exact) == len(lowered) > 20
    assert lowered[0] != exact[0]
    torch.testing.assert_close(lowered[0], exact[0], rtol=0.02, atol=0)
    for a, b, c in zip(exact, lowered, ours, strict=True):
        assert b.dtype == torch.float32
        assert torch.equal(b, c)
        if a.norm() > 1e-6 * max(each.norm() for each in exact):
            assert (a - b).norm() < 0.1 * a.norm()


def test_recomputed_blocks_are_lowered_too(batch):
    kept = pass_of(batch, torch.autocast("cpu", torch.bfloat16), property_head=True)
    recomputed = pass_of(batch, torch.autocast("cpu", torch.bfloat16), property_head=True, checkpoint_layers=2)
    assert all(torch.equal(a, b) for a, b in zip(kept, recomputed, strict=True))
