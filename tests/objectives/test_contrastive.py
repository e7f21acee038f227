"""Contrastive losses in groups: closed values, loops, and vectors that have nothing to be compared with."""

import math

import pytest
import torch

from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.objectives.common.contrastive import (
    Projection,
    check_temperature,
    compared,
    info_nce,
    right_loss,
    similarity,
    two_views,
    unit,
    wrong_loss,
)


def equal(n):
    """n vectors, all the same."""
    return torch.ones(n, 3, dtype=torch.float64)


def orthonormal(n):
    return torch.eye(n, dtype=torch.float64)


def across(ours, theirs, temperature, denominator):
    """Mean loss of first views against second ones, in one group."""
    everybody = torch.arange(len(ours))
    meet = compared(torch.zeros_like(everybody), everybody, everybody)
    return float(info_nce(ours, theirs, meet, temperature=temperature, denominator=denominator).mean())


@pytest.mark.parametrize(
    ("vectors", "temperature", "denominator", "value"),
    [
        (equal(4), 0.1, "negatives", math.log(3)),
        (orthonormal(4), 0.1, "negatives", math.log(3) - 10),
        (equal(2), 0.1, "negatives", 0.0),
        (equal(4), 0.1, "all", math.log(4)),
        (orthonormal(4), 0.1, "all", math.log1p(3 * math.exp(-10))),
    ],
)
def test_one_direction(vectors, temperature, denominator, value):
    assert across(vectors, 7 * vectors, temperature, denominator) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize(("vectors", "value"), [(equal(4), math.log(7)), (orthonormal(4), math.log1p(6 * math.exp(-10)))])
def test_both_directions_among_two_views(vectors, value):
    meet = two_views(torch.zeros(4, dtype=torch.int64))
    both = torch.cat([vectors, 3 * vectors])
    loss = info_nce(both, both, meet, temperature=0.1, denominator="all")
    assert float(loss.mean()) == pytest.approx(value, rel=1e-9)


def test_a_pair_right_or_wrong():
    """Noise-contrastive estimation of the energy: all equal; right equal and wrong orthogonal."""
    one, other = orthonormal(2)[:1], orthonormal(2)[1:]
    for temperature, value in ((0.2, 5.013431), (0.1, 10.000091)):
        same = similarity(one, 2 * one, temperature)
        assert float(right_loss(same) + wrong_loss(same)) == pytest.approx(value, abs=1e-6)
    value = right_loss(similarity(one, one, 0.2)) + wrong_loss(similarity(one, other, 0.2))
    assert float(value) == pytest.approx(0.699863, abs=1e-6)


@pytest.mark.parametrize("denominator", ["negatives", "all"])
def test_against_loops(denominator):
    """Groups of 3, 2 and 1; some molecules have no vector, some have two on the other side, of half the weight each."""
    torch.manual_seed(0)
    group = torch.tensor([0, 1, 0, 2, 1, 0])
    ours, theirs = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([2, 0, 0, 1, 3, 5])
    weight = torch.tensor([1.0, 0.5, 0.5, 1, 1, 1])
    x, y = torch.randn(5, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    x.requires_grad_()
    meet = compared(group, ours, theirs)
    losses = info_nce(x, y, meet, temperature=0.3, denominator=denominator, weight_M=weight)
    expected = []
    for n, own in enumerate(ours.tolist()):
        above = under = 0.0
        for m, other in enumerate(theirs.tolist()):
            e = weight[m] * torch.exp(torch.cosine_similarity(x[n], y[m], dim=0) / 0.3).detach()
            above += float(e) * (own == other)
            if group[own] == group[other] and (own != other or denominator == "all"):
                under += float(e)
        has_both = own in (0, 2)  # 1: its partner is alone; 3: alone in its group; 4: no partner
        expected.append(math.log(under / above) if has_both else 0.0)
    assert losses.tolist() == pytest.approx(expected, rel=1e-9)
    assert meet.counts.tolist() == [True, False, True, False, False]
    (gradient,) = torch.autograd.grad(losses.sum(), x)
    assert gradient.isfinite().all()
    assert [bool(row.any()) for row in gradient] == [True, False, True, False, False]


def test_nothing_to_compare():
    nobody = torch.zeros(0, dtype=torch.int64)
    assert info_nce(torch.zeros(0, 3), torch.zeros(0, 3), compared(nobody, nobody, nobody), temperature=1, denominator="all").tolist() == []
    alone = two_views(torch.zeros(1, dtype=torch.int64))
    loss = info_nce(equal(2), equal(2), alone, temperature=1, denominator="negatives")
    assert loss.tolist() == [0, 0]
    assert not alone.counts.any()


def test_vectors_of_no_length_have_gradients():
    x = torch.zeros(2, 3, requires_grad=True)
    unit(x).sum().backward()
    assert x.grad.isfinite().all()
    assert unit(torch.ones(1, 4, dtype=torch.bfloat16)).dtype == torch.float32


def test_maps_before_them():
    config = ModelConfig(embed_dim=8, attention_heads=2)
    x = torch.randn(3, 8)
    assert Projection(config)(x).shape == (3, 8)
    wide = Projection(config, hidden=12, outputs=5, activation=torch.relu)
    assert wide(x).shape == (3, 5)
    torch.testing.assert_close(wide(x), torch.relu(x @ wide.hidden.weight.T + wide.hidden.bias) @ wide.out.weight.T + wide.out.bias)


def test_temperatures():
    check_temperature("--info3d-temperature", 0.1)
    with pytest.raises(UserError, match="--info3d-temperature must be above 0, got 0"):
        check_temperature("--info3d-temperature", 0)
