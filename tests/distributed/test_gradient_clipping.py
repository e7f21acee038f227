"""Norms and clipping against fairseq's own, and their independence of how gradients are cut."""

import pytest
import torch
from fairseq import utils

from moleblend_fs.zero.gradient_clipping import PIECE, clip_grad_norm_, coefficient, sum_of_squares


@pytest.fixture
def parameters():
    generator = torch.Generator().manual_seed(0)
    result = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((3, 5), (1000,), (), (7, 11, 13))]
    for parameter in result:
        parameter.grad = torch.randn(parameter.shape, generator=generator) * 3
    return [*result, torch.nn.Parameter(torch.zeros(2))]


def exact(parameters) -> float:
    return sum(float(parameter.grad.double().square().sum()) for parameter in parameters if parameter.grad is not None) ** 0.5


@pytest.mark.parametrize("max_norm", [0, 1.5, 1e6])
def test_as_fairseq_clips(parameters, max_norm):
    before = [None if parameter.grad is None else parameter.grad.clone() for parameter in parameters]
    norm = exact(parameters)
    found = clip_grad_norm_(iter(parameters), max_norm)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(norm, rel=1e-7)
    factor = 1 if max_norm == 0 else min(1, max_norm / (norm + 1e-6))
    for parameter, gradient in zip(parameters, before, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.allclose(parameter.grad, gradient * factor, rtol=1e-6, atol=0)


def test_cuts_do_not_change_a_bit(parameters):
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
    whole = sum_of_squares([flat]).sqrt().float()
    for pieces in (flat.split(1), flat.split(17), flat.split([1, len(flat) - 1])):
        assert torch.equal(sum_of_squares(pieces).sqrt().float(), whole)


def test_gradients_of_many_pieces():
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(3 * PIECE + 7, generator=generator).view(-1, 1).expand(-1, 2).t()  # not contiguous
    assert float(sum_of_squares([gradient, torch.zeros(0)])) == pytest.approx(float(gradient.double().square().sum()), rel=1e-12)


def test_no_gradients_and_gradients_that_are_not_finite(parameters):
    assert float(clip_grad_norm_([torch.nn.Parameter(torch.zeros(2))], 1.0)) == 0
    parameters[0].grad[0, 0] = float("inf")
    assert not torch.isfinite(clip_grad_norm_(parameters, 0))
    assert float(coefficient(torch.tensor(0.0), 5.0)) == 1


def test_the_norm_of_all_ranks_is_what_is_clipped_by(parameters):
    before = parameters[0].grad.clone()
    found = clip_grad_norm_(parameters, 1.5, aggregate_norm_fn=lambda norm: 2 * norm)
    assert float(found) > 2 * 1.5
    assert torch.allclose(parameters[0].grad, before * 1.5 / found, rtol=1e-6, atol=0)


def test_fairseq_uses_it():
    import fairseq_plugins  # noqa: F401

    assert utils.clip_grad_norm_ is clip_grad_norm_
