"""The kernels of GELU and dropout against float64: what is dropped is that of the plain hash."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton")
from moleblend_fs.ops import dispatch, gelu_dropout
from moleblend_fs.ops.dropout_bits import kept_values
from moleblend_fs.ops.gelu_dropout import autograd, launch, selftest
from moleblend_fs.ops.gelu_dropout.selftest import NAMES, exact_gelu_linear
from moleblend_fs.ops.linear import Product

SEED = (12345, -678)
OUT = 5
# Largest error as a share of the largest value: float32, or rounding of inputs, weights and results to the half type.
TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 2.5e-2, torch.float16: 3e-3}


def inputs(rows, width, dtype, device):
    random = torch.Generator().manual_seed(width)
    shapes = ((rows, width), (width,), (OUT, width), (OUT,))
    given = [torch.randn(size, generator=random).to(device, dtype).requires_grad_() for size in shapes]
    return given, torch.randn(rows, OUT, generator=random).to(device, dtype)


def run(given, upstream, dropout):
    found = autograd.gelu_dropout_linear(*given, dropout=dropout, seed=SEED)
    return [found.detach(), *torch.autograd.grad(found, given, upstream)]


def expect(given, upstream, factor):
    exact = [x.detach().double().requires_grad_() for x in given]
    found = exact_gelu_linear(*exact, factor_Tf=factor.to(upstream.device))
    return [found.detach(), *torch.autograd.grad(found, exact, upstream.double())]


def worst(ours, theirs):
    errors = {name: float((a.double() - b).abs().max() / b.abs().max()) for name, a, b in zip(NAMES, ours, theirs, strict=True)}
    return max(errors.values()), errors


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (2, 31), (31, 33), (33, 64), (9, 512), (3, 1100)], ids=str)
def test_float32(rows, width, dropout, device):
    given, upstream = inputs(rows, width, torch.float32, device)
    factor = kept_values(SEED, rows, width, dropout)
    ours = run(given, upstream, dropout)
    error, errors = worst(ours, expect(given, upstream, factor))
    assert error < TOLERANCE[torch.float32], errors
    if rows > 1:  # one value that is dropped or kept and should not be is seen
        factor[1, 0] = 1 / (1 - dropout) - factor[1, 0] if dropout else 0
        assert worst(ours, expect(given, upstream, factor))[0] > 10 * TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [64, 768])
def test_half_precision(dtype, width, device):
    given, upstream = inputs(19, width, dtype, device)
    ours = run(given, upstream, 0.2)
    assert {x.dtype for x in ours} == {dtype}
    error, errors = worst(ours, expect(given, upstream, kept_values(SEED, 19, width, 0.2)))
    assert error < TOLERANCE[dtype], errors
    assert worst(ours, expect(given, upstream, kept_values((1, 2), 19, width, 0.2)))[0] > 10 * TOLERANCE[dtype]


def test_more_rows_than_the_programs_hold_at_a_time(device, monkeypatch):
    monkeypatch.setattr(launch, "PROGRAMS", 2)
    given, upstream = inputs(203, 64, torch.float32, device)
    error, errors = worst(run(given, upstream, 0.3), expect(given, upstream, kept_values(SEED, 203, 64, 0.3)))
    assert error < TOLERANCE[torch.float32], errors


def test_gelu_of_large_and_small_numbers(device):
    """The approximation of the normal distribution is within 2e-7 everywhere, and so are values and slopes, in units of max(1, |x|)."""
    x = torch.cat([torch.linspace(-30, 30, 4001), torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e4, -1e4])]).view(1, -1).to(device)
    exact = x.double().requires_grad_()
    theirs = F.gelu(exact)
    (slope,) = torch.autograd.grad(theirs.sum(), exact)
    d_x, active, _ = launch.backward(torch.ones_like(x), x, None, 0.0, 0, 0)
    unit = x.double().abs().clamp(min=1)
    assert torch.equal(active, launch.forward(x, None, 0.0, 0, 0))
    assert ((active.double() - theirs).abs() / unit).max() < 2e-7
    assert ((d_x.double() - slope).abs() / unit).max() < 3e-7


def test_without_a_bias_and_only_what_is_asked_for(device):
    given, upstream = inputs(7, 48, torch.float32, device)
    plain = [given[0], given[1].detach() * 0, *given[2:]]
    expected = torch.autograd.grad(autograd.gelu_dropout_linear(*plain, dropout=0.2, seed=SEED), given[0], upstream)
    bare = autograd.gelu_dropout_linear(given[0], None, given[2], None, dropout=0.2, seed=SEED)
    assert torch.equal(torch.autograd.grad(bare, given[0], upstream)[0], expected[0])
    whole = run(given, upstream, 0.2)[1:]
    for number in range(len(given)):
        some = [x.detach().requires_grad_(i == number) for i, x in enumerate(given)]
        found = autograd.gelu_dropout_linear(*some, dropout=0.2, seed=SEED)
        assert torch.equal(torch.autograd.grad(found, some[number], upstream)[0], whole[number])


def test_same_seed_same_bits(device):
    given, upstream = inputs(40, 64, torch.bfloat16, device)
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found = autograd.gelu_dropout_linear(*given, dropout=0.3)
        results.append([found, *torch.autograd.grad(found, given, upstream)])
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert not torch.equal(results[0][0], results[2][0])


def test_the_model_s_function_takes_kernels_and_plain_torch(device, monkeypatch):
    given, _ = inputs(7, 48, torch.float32, device)
    x, x_bias, weight, bias = (y.detach() for y in given)
    results = []
    for implementation in ("triton", "reference"):
        monkeypatch.setenv(dispatch.VARIABLE, implementation)
        assert gelu_dropout.adds_bias(x, 48) == (implementation == "triton")
        results.append(gelu_dropout.gelu_dropout_linear(x, x_bias, Product(weight, bias), 0.0))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("with_bias", [True, False])
def test_opcheck(with_bias, device):
    (x, bias, *_), _ = inputs(5, 16, torch.float32, device)
    x, bias = x.detach(), bias.detach() if with_bias else None
    torch.library.opcheck(torch.ops.moleblend.gelu_dropout_forward, (x, bias, 0.1, 7, -8))
    torch.library.opcheck(torch.ops.moleblend.gelu_dropout_backward, (torch.ones_like(x), x, bias, 0.1, 7, -8))


def test_self_test_fails_on_other_numbers(device, monkeypatch):
    selftest.self_test(device, shape=(64,))
    monkeypatch.setattr(selftest, "kept_values", lambda *x: 1.001 * kept_values(*x))
    with pytest.raises(dispatch.OtherNumbers, match="d bias of x"):
        selftest.self_test(device, shape=(64,))
