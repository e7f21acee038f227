"""The bilinear form against outer products that are really built."""

import pytest
import torch

from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.pair_projection import pair_projection


def built(left, right, weight, bias, sizes):
    """W vec(l_i r_j^T) + b, one molecule after the other."""
    parts = []
    for l, r in zip(left.split(sizes), right.split(sizes), strict=True):
        outer = torch.einsum("ia,jb->ijab", l, r).reshape(len(l) ** 2, -1)
        parts.append(outer @ weight.reshape(len(weight), -1).T + bias)
    return torch.cat(parts)


def inputs(sizes, m, outputs):
    torch.manual_seed(3)
    shapes = [(sum(sizes), m), (sum(sizes), m), (outputs, m, m), (outputs,)]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("sizes", [[1], [1, 1], [2, 3, 15, 16, 17], [33, 1, 123, 33, 5]])
@pytest.mark.parametrize(("m", "outputs"), [(1, 1), (5, 11), (32, 120)])
def test_output_and_gradients(sizes, m, outputs):
    arguments = inputs(sizes, m, outputs)
    z = pair_projection(*arguments, Layout(torch.tensor(sizes), "cpu"))
    expected = built(*arguments, sizes)
    torch.testing.assert_close(z, expected, rtol=1e-12, atol=1e-11)
    # Left and right are not alike: swapped, the result is another one.
    if sizes != [1] and m > 1:
        assert (built(arguments[1], arguments[0], *arguments[2:], sizes) - expected).abs().max() > 1
    upstream = torch.randn_like(z)
    ours, theirs = (torch.autograd.grad(x, arguments, upstream) for x in (z, expected))
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-11 * b.abs().max()


def test_gradcheck():
    sizes = [3, 1, 2]
    layout = Layout(torch.tensor(sizes), "cpu")
    assert torch.autograd.gradcheck(lambda *x: pair_projection(*x, layout), inputs(sizes, 3, 2))
