"""Denoising: the noise in units of its scale, by squared error or direction."""

import math

import pytest
import torch

from moleblend_fs.errors import UserError
from moleblend_fs.objectives.denoise import Denoise, DenoiseOptions, noise_losses
from moleblend_fs.ops.layout import Layout
from tests.model.molecules import batch_of, graph
from tests.objectives.suite import Case, model_of

CASE = Case(
    variants={
        "cosine": {"noise_loss": "cosine", "denoise_scale": 0.2},
        "2d+3d": {"noise_view": "2d+3d"},
        "centred": {"noise_mean": "remove"},
    },
    still={"denoise_scale": 1e-9},
    turning=("denoising",),
    reached={"": 0.1},
    updates=200,
    rate=1e-2,
)


@pytest.mark.parametrize(("output", "expected"), [((0, 0, 0), 1), ((2, -1, 0), 1), ((-1, -2, -2), 2), ((0.5, 1, 1), 0)])
def test_cosine_by_hand(output, expected):
    """Zero, orthogonal, opposite, and the noise's own direction."""
    loss = noise_losses(torch.tensor([output], dtype=torch.float64), torch.tensor([[1.0, 2, 2]], dtype=torch.float64), "cosine")
    assert float(loss) == pytest.approx(expected, abs=1e-12)


def test_a_zero_output_costs_one_in_expectation():
    """The noise is in units of its scale: 3 x 4,000 squared normal numbers have a mean of 1 within five standard errors."""
    batch = batch_of([graph("C" * 8, i) for i in range(500)])
    objective, layout = Denoise(DenoiseOptions(denoise_scale=0.04)), Layout(batch.num_atoms, "cpu")
    ready = objective.prepare(batch, layout, seed=1, epoch=1)
    assert float(noise_losses(torch.zeros(4000, 3), ready.parts.noise, "l2").mean()) == pytest.approx(1, abs=5 * math.sqrt(2 / 12000))
    model = model_of(objective).float()
    with torch.no_grad():
        model.heads["denoise"].axes.weight.zero_()
        model.heads["denoise"].axes.bias.zero_()
        loss = float(objective.loss_sums(model, ready) / ready.counts)
    assert loss == pytest.approx(1, abs=5 * math.sqrt(2 / 12000))
    moved = ready.parts.shown.coordinates - batch.coordinates
    torch.testing.assert_close(moved, 0.04 * ready.parts.noise, rtol=0, atol=2e-6)  # coordinates of some Angstrom, in float32


def test_only_atoms_that_can_tell_count():
    batch = batch_of([graph("CCO", 0), graph("CC", 1, coordinates=False), graph("C", 2)])
    ready = Denoise(DenoiseOptions()).prepare(batch, Layout(batch.num_atoms, "cpu"), seed=1, epoch=1)
    assert ready.parts.noisy.tolist() == [True] * 3 + [False] * 3
    assert float(ready.counts) == 3


def test_the_mean_noise_is_taken_off():
    batch = batch_of([graph("CCO", 0), graph("CCN", 1)])
    ready = Denoise(DenoiseOptions(noise_mean="remove")).prepare(batch, Layout(batch.num_atoms, "cpu"), seed=1, epoch=1)
    assert ready.parts.noise.abs().max() > 0.1
    torch.testing.assert_close(ready.parts.noise.view(2, 3, 3).mean(dim=1), torch.zeros(2, 3), rtol=0, atol=1e-6)


def test_scales_that_cannot_be_are_told():
    with pytest.raises(UserError, match="--denoise-scale must be above 0, got 0"):
        DenoiseOptions(denoise_scale=0.0)
