"""The three encodings of a relation: values at the borders of their index conventions, and every gradient."""

import math

import pytest
import torch

from moleblend_fs.ops import relation_bias as ops
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import (
    SHOW_DISTANCE,
    SHOW_EDGE,
    SHOW_SPD,
    DistanceWeights,
    RelationWeights,
    reference,
)
from moleblend_fs.ops.relation_bias.reference import distance_bias, edge_bias, gaussians, spd_bias

NO_PATH = 255


def random(*shape, **options):
    return torch.randn(*shape, dtype=torch.float64, **options)


def test_spd_rows():
    """Row spd + 1; no path: row 511; not shown: nothing."""
    torch.manual_seed(0)
    table = random(512, 3)
    table[0] = 0
    spd = torch.tensor([0, 1, 19, 20, 253, 254, NO_PATH, 7], dtype=torch.uint8)
    shown = torch.tensor([SHOW_SPD] * 7 + [SHOW_EDGE | SHOW_DISTANCE], dtype=torch.uint8)
    expected = torch.cat([table[[1, 2, 20, 21, 254, 255, 511]], torch.zeros(1, 3, dtype=torch.float64)])
    assert torch.equal(spd_bias(shown, spd, table), expected)


def test_edge_sums_and_their_divisors():
    """1 / min(max(spd, 1), 5) of the hops' sum."""
    torch.manual_seed(0)
    table = random(5, 61, 2)
    table[:, 0] = 0
    spd = torch.tensor([0, 1, 3, 5, 12, NO_PATH, 3], dtype=torch.uint8)
    path = torch.zeros(7, 5, dtype=torch.uint8)
    path[1, 0], path[2, :3], path[3], path[4] = 4, torch.tensor([1, 2, 60]), torch.arange(5) + 7, torch.arange(5) + 20
    path[6] = path[2]
    shown = torch.tensor([SHOW_EDGE] * 6 + [SHOW_SPD], dtype=torch.uint8)
    expected = torch.zeros(7, 2, dtype=torch.float64)
    expected[1] = table[0, 4]
    expected[2] = (table[0, 1] + table[1, 2] + table[2, 60]) / 3
    expected[3] = sum(table[h, 7 + h] for h in range(5)) / 5
    expected[4] = sum(table[h, 20 + h] for h in range(5)) / 5
    torch.testing.assert_close(edge_bias(shown, spd, path, table), expected, rtol=0, atol=1e-14)


def test_gaussians_are_normal_densities():
    x, means, stds = random(9) * 3, random(4), random(4)
    expected = torch.distributions.Normal(means, stds.abs() + 0.01).log_prob(x[:, None]).exp()
    torch.testing.assert_close(gaussians(x, means, stds), expected, rtol=1e-12, atol=1e-300)


SIZES = [3, 1, 4]


def distance_inputs(gaussian_count: int = 4, heads: int = 2):
    torch.manual_seed(2)
    k = gaussian_count
    weights = DistanceWeights(
        mul=1 + 0.1 * random(1536),
        shift=0.1 * random(1536),
        means=torch.rand(k, dtype=torch.float64) * 3,
        stds=torch.rand(k, dtype=torch.float64) * 3 + 0.1,
        weight1=random(k, k),
        bias1=random(k),
        weight2=random(heads, k),
        bias2=random(heads),
    )
    layout = Layout(torch.tensor(SIZES), "cpu")
    element = torch.tensor([5, 0, 118, 7, 5, 5, 6, 7])
    return random(layout.num_pairs, heads), random(8, 3), element, weights, layout


def by_loops(bias, shown, wanted, coordinates, element, w, sizes):
    bias, sums = bias.clone(), torch.zeros(len(wanted), len(w.means), dtype=torch.float64)
    atom, pair = 0, 0
    for n in sizes:
        for i in range(atom, atom + n):
            for j in range(atom, atom + n):
                distance = torch.sqrt(((coordinates[i] - coordinates[j]) ** 2).sum())
                a, b = element[i] + 3, element[j] + 3 + 512
                x = (w.mul[a] + w.mul[b]) * distance + w.shift[a] + w.shift[b]
                width = w.stds.abs() + 0.01
                g = torch.exp(-(((x - w.means) / width) ** 2) / 2) / (math.sqrt(2 * math.pi) * width)
                if wanted[i]:
                    sums[i] = sums[i] + g
                if shown[pair] & SHOW_DISTANCE:
                    hidden = g @ w.weight1.T + w.bias1
                    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
                    bias[pair] = bias[pair] + hidden @ w.weight2.T + w.bias2
                pair += 1
        atom += n
    return bias, sums


