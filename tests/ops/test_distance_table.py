"""The distance encoding as a table, in plain torch: what it reads, how far off it is, and when it is not believed."""

import math

import pytest
import torch

from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.embedding import RelationEncoder
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import SHOW_DISTANCE, DistanceWeights
from moleblend_fs.ops.relation_bias.reference import distance_bias
from moleblend_fs.ops.relation_bias.table import TOLERANCE, Points, at_points, distance_bias_from_table, error_of, holds, place, read

POINTS = ModelConfig().distance_table


def random(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights_of(scale=0.1, *, narrowest=None, gaussians=128, heads=32):
    """As initialised with a scale of 0.02; trained ones are larger. `narrowest`: of an eighth of the Gaussians, spread widely."""
    means, stds = 3 * uniform(gaussians, seed=1), 3 * uniform(gaussians, seed=2)
    if narrowest is not None:
        means, stds[::8] = 10 / 3 * means, narrowest - 0.01
    layers = random(gaussians, gaussians, seed=3), random(gaussians, seed=4), random(heads, gaussians, seed=5), random(heads, seed=6)
    mul, shift = 1 + random(1536, seed=7, scale=0.1), random(1536, seed=8, scale=0.1)
    return DistanceWeights(mul, shift, means, stds, *(scale * layer for layer in layers))


def table_of(weights, number):
    points = place(weights.means, weights.stds, number)
    return at_points(points.x(number), weights), points


def test_cubics_are_read_exactly():
    points = Points(torch.tensor(-1.0).double(), torch.tensor(0.5).double(), torch.tensor(1.0))
    x_N, x = points.x(20), torch.linspace(-1, 7.5, 101, dtype=torch.float64)

    def functions(x):
        return torch.stack((x**3 - 2 * x, torch.ones_like(x), x**2), dim=1)

    torch.testing.assert_close(read(x, functions(x_N), points), functions(x), rtol=1e-12, atol=1e-11)
    quartic = (x**4).unsqueeze(1)
    off = (read(x, (x_N**4).unsqueeze(1), points) - quartic).abs().max()
    assert 0.9 < off / (0.5**4 * 9 / 16) < 1.0, "the error of a cubic: 9/16 h^4 / 24 times the fourth derivative"


@pytest.mark.parametrize(
    ("scale", "narrowest", "number", "good"),
    [
        (0.02, None, POINTS, True),
        (0.1, None, POINTS, True),
        (0.3, None, POINTS, True),
        (0.1, None, 4096, False),
        (0.02, 0.01, POINTS, False),
        (0.1, 0.01, 4 * POINTS, True),
    ],
)
def test_error_against_every_pair_computed(scale, narrowest, number, good):
    """Distances of molecules and outliers. What is told of the error from the points alone is the error, and decides."""
    weights = weights_of(scale, narrowest=narrowest)
    values, points = table_of(weights, number)
    x = torch.cat([14 * uniform(20_000), torch.tensor([-1e6, -300.0, 40.0, 1e6], dtype=torch.float64)])
    exact = at_points(x, weights)
    error = float((read(x, values, points) - exact).abs().max() / exact.abs().max())
    assert 0.3 < float(error_of(values)) / error < 3
    assert bool(holds(values, points)) is good
    assert (error < TOLERANCE) is good


def test_defaults_of_a_model_hold_as_it_is_initialised():
    encoder = RelationEncoder(ModelConfig())
    for seed in range(3):
        torch.manual_seed(seed)
        for parameter in encoder.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        for parameter in (encoder.gaussian_means, encoder.gaussian_stds):
            torch.nn.init.uniform_(parameter, 0, 3)
        layers = (encoder.distance_hidden.weight, encoder.distance_hidden.bias, encoder.distance_out.weight, encoder.distance_out.bias)
        given = (encoder.distance_mul, encoder.distance_shift, encoder.gaussian_means, encoder.gaussian_stds, *layers)
        weights = DistanceWeights(*(w.detach().double() for w in given))
        assert holds(*table_of(weights, POINTS))


def test_gaussians_between_points_are_not_overlooked():
    """One of width 100 makes the reach so wide that one of width 0.01 lies between two points, where no value shows it."""
    weights = weights_of(gaussians=4, heads=2)
    weights = weights._replace(means=torch.tensor([0.0, 0.5, 1.0, 1.03]).double(), stds=torch.tensor([100.0, 2.0, 3.0, 0.0]).double())
    values, points = table_of(weights, 4096)
    x_N = points.x(4096)
    between = (x_N[2050] + x_N[2051]) / 2
    weights = weights._replace(means=torch.stack([*weights.means[:3], between]))
    values, points = table_of(weights, 4096)
    assert error_of(values) < TOLERANCE
    assert not holds(values, points)


SIZES = [3, 1, 4]


def molecules(heads, seed=2):
    layout = Layout(torch.tensor(SIZES), "cpu")
    shown = torch.randint(0, 8, (layout.num_pairs,), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    wanted = torch.tensor([True, False, True, False, True, True, False, True])
    return random(layout.num_pairs, heads), shown, wanted, random(8, 3, seed=seed), torch.tensor([5, 0, 118, 7, 5, 5, 6, 7]), layout


def test_bias_and_gradients_are_those_of_every_pair():
    """Hidden relations keep their bias to the bit, and no gradient comes from them."""
    weights = weights_of(gaussians=16, heads=3)
    weights = weights._replace(stds=0.3 + weights.stds)
    bias, shown, wanted, coordinates, element, layout = molecules(3)
    leaves = [bias, *weights]
    for leaf in leaves:
        leaf.requires_grad_()
    ours = distance_bias_from_table(bias, shown, wanted, coordinates, element, weights, layout, 2048)
    exact = distance_bias(bias, shown, wanted, coordinates, element, weights, layout)
    hidden = (shown & SHOW_DISTANCE) == 0
    assert 3 < int(hidden.sum()) < layout.num_pairs - 3
    assert torch.equal(ours[0][hidden], bias[hidden])
    upstream = [torch.randn_like(x) for x in exact]
    found, right = (torch.autograd.grad(outputs, leaves, upstream) for outputs in (ours, exact))
    for a, b in zip((*ours, *found), (*exact, *right), strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_gradcheck():
    """Of the table that is read: of x and of every weight, with the points where they are."""
    weights = weights_of(1.0, gaussians=3, heads=2)
    points = place(weights.means, weights.stds, 30)
    x = torch.linspace(0.1, 5, 7, dtype=torch.float64)

    def function(x, *given):
        return read(x, at_points(points.x(30), weights._replace(**dict(zip(DistanceWeights._fields[2:], given, strict=True)))), points)

    assert torch.autograd.gradcheck(function, [value.clone().requires_grad_() for value in (x, *weights[2:])])


def test_what_is_beyond_the_points():
    """The function is constant there, its slope is 0; NaN stays NaN."""
    weights = weights_of(gaussians=8, heads=2)
    values, points = table_of(weights, 512)
    x = torch.tensor([-1e9, 1e9, math.inf, math.nan], dtype=torch.float64, requires_grad=True)
    out = read(x, values, points)
    constant = at_points(torch.tensor([math.inf], dtype=torch.float64), weights)[0]
    torch.testing.assert_close(out[:3].detach(), constant.expand(3, -1), rtol=0, atol=1e-6)
    assert out[3].isnan().all()
    (slope,) = torch.autograd.grad(out[:2].sum(), x)
    assert not slope[:2].any()


@pytest.mark.parametrize("number", [1, 15, 2**20 + 1, -1])
def test_other_numbers_of_points_are_refused(number):
    with pytest.raises(ValueError, match="--distance-table must be 0 or lie in"):
        ModelConfig(distance_table=number)
