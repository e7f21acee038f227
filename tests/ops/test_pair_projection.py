"""The bilinear form against outer products that are really built."""

import pytest
import torch
import torch.nn.functional as F

from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.pair_projection import pair_cosine, pair_cross_entropy, pair_projection, pair_smooth_l1
from moleblend_fs.ops.pair_projection import reference as module


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


def losses(sizes, kind):
    """(fused loss, the same from z, inputs) of one of the losses; some places do not count."""
    torch.manual_seed(4)
    layout, pairs = Layout(torch.tensor(sizes), "cpu"), sum(n * n for n in sizes)
    if kind == "cross-entropy":
        target = torch.randint(0, 6, (pairs, 3), dtype=torch.int8)
        target[torch.rand(pairs, 3) < 0.4] = -100
        target[0, 0] = -101

        def expected(z):
            logits = z.view(-1, 6).log_softmax(dim=1)
            counted = target.reshape(-1) >= 0
            return -logits[counted, target.reshape(-1)[counted].long()].sum()

        return lambda *x: pair_cross_entropy(*x, target, layout), expected, inputs(sizes, 4, 18)
    weight = torch.rand(pairs, dtype=torch.float64) * (torch.rand(pairs) < 0.7)
    if kind == "cosine":
        target = torch.randn(pairs, 3, dtype=torch.float64)
        fused = lambda *x: pair_cosine(*x, target, weight, layout)  # noqa: E731
        return fused, lambda z: (weight * (1 - (z * target).sum(1) / z.norm(dim=1) / target.norm(dim=1))).sum(), inputs(sizes, 4, 3)
    target = torch.randn(pairs, dtype=torch.float64)
    fused = lambda *x: pair_smooth_l1(*x, target, weight, layout)  # noqa: E731
    return fused, lambda z: (weight * F.smooth_l1_loss(z[:, 0], target, reduction="none")).sum(), inputs(sizes, 4, 1)


@pytest.mark.parametrize("at_once", [1, 5_000, 1 << 19])
@pytest.mark.parametrize("kind", ["cross-entropy", "cosine", "smooth L1"])
def test_losses_are_those_of_the_values_however_many_are_held(kind, at_once, monkeypatch):
    monkeypatch.setattr(module, "VALUES_AT_ONCE", at_once)
    sizes = [2, 3, 15, 1, 16, 17, 3, 3]
    fused, of_values, arguments = losses(sizes, kind)
    expected = of_values(built(*arguments, sizes))
    torch.testing.assert_close(fused(*arguments), expected, rtol=1e-12, atol=0)
    ours, theirs = (torch.autograd.grad(1.7 * loss, arguments) for loss in (fused(*arguments), of_values(built(*arguments, sizes))))
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-11 * b.abs().max()
    with torch.no_grad():
        torch.testing.assert_close(fused(*arguments), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["cross-entropy", "cosine", "smooth L1"])
def test_losses_gradcheck(kind):
    fused, _, arguments = losses([3, 1, 2], kind)
    assert torch.autograd.gradcheck(fused, arguments)


@pytest.mark.parametrize("kind", ["cross-entropy", "cosine", "smooth L1"])
def test_half_precision_sides_give_the_loss_in_float32(kind):
    fused, of_values, arguments = losses([5, 9, 30], kind)
    half = [x.detach().bfloat16().requires_grad_() for x in arguments]
    loss = fused(*half)
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(x.grad.dtype == torch.bfloat16 for x in half)
    # bfloat16 keeps 8 bits of z, whose errors are random: their sum is far better than 1 %.
    assert float(loss.detach()) == pytest.approx(float(of_values(built(*arguments, [5, 9, 30])).detach()), rel=1e-2)
