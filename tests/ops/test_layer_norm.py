"""Layer normalisation: the same numbers on every path, statistics in float32."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from moleblend_fs.model import encoder
from moleblend_fs.ops import layer_norm as room
from moleblend_fs.ops.layer_norm import layer_norm, layer_norm_backward
from moleblend_fs.ops.residual_norm.reference import norm_linear

DTYPES = pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)]
)


def inputs(dtype):
    generator = torch.Generator().manual_seed(0)
    x, gain, shift, d = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((33, 48), (48,), (48,), (33, 48)))
    return [each.to(dtype) for each in (3 * x + 5, gain, shift, d)]


def in_float64(x, gain, shift, d):
    wide = [each.double().requires_grad_() for each in (x, gain, shift)]
    out = F.layer_norm(wide[0], wide[0].shape[-1:], wide[1], wide[2], 1e-5)
    return [out.detach(), *torch.autograd.grad(out, wide, d.double())]


@DTYPES
@pytest.mark.parametrize("as_on_cuda", [False, True])
def test_values_and_gradients(dtype, rtol, as_on_cuda, monkeypatch):
    """`as_on_cuda`: the path that hands half precision to torch's operation, here the CPU's, whose statistics are less exact."""
    if as_on_cuda:
        monkeypatch.setattr(room, "reads_half_precision", lambda x, gain: True)
        rtol = max(rtol, 4e-2 if dtype == torch.bfloat16 else rtol)
    x, gain, shift, d = inputs(dtype)
    normed, mean, rstd = layer_norm(x, gain, shift, 1e-5)
    found = [normed, *layer_norm_backward(d, x, mean, rstd, gain, shift)]
    for mine, exact, given in zip(found, in_float64(x, gain, shift, d), (x, x, gain, shift), strict=True):
        assert mine.dtype == given.dtype
        torch.testing.assert_close(mine.double(), exact, rtol=rtol, atol=rtol * float(exact.abs().max()))


def test_statistics_of_half_precision_are_kept_in_float32():
    x, gain, shift, _ = inputs(torch.bfloat16)
    _, mean, rstd = layer_norm(x, gain, shift, 1e-5)
    assert mean.dtype == rstd.dtype == torch.float32


def test_the_model_s_norm_and_that_before_a_product_are_one():
    x, *_ = inputs(torch.bfloat16)
    norm, layer = encoder.LayerNorm(48).to(torch.bfloat16), nn.Linear(48, 8).to(torch.bfloat16)
    assert torch.equal(norm(x), norm_linear(x, norm, layer)[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_on_a_gpu_half_precision_has_float32_statistics(dtype):
    x, gain, shift, d = (each.cuda() for each in inputs(dtype))
    normed, mean, rstd = layer_norm(x, gain, shift, 1e-5)
    assert mean.dtype == rstd.dtype == torch.float32
    found = [normed, *layer_norm_backward(d, x, mean, rstd, gain, shift)]
    for mine, exact in zip(found, in_float64(*(each.cpu() for each in (x, gain, shift, d))), strict=True):
        torch.testing.assert_close(mine.double().cpu(), exact, rtol=1e-2, atol=1e-2 * float(exact.abs().max()))
