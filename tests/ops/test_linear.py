"""Linear layers with their gradients written out, against torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from moleblend_fs.ops.attention import attention_linear, bucket_bias
from moleblend_fs.ops.gelu_dropout.reference import gelu_dropout_linear
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import Linear, adds_up_in_products, for_readers, linear, linears, products_in
from moleblend_fs.ops.residual_norm.reference import norm_linear

SIZES = [(1, 1, 1), (2, 31, 33), (123, 48, 17), (701, 257, 190)]  # the last is large enough for oneDNN
GRID = pytest.mark.parametrize(("rows", "d", "f"), SIZES)
DTYPES = pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 5e-5), (torch.bfloat16, 5e-2)])


def setup(rows, d, f, dtype):
    torch.manual_seed(0)
    x = torch.randn(rows, d).to(dtype).requires_grad_()
    norm, layer = nn.LayerNorm(d), Linear(d, f)
    for parameter in norm.parameters():
        nn.init.normal_(parameter, 1)
    return x, norm.to(dtype), layer.to(dtype)


def assert_same(ours, theirs, leaves, rtol):
    """Outputs and gradients under a random upstream gradient, relative to the largest value: sums of products cancel."""
    upstream = [torch.randn_like(y) for y in theirs]
    results = [*ours, *torch.autograd.grad(ours, leaves, upstream)]
    expected = [*theirs, *torch.autograd.grad(theirs, leaves, upstream)]
    for a, b in zip(results, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert (a - b).abs().max() <= rtol * b.abs().max().clamp(min=1e-6)


@GRID
@DTYPES
def test_linear(rows, d, f, dtype, rtol):
    x, _, layer = setup(rows, d, f, dtype)
    leaves = [x, layer.weight, layer.bias]
    assert_same([linear(*leaves)], [F.linear(*leaves)], leaves, rtol)


@GRID
@DTYPES
def test_linears_of_one_input(rows, d, f, dtype, rtol, monkeypatch):
    """As on GPUs; one layer's result goes nowhere, and another's weight is frozen."""
    x, _, layer = setup(rows, d, f, dtype)
    layers = [layer, Linear(d, f + 1).to(dtype), Linear(d, f).to(dtype), Linear(d, 2).to(dtype)]
    layers[1].weight.requires_grad_(False)
    leaves = [x, layer.weight, layer.bias, layers[1].bias, layers[3].weight, layers[3].bias]
    assert not adds_up_in_products(x, layer.weight), "on CPUs digits stay as they are"
    theirs = linears(x, layers)
    monkeypatch.setattr("moleblend_fs.ops.linear.adds_up_in_products", lambda x, weight: True)
    ours = linears(x, layers)
    used = [0, 1, 3]
    assert_same([ours[i] for i in used], [theirs[i] for i in used], leaves, rtol)
    unused = torch.autograd.grad(linears(x, layers)[0].sum(), layers[2].weight, allow_unused=True)
    assert unused == (None,), "not 0, with which Adam would go on"


def test_readers_of_one_input(monkeypatch):
    """One product for all of them, as on GPUs, gives each its own layers, and gradients as layer by layer."""
    x, _, layer = setup(5, 4, 3, torch.float64)
    readers = [[layer], [Linear(4, 2).double(), Linear(4, 6).double()]]
    leaves = [x, *(parameter for layers in readers for each in layers for parameter in each.parameters())]
    results = []
    for by_one_product in (False, True):
        monkeypatch.setattr("moleblend_fs.ops.linear.adds_up_in_products", lambda x, weight, answer=by_one_product: answer)
        given = for_readers(x, readers)
        assert all(isinstance(each, list) == by_one_product for each in given)
        results.append([out for each, layers in zip(given, readers, strict=True) for out in linears(each, layers)])
    assert_same(results[1], results[0], leaves, 1e-12)
    assert torch.autograd.gradcheck(lambda *_: tuple(linears(x, [layer for layers in readers for layer in layers])), leaves)


@pytest.mark.parametrize(("rows", "d", "f"), SIZES[1:])  # a single number, normalised, is 0 and its gradient rounding
@DTYPES
def test_norm_linear(rows, d, f, dtype, rtol):
    x, norm, layer = setup(rows, d, f, dtype)
    wide = torch.promote_types(dtype, torch.float32)
    normed = F.layer_norm(x.to(wide), (d,), norm.weight.to(wide), norm.bias.to(wide), norm.eps).to(dtype)
    theirs = [normed, F.linear(normed, layer.weight, layer.bias)]
    assert_same(list(norm_linear(x, norm, layer)), theirs, [x, *norm.parameters(), *layer.parameters()], rtol)


@GRID
@DTYPES
def test_gelu_linear(rows, d, f, dtype, rtol):
    x, _, layer = setup(rows, d, f, dtype)
    assert_same([gelu_dropout_linear(x, layer, 0.0)], [layer(F.gelu(x))], [x, *layer.parameters()], rtol)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_gradcheck(dropout):
    x, norm, layer = setup(3, 5, 4, torch.float64)

    def run(x, *parameters):
        torch.manual_seed(5)
        normed, out = norm_linear(x, norm, layer)
        return normed, gelu_dropout_linear(out, second, dropout)

    second = Linear(4, 2).double()
    assert torch.autograd.gradcheck(run, [x, *norm.parameters(), *layer.parameters(), *second.parameters()])


def test_dropout_drops_half_and_doubles_the_rest():
    torch.manual_seed(0)
    layer = Linear(1000, 1000)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    x = torch.full((4, 1000), 3.0)
    out = gelu_dropout_linear(x, layer, 0.5)
    dropped = out == 0
    assert 0.45 < dropped.float().mean() < 0.55  # 4,000 draws: six standard deviations are 0.05
    torch.testing.assert_close(out[~dropped], 2 * F.gelu(x)[~dropped])


def test_the_largest_case_reaches_onednn():
    from moleblend_fs.ops import linear as module

    assert module.ONEDNN_MULTIPLICATIONS <= 701 * 257 * 190
    assert module.onednn_product() is not None


def half(x: torch.Tensor) -> torch.Tensor:
    return x.bfloat16().float()


def test_lowered_products():
    """Of factors rounded to bfloat16, in both passes, though the backward one is run outside; what is given is rounded too."""
    x, _, layer = setup(130, 64, 96, torch.float32)
    upstream = torch.randn(130, 96)
    with products_in(torch.bfloat16):
        y = linear(x, layer.weight, layer.bias)
    d_x, d_weight, d_bias = torch.autograd.grad(y, [x, layer.weight, layer.bias], upstream)
    rounded, weight, d_y = half(x), half(layer.weight), half(upstream)
    assert {t.dtype for t in (y, d_x, d_weight, d_bias)} == {torch.float32}
    for ours, exact in ((y - layer.bias, rounded @ weight.T), (d_x, d_y @ weight), (d_weight, d_y.T @ rounded)):
        # Rounded once to 8 bits. Factors that were not rounded differ by more in some of the numbers.
        assert ((ours - exact).abs() <= exact.abs() / 256 + 1e-5).all()
    assert not ((y - layer.bias - x @ layer.weight.T).abs() <= (x @ layer.weight.T).abs() / 256 + 1e-5).all()
    torch.testing.assert_close(d_bias, upstream.sum(dim=0))


def test_every_layer_of_a_block_is_lowered_in_both_passes():
    """Output and gradients differ from float32's, and by no more than bfloat16's 8 bits explain."""
    x, norm, layer = setup(6, 32, 32, torch.float32)
    layout, three = Layout(torch.tensor([2, 2]), "cpu"), Linear(32, 96)
    nn.init.normal_(three.weight, std=0.2)

    def attended() -> torch.Tensor:
        qkv = three(x).view(6, 3, 4, 8)
        return attention_linear(qkv, bucket_bias(torch.zeros(8, 4), torch.zeros(4), layout), layout, 0.0, layer)

    ways = {"norm": lambda: norm_linear(x, norm, layer)[1], "gelu": lambda: gelu_dropout_linear(x, layer, 0.0), "attention": attended}
    for name, way in ways.items():
        plain = way()
        with products_in(torch.bfloat16):
            lowered = way()
        upstream = torch.randn_like(plain)
        pairs = [(plain, lowered)]
        pairs += zip(*(torch.autograd.grad(y, [x, layer.weight], upstream) for y in (plain, lowered)), strict=True)
        for exact, ours in pairs:
            apart = float((exact - ours).detach().abs().max() / exact.detach().abs().max())
            assert 1e-4 < apart < 0.03, (name, apart)


def test_narrow_products_and_other_types_are_not_lowered():
    for width, dtype in ((31, torch.float32), (32, torch.float64)):
        x, _, layer = setup(40, 64, width, dtype)
        with products_in(torch.bfloat16):
            assert torch.equal(linear(x, layer.weight, layer.bias), F.linear(x, layer.weight, layer.bias))
