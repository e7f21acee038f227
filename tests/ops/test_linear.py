"""Linear layers and feed-forward part with their gradients written out, against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from moleblend_fs.ops.feed_forward import feed_forward
from moleblend_fs.ops.linear import linear


def feed_forward_inputs(rows, d, f, dtype):
    torch.manual_seed(0)
    shapes = [(rows, d), (f, d), (f,), (d, f), (d,)]
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize(("rows", "d", "f"), [(1, 1, 1), (2, 31, 33), (123, 48, 17)])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-13), (torch.float32, 2e-5), (torch.bfloat16, 5e-2)])
def test_outputs_and_gradients(rows, d, f, dtype, rtol):
    """Relative to the largest value: a sum of products cancels to a few roundings of its terms."""
    arguments = feed_forward_inputs(rows, d, f, dtype)
    x, w1, b1, w2, b2 = arguments
    pairs = [
        (linear(x, w1, b1), F.linear(x, w1, b1), [x, w1, b1]),
        (feed_forward(*arguments, 0.0), F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2), arguments),
    ]
    for ours, theirs, leaves in pairs:
        assert ours.dtype == dtype
        assert (ours - theirs).abs().max() <= rtol * theirs.abs().max()
        upstream = torch.randn_like(theirs)
        for a, b in zip(torch.autograd.grad(ours, leaves, upstream), torch.autograd.grad(theirs, leaves, upstream), strict=True):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            assert (a - b).abs().max() <= rtol * b.abs().max()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_gradcheck(dropout):
    def run(*arguments):
        torch.manual_seed(5)
        return feed_forward(*arguments, dropout)

    assert torch.autograd.gradcheck(run, feed_forward_inputs(4, 3, 5, torch.float64))
    assert torch.autograd.gradcheck(linear, feed_forward_inputs(4, 3, 5, torch.float64)[:3])


@torch.no_grad()
def test_dropout_drops_inner_activations():
    x, w1, b1, _, b2 = feed_forward_inputs(300, 4, 50, torch.float64)
    torch.manual_seed(1)
    out = feed_forward(x, w1 * 0, b1 * 0 + 3, torch.ones(4, 50, dtype=torch.float64), b2 * 0, 0.2)
    one = F.gelu(torch.tensor(3.0, dtype=torch.float64)) / 0.8
    kept = out / one
    assert (kept - kept.round()).abs().max() < 1e-9
    assert abs(float(kept.mean()) / 50 - 0.8) < 4 * (0.16 / (300 * 50)) ** 0.5
