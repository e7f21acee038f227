"""The gradient of the cosine's loss that is written out, against torch's own."""

import pytest
import torch

from moleblend_fs.ops import cosine_loss as module
from moleblend_fs.ops.cosine_loss import cosine_loss, gradient_along


def rows(dtype=torch.float64):
    """Vectors, targets, and which rows count: one that does not has NaN, one that does has a target of 0."""
    torch.manual_seed(0)
    x, target = torch.randn(7, 3, dtype=dtype), torch.randn(7, 3, dtype=dtype)
    x[2], target[3] = float("nan"), 0
    return x.requires_grad_(), target, torch.tensor([True, True, False, True, True, False, True])


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_as_torchs_own(dtype, rtol, monkeypatch):
    x, target, counts = rows(dtype)
    assert not gradient_along(x), "on CPUs digits stay as they are"
    theirs = cosine_loss(x, target, counts)
    monkeypatch.setattr(module, "gradient_along", lambda x: True)
    ours = cosine_loss(x, target, counts)
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=0)
    d_ours, d_theirs = (torch.autograd.grad(0.7 * loss, x)[0] for loss in (ours, theirs))
    torch.testing.assert_close(d_ours, d_theirs, rtol=0, atol=rtol * float(d_theirs.abs().max()))
    assert (d_ours[[2, 5]] == 0).all(), "rows that do not count"


def test_gradcheck(monkeypatch):
    monkeypatch.setattr(module, "gradient_along", lambda x: True)
    x, target, counts = rows()
    x = x.detach().nan_to_num(0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: cosine_loss(x, target, counts), x)
