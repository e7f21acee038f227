"""The residual norm's kernels against float64: what is dropped is that of the plain hash."""

import pytest
import torch
from torch import nn

from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import Product

pytest.importorskip("triton")
from moleblend_fs.model import encoder
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.ops import dispatch, residual_norm
from moleblend_fs.ops.attention import prepare_bias
from moleblend_fs.ops.column_sums import add_up
from moleblend_fs.ops.dropout_bits import kept_rows, kept_values
from moleblend_fs.ops.residual_norm import Branch, autograd, launch, selftest
from moleblend_fs.ops.residual_norm.selftest import NAMES, exact_norm_linear, kept_factor

SEED = (12345, -678)
OUT = 5
# Largest error as a share of the largest value: float32, or rounding of inputs, weights and results to the half type.
TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 2.5e-2, torch.float16: 3e-3}
SIZES = {"one token's": [1], "33": [33], "mixed": [16, 1, 40, 2, 9]}


def inputs(layout, width, dtype, device):
    """x, branch, its bias, gain, shift, weight, bias, and the upstream gradients of norm and product."""
    random = torch.Generator().manual_seed(width)
    tokens = layout.num_tokens
    shapes = ((tokens, width), (tokens, width), (width,), (width,), (width,), (OUT, width), (OUT,))
    given = [torch.randn(size, generator=random).to(device, dtype).requires_grad_() for size in shapes]
    return given, [torch.randn(size, generator=random).to(device, dtype) for size in ((tokens, width), (tokens, OUT))]


def run(given, upstream, layout, dropout=0.0, drop_path=0.0):
    """Norm, product and all gradients."""
    found = autograd.residual_norm_linear(*[*given, layout.token_molecule], eps=1e-5, dropout=dropout, drop_path=drop_path, seed=SEED)
    return [*(x.detach() for x in found), *torch.autograd.grad(found, given, upstream)]


def expect(given, upstream, factor):
    exact = [x.detach().double().requires_grad_() for x in given]
    found = exact_norm_linear(*exact, factor_Td=factor)
    return [*(x.detach() for x in found), *torch.autograd.grad(found, exact, [x.double() for x in upstream])]


def worst(ours, theirs):
    errors = {name: float((a.double() - b).abs().max() / b.abs().max()) for name, a, b in zip(NAMES, ours, theirs, strict=True)}
    return max(errors.values()), errors


@pytest.mark.parametrize("rates", [(0.0, 0.0), (0.0, 0.4), (0.3, 0.0), (0.3, 0.4)], ids=str)
@pytest.mark.parametrize("width", [33, 64])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_float32(sizes, width, rates, device):
    layout = Layout(torch.tensor(sizes), device)
    given, upstream = inputs(layout, width, torch.float32, device)
    theirs = expect(given, upstream, kept_factor(SEED, layout, width, *rates))
    error, errors = worst(run(given, upstream, layout, *rates), theirs)
    assert error < TOLERANCE[torch.float32], errors
    # Without the branch's bias, or with one value dropped or kept that should not be, the results are others by far.
    spoiled = [*given[:2], given[2] * 0, *given[3:]]
    assert worst(expect(spoiled, upstream, kept_factor(SEED, layout, width, *rates)), theirs)[0] > 100 * error


@pytest.mark.parametrize(("width", "dtype"), [(64, torch.bfloat16), (64, torch.float16), (768, torch.bfloat16), (1100, torch.float16)])
def test_half_precision(width, dtype, device):
    layout = Layout(torch.tensor([3, 1, 9]), device)
    given, upstream = inputs(layout, width, dtype, device)
    ours = run(given, upstream, layout, 0.2, 0.3)
    assert {x.dtype for x in ours} == {dtype}
    error, errors = worst(ours, expect(given, upstream, kept_factor(SEED, layout, width, 0.2, 0.3)))
    assert error < TOLERANCE[dtype], errors
    assert worst(ours, expect(given, upstream, kept_factor((1, 2), layout, width, 0.2, 0.3)))[0] > 10 * TOLERANCE[dtype]


def test_more_rows_than_the_programs_hold_at_a_time(device, monkeypatch):
    """Each of three programs goes through several tiles, the last of them not full, and the sums over rows hold all."""
    monkeypatch.setattr(launch, "PROGRAMS", 3)
    layout = Layout(torch.tensor([60, 73]), device)
    given, upstream = inputs(layout, 64, torch.float32, device)
    error, errors = worst(run(given, upstream, layout, 0.3, 0.4), expect(given, upstream, kept_factor(SEED, layout, 64, 0.3, 0.4)))
    assert error < TOLERANCE[torch.float32], errors


