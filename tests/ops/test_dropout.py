"""Dropout of plain torch: how often, by how much, and that neighbours, which share 64 random bits, are dropped apart."""

import pytest
import torch

from moleblend_fs.ops.dropout import draw_kept, factors, multiplied


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_values_are_kept_as_often_as_asked_for_each_by_itself(p):
    torch.manual_seed(0)
    kept = draw_kept(torch.empty(400_000), p).double().view(-1, 4)
    spread = 5 * (p * (1 - p) / len(kept)) ** 0.5
    assert (kept.mean(dim=0) - (1 - p)).abs().max() < spread, "each of the four"
    assert (kept.T.cov() - p * (1 - p) * torch.eye(4)).abs().max() < 5 * (p * (1 - p)) ** 0.5 / len(kept) ** 0.5


def test_of_nearly_all_dropped_hardly_any_is_kept():
    assert draw_kept(torch.empty(1000), 1 - 1e-9).sum() < 5


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 2, 7)])
def test_any_shape_and_the_same_after_the_same_seed(shape):
    torch.manual_seed(3)
    first, second = draw_kept(torch.empty(shape), 0.5), draw_kept(torch.empty(512), 0.5)
    torch.manual_seed(3)
    assert torch.equal(draw_kept(torch.empty(shape), 0.5), first)
    assert torch.equal(draw_kept(torch.empty(512), 0.5), second)
    assert first.shape == shape
    assert not torch.equal(draw_kept(torch.empty(512), 0.5), second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_what_is_kept_grows_so_that_the_mean_stays(dtype):
    keep = torch.tensor([True, False, True])
    x = torch.tensor([1.0, 2.0, -3.0], dtype=dtype)
    found = multiplied(x, factors(keep, 0.1, dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(
        found, torch.tensor([1.0, 0.0, -3.0], dtype=torch.float64).div(0.9).to(dtype), rtol=1e-6 if dtype.itemsize > 2 else 0.0, atol=0
    )
    assert multiplied(x, None) is x
