"""The plain, padded step that ours is measured against does the same work: the same losses and gradients."""

import pytest
import torch

from benchmarks.step import step_flops, train_step
from moleblend_fs.model.config import PRESETS, ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.objectives.blend_then_predict import BlendConfig
from tests.model.molecules import ORDINARY, mixed_batch


@pytest.mark.parametrize("geometry", ["displacement", "distance"])
def test_same_losses_and_gradients(geometry):
    config = BlendConfig(geometry_target=geometry)
    torch.manual_seed(0)
    model = MoleBlend(ModelConfig(**PRESETS["tiny"], heads=config.predict).without_dropout()).train()
    batch = mixed_batch((*ORDINARY[:6], "C", "[Na+].[Cl-]"), without_3d=(2,))
    losses, gradients = [], []
    for path in ("packed", "padded"):
        losses.append(train_step(model, batch, config, path))
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
    largest = max(float(g.norm()) for g in gradients[0].values())
    for name, gradient in gradients[0].items():
        # Of a bias whose gradient cancels only rounding is left; largest is the gradient's size where it does not.
        assert float((gradient - gradients[1][name]).norm()) < 1e-4 * float(gradient.norm()) + 1e-6 * largest, name


def test_flops_of_a_step_are_those_of_the_arithmetic_in_the_plan():
    """About 4 GFLOP a molecule of 15 heavy atoms for the base model."""
    sizes = torch.full((100,), 15).numpy()
    assert step_flops(sizes, ModelConfig(heads=BlendConfig().predict)) / 100 == pytest.approx(4e9, rel=0.25)