def test_a_sum_that_is_x_alone_and_a_norm_alone(device):
    """As the first block's and the last norm are: no branch; no layer; only one of the two gradients."""
    layout = Layout(torch.tensor([3, 5]), device)
    given, (d_normed, d_out) = inputs(layout, 48, torch.float32, device)
    x, _, _, gain, shift, weight, bias = given
    leaves = [x, gain, shift, weight, bias]
    exact = [y.detach().double().requires_grad_() for y in leaves]
    zero = torch.zeros((), dtype=torch.float64, device=device)
    theirs = exact_norm_linear(exact[0], zero, zero, *exact[1:], factor_Td=zero)
    for used in ((0,), (1,), (0, 1)):
        ours = autograd.residual_norm_linear(x, None, None, gain, shift, weight, bias, layout.token_molecule, eps=1e-5)
        d_ours, d_theirs = (
            torch.autograd.grad(
                [found[i] for i in used], of, [(d_normed, d_out)[i].to(of[0].dtype) for i in used], allow_unused=True, retain_graph=True
            )
            for found, of in ((ours, leaves), (theirs, exact))
        )
        for a, b in zip(d_ours, d_theirs, strict=True):
            assert (a is None) == (b is None)
            if b is not None:
                assert (a.double() - b).abs().max() < 5e-6 * b.abs().max()
    alone, nothing = autograd.residual_norm_linear(x, None, None, gain, shift, None, None, layout.token_molecule, eps=1e-5)
    assert nothing is None
    assert torch.equal(alone, ours[0])
    gradients = torch.autograd.grad(alone, leaves[:3], d_normed)
    expected = torch.autograd.grad(theirs[0], exact[:3], d_normed.double())
    assert all((a.double() - b).abs().max() < 5e-6 * b.abs().max() for a, b in zip(gradients, expected, strict=True))


def test_only_what_is_asked_for(device):
    layout = Layout(torch.tensor([3, 5]), device)
    given, upstream = inputs(layout, 48, torch.float32, device)
    whole = run(given, upstream, layout, 0.2, 0.3)[2:]
    for number in range(len(given)):
        some = [x.detach().requires_grad_(i == number) for i, x in enumerate(given)]
        found = autograd.residual_norm_linear(*[*some, layout.token_molecule], eps=1e-5, dropout=0.2, drop_path=0.3, seed=SEED)
        used = [i for i, x in enumerate(found) if x.requires_grad]
        assert torch.equal(torch.autograd.grad([found[i] for i in used], some[number], [upstream[i] for i in used])[0], whole[number])


def test_same_seed_same_bits(device):
    layout = Layout(torch.tensor([15, 1, 20]), device)
    given, upstream = inputs(layout, 64, torch.bfloat16, device)
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found = autograd.residual_norm_linear(*[*given, layout.token_molecule], eps=1e-5, drop_path=0.5)
        results.append([*found, *torch.autograd.grad(found, given, upstream)])
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert not torch.equal(results[0][0], results[2][0])


def test_a_share_is_dropped_and_draws_are_independent():
    """Five standard deviations; rows, columns, the two halves of a hash, seeds, and molecules against values."""
    p, rows, width = 0.3, 400, 300
    kept, other = ((kept_values(seed, rows, width, p) > 0).double() for seed in ((1, 2), (1, 3)))
    bound = 5 * (p * (1 - p) / kept.numel()) ** 0.5
    assert abs(float(kept.mean()) - (1 - p)) < bound
    pairs = [(kept, other), (kept[1:], kept[:-1]), (kept[:, 1:], kept[:, :-1]), (kept[:, 2:], kept[:, :-2]), (kept[:, ::2], kept[:, 1::2])]
    for a, b in pairs:
        assert abs(float((a * b).mean()) - (1 - p) ** 2) < 2 * 5 * (0.25 / a.numel()) ** 0.5
    whole = (kept_rows((1, 2), 20_000, p) > 0).double()
    assert abs(float(whole.mean()) - (1 - p)) < 5 * (p * (1 - p) / len(whole)) ** 0.5
    first = (kept_values((1, 2), 20_000, 2, p) > 0).double()
    assert float((whole * first).mean(0).sub((1 - p) ** 2).abs().max()) < 5 * (0.25 / len(whole)) ** 0.5
    assert kept_values((1, 2), rows, width, 0.0).eq(1).all()
    assert abs(float(kept_values((1, 2), rows, width, p).mean()) - 1) < bound / (1 - p), "what is kept is raised, so that means stay"


def test_sums_of_programs_in_their_types(device):
    partial = torch.randn(3, 300, 50, generator=torch.Generator().manual_seed(0)).to(device)
    found = add_up(partial, [torch.float32, torch.bfloat16, torch.float32])
    assert [x.dtype for x in found] == [torch.float32, torch.bfloat16, torch.float32]
    # Triton's interpreter cuts bits off where a GPU rounds.
    for ours, theirs, rtol in zip(found, partial.double().sum(1), (1e-6, 8e-3, 1e-6), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=rtol, atol=1e-4)


