"""What is relied on of torch's compiled code, for which there is no source to pin."""

import torch
from torch.autograd.function import once_differentiable

from moleblend_fs.patches import foreach
from moleblend_fs.patches.graph_task import backward_pass
from moleblend_fs.patches.softmax_backward import softmax_backward


def some_tensors() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) * 1e3 for shape in ((3, 5), (), (7, 11), (1000,))]


def test_norms_of_many_tensors():
    """Summed in float64: to the last digit those of the tensors in float64, which those summed in float32 are not."""
    tensors = some_tensors()
    expected = torch.stack([tensor.double().square().sum().sqrt() for tensor in tensors])
    found = foreach.norms(tensors, torch.float64)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
    assert ((foreach.norms(tensors, torch.float32).double() - expected).abs() > 1e-10 * expected).any()


def test_many_tensors_are_multiplied():
    tensors = some_tensors()
    before = [tensor.clone() for tensor in tensors]
    products = foreach.multiplied(tensors, torch.tensor(0.3))
    assert all(torch.equal(tensor, was) for tensor, was in zip(tensors, before, strict=True))
    foreach.multiply_(tensors, torch.tensor(0.3))
    for tensor, product, was in zip(tensors, products, before, strict=True):
        assert torch.equal(tensor, was * torch.tensor(0.3))
        assert torch.equal(tensor, product)


def test_many_tensors_are_copied_and_cleared():
    """Rounded as one is by itself; none are fine too."""
    tensors = some_tensors()
    halves = [torch.full_like(tensor, 7, dtype=torch.bfloat16) for tensor in tensors]
    foreach.copy_(halves, tensors)
    assert all(torch.equal(half, tensor.bfloat16()) for half, tensor in zip(halves, tensors, strict=True))
    foreach.zero_(halves)
    assert not any(half.any() for half in halves)
    foreach.copy_([], [])
    foreach.zero_([])


def test_softmax_backward_is_autograd_s():
    """To the last bit, in float32 and float64; and the formula's, which a gradient that forgets the sum is far from."""
    generator = torch.Generator().manual_seed(0)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        logits = torch.randn(4, 7, 9, generator=generator, dtype=dtype).requires_grad_()
        d = torch.randn(4, 7, 9, generator=generator, dtype=dtype)
        p = logits.softmax(dim=-1)
        (expected,) = torch.autograd.grad(p, logits, d)
        found = softmax_backward(d, p.detach())
        assert torch.equal(found, expected)
        torch.testing.assert_close(found, p.detach() * (d - (p.detach() * d).sum(-1, keepdim=True)), rtol=0, atol=tolerance)
        assert (found - p.detach() * d).abs().max() > 0.01


class Numbered(torch.autograd.Function):
    """The identity; notes the number of each backward pass that comes by."""

    seen: list[int]

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, d):
        Numbered.seen.append(backward_pass())
        return d


def test_each_backward_pass_has_a_number():
    """The same for all nodes of one pass, another for the next, also of the same graph; none outside."""
    Numbered.seen = []
    x = torch.ones(2, requires_grad=True)
    y = Numbered.apply(Numbered.apply(x)).sum()
    assert backward_pass() == -1
    y.backward(retain_graph=True)
    y.backward()
    first, again, second, third = Numbered.seen
    assert first == again >= 0
    assert second == third > first