def some_shown(layout):
    generator = torch.Generator().manual_seed(4)
    shown = torch.randint(0, 8, (layout.num_pairs,), generator=generator, dtype=torch.uint8)
    return shown, torch.tensor([True, False, True, False, True, True, False, True])


@pytest.mark.parametrize("nothing_shown", [False, True])
def test_distances_against_loops(nothing_shown):
    bias, coordinates, element, weights, layout = distance_inputs()
    shown, wanted = some_shown(layout)
    if nothing_shown:
        shown, wanted = torch.full_like(shown, SHOW_SPD | SHOW_EDGE), torch.zeros_like(wanted)
    ours = distance_bias(bias, shown, wanted, coordinates, element, weights, layout)
    theirs = by_loops(bias, shown, wanted, coordinates, element, weights, SIZES)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    if nothing_shown:
        assert torch.equal(ours[0], bias)
        assert not ours[1].any()


def test_gradients_of_distances_against_loops():
    """Every parameter, the bias that is added to, and the coordinates (atoms apart from themselves)."""
    bias, coordinates, element, weights, layout = distance_inputs()
    shown, wanted = some_shown(layout)
    leaves = [bias, *weights]
    for leaf in leaves:
        leaf.requires_grad_()
    ours = distance_bias(bias, shown, wanted, coordinates, element, weights, layout)
    theirs = by_loops(bias, shown, wanted, coordinates, element, weights, SIZES)
    upstream = [torch.randn_like(x) for x in ours]
    for a, b in zip(torch.autograd.grad(ours, leaves, upstream), torch.autograd.grad(theirs, leaves, upstream), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def test_gradcheck():
    bias, coordinates, element, weights, layout = distance_inputs(3, 2)
    shown, wanted = some_shown(layout)
    small = torch.unique(torch.cat([element + 3, element + 515]))

    def distances(bias, mul, shift, *rest):
        full_mul, full_shift = weights.mul.index_put((small,), mul), weights.shift.index_put((small,), shift)
        return distance_bias(bias, shown, wanted, coordinates, element, DistanceWeights(full_mul, full_shift, *rest), layout)

    leaves = [bias, weights.mul[small], weights.shift[small], *weights[2:]]
    assert torch.autograd.gradcheck(distances, [x.detach().clone().requires_grad_() for x in leaves])

    spd = torch.tensor([0, 1, 2, NO_PATH, 5, 1], dtype=torch.uint8)
    path = torch.tensor([[0] * 5, [3, 0, 0, 0, 0], [1, 2, 0, 0, 0], [0] * 5, [1, 2, 3, 1, 2], [1, 0, 0, 0, 0]], dtype=torch.uint8)
    shown = torch.tensor([3, 3, 1, 3, 2, 4], dtype=torch.uint8)
    table, hops = random(512, 2), random(5, 4, 2)
    table[0], hops[:, 0] = 0, 0
    rows = torch.tensor([1, 2, 3, 6, 511])
    assert torch.autograd.gradcheck(lambda t: spd_bias(shown, spd, table.index_put((rows,), t)), table[rows].clone().requires_grad_())
    assert torch.autograd.gradcheck(
        lambda t: edge_bias(shown, spd, path, torch.cat([hops[:, :1], t], dim=1)), hops[:, 1:].clone().requires_grad_()
    )


def test_the_whole_is_the_sum_of_its_parts(monkeypatch):
    """Any number of pairs at once: values and gradients of the three encodings, each on its own."""
    monkeypatch.setattr(reference, "PAIRS_AT_ONCE", 7)
    monkeypatch.setenv("MOLEBLEND_OPS", "reference")
    _, coordinates, element, weights, layout = distance_inputs(3, 2)
    pairs = layout.num_pairs
    shown, spd = torch.arange(pairs).to(torch.uint8) % 8, torch.arange(pairs).to(torch.uint8) * 9
    path, wanted = torch.arange(5 * pairs).view(pairs, 5).to(torch.uint8) % 61, torch.arange(8) % 2 == 0
    table, hops = random(512, 2), random(5, 61, 2)
    table[0] = 0
    leaves = RelationWeights(*(w.requires_grad_() for w in (table, hops, *weights)))
    geometry = (wanted, coordinates, element)
    bias = spd_bias(shown, spd, table) + edge_bias(shown, spd, path, hops)
    expected = distance_bias(bias, shown, *geometry, leaves.distance, layout)
    got = ops.relation_bias(shown, spd, path, *geometry, leaves, layout)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    upstream = [random(*x.shape) for x in got]
    for a, b in zip(torch.autograd.grad(got, leaves, upstream), torch.autograd.grad(expected, leaves, upstream), strict=True):
        assert b.abs().max() > 1e-3
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