def test_the_model_s_functions_take_kernels_and_plain_torch(device, monkeypatch):
    """Without dropout both are the same; with kernels the bias is added to the branch, which comes without."""
    layout = Layout(torch.tensor([3, 5]), device)
    given, _ = inputs(layout, 64, torch.float32, device)
    x, branch, _, _, _, weight, bias = (y.detach() for y in given)
    norm, last = nn.LayerNorm(64).to(device), nn.Linear(7, 64).to(device)
    results = []
    for implementation in ("triton", "reference"):
        monkeypatch.setenv(dispatch.VARIABLE, implementation)
        assert residual_norm.adds_biases(x) == (implementation == "triton")
        pending = Branch(branch, last, 0.0, 0.0)
        found = residual_norm.residual_norm_linear(x, pending, norm, Product(weight, bias), layout)
        results.append([*found, residual_norm.residual_norm(x, pending, norm, layout), residual_norm.residual_sum(x, pending, layout)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert torch.equal(results[0][0], results[0][2])


def encoded(given, layout, **options):
    """What an encoder of two blocks makes of the same inputs with the same weights, and all gradients."""
    torch.manual_seed(0)
    made = encoder.Encoder(ModelConfig(layers=2, embed_dim=16, ffn_dim=24, attention_heads=2, **options)).to(layout.device)
    torch.manual_seed(1)
    x, bias, graph, upstream = given
    out = made(x, prepare_bias(bias, graph, layout, 8), layout)
    return [out.detach(), *torch.autograd.grad(out, [x, bias, graph, *made.parameters()], upstream)]


def test_the_encoder_by_kernels_by_plain_torch_and_recomputed(device, monkeypatch):
    layout = Layout(torch.tensor([3, 1, 5]), device)
    random = torch.Generator().manual_seed(2)
    sizes = ((layout.num_tokens, 16), (layout.num_pairs, 2), (2,))
    given = [torch.randn(size, generator=random).to(device).requires_grad_() for size in sizes]
    given.append(torch.randn(sizes[0], generator=random).to(device))
    rates = {"dropout": 0.2, "attention_dropout": 0.2, "activation_dropout": 0.2, "drop_path": 0.5}
    still = dict.fromkeys(rates, 0.0)
    monkeypatch.setenv(dispatch.VARIABLE, "reference")
    plain = encoded(given, layout, **still)
    monkeypatch.setenv(dispatch.VARIABLE, "triton")
    for ours, theirs in zip(encoded(given, layout, **still), plain, strict=True):
        assert (ours - theirs).abs().max() <= 2e-5 * theirs.abs().max().clamp(min=0.1)  # keys' biases have no gradient
    kept = encoded(given, layout, **rates, checkpoint_layers=1)
    assert (kept[0] - plain[0]).abs().max() > 0.1, "dropout matters"
    monkeypatch.setattr(encoder, "checkpoint", lambda function, *given, **_: function(*given))
    for ours, theirs in zip(encoded(given, layout, **rates, checkpoint_layers=1), kept, strict=True):
        assert torch.equal(ours, theirs), "the repetition drops what the first pass dropped"


@pytest.mark.parametrize("rates", [(0.0, 0.0), (0.2, 0.3)], ids=str)
@pytest.mark.parametrize("whole", [True, False])
def test_opcheck(whole, rates, device):
    layout = Layout(torch.tensor([3]), device)
    given, (d_normed, _) = inputs(layout, 16, torch.float32, device)
    x, branch, branch_bias, gain, shift, *_ = (y.detach() for y in given)
    if not whole:
        branch = branch_bias = None
    molecule = layout.token_molecule
    torch.library.opcheck(torch.ops.moleblend.residual_norm_forward, (x, branch, branch_bias, gain, shift, molecule, 1e-5, *rates, 7, -8))
    _, _, mean, rstd = launch.forward(x, branch, branch_bias, gain, shift, molecule, 1e-5, *rates, 7, -8)
    more = d_normed if whole else None
    arguments = (d_normed, more, x, mean, rstd, gain, shift, branch_bias, molecule, whole, *rates, 7, -8)
    torch.library.opcheck(torch.ops.moleblend.residual_norm_backward, arguments)


def test_self_test_fails_on_other_numbers(device, monkeypatch):
    selftest.self_test(device, shape=(64,))
    monkeypatch.setattr(selftest, "kept_factor", lambda *x: 1.001 * kept_factor(*x))
    with pytest.raises(dispatch.OtherNumbers, match="d branch"):
        selftest.self_test(device, shape=(64,))
