"""torch's fused AdamW against fairseq's Adam: the same path, and each goes on from the other's state."""

import copy

import pytest
import torch
from fairseq.optim.adam import Adam

from fairseq_plugins.patches.fused_adam import FusedAdam

OPTIONS = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.01}


def walk(optimizer, parameters, updates, seed):
    """Some updates with random gradients."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(updates):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()


def start(kind):
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 4), (5,))]
    return kind(parameters, **OPTIONS), parameters


def test_the_same_path_as_fairseqs():
    (one, ours), (two, theirs) = start(FusedAdam), start(Adam)
    walk(one, ours, 20, 1)
    walk(two, theirs, 20, 1)
    before = start(Adam)[1]
    for a, b, c in zip(ours, theirs, before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        assert (a - c).abs().max() > 0.05


@pytest.mark.parametrize(("first", "second"), [(FusedAdam, Adam), (Adam, FusedAdam), (FusedAdam, FusedAdam)])
def test_either_goes_on_from_the_others_state(first, second):
    whole, expected = start(first)
    walk(whole, expected, 5, 1)
    saved, weights = copy.deepcopy(whole.state_dict()), [p.detach().clone() for p in expected]
    walk(whole, expected, 5, 2)
    other, parameters = start(second)
    with torch.no_grad():
        for p, w in zip(parameters, weights, strict=True):
            p.copy_(w)
    other.load_state_dict(saved)
    assert all(isinstance(entry["step"], int) for entry in saved["state"].values())
    walk(other, parameters, 5, 2)
    for a, b in zip(parameters, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_moments_in_half_precision_are_refused():
    with pytest.raises(NotImplementedError, match="apex"):
        FusedAdam([torch.nn.Parameter(torch.zeros(2))], use_fp16_stats=True, **OPTIONS)
