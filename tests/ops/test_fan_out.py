"""Readers of one tensor: the sum of their gradients does not depend on who is done first."""

import pytest
import torch

from moleblend_fs.ops.fan_out import fan_out


@pytest.mark.parametrize("readers", [0, 1, 2, 4])
def test_gradients(readers):
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert len(fan_out(x, readers)) == readers
    if readers:
        weights = torch.randn(readers, 5, 3, dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda x: sum((w * y**2).sum() for w, y in zip(weights, fan_out(x, readers), strict=True)), x)


def test_an_order_of_its_own():
    x = torch.zeros(1, requires_grad=True)
    values = torch.tensor([1e8, 1.0, -1e8])
    found = set()
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]):
        copies = fan_out(x, 3)
        x.grad = None
        sum(copies[i] * values[i] for i in order).sum().backward()
        found.add(float(x.grad))
    assert found == {0.0}, "(1e8 + 1) - 1e8 in float32"


def test_a_reader_without_a_gradient():
    x = torch.ones(2, requires_grad=True)
    first, _ = fan_out(x, 2)
    first.sum().backward()
    assert x.grad.tolist() == [1, 1]
