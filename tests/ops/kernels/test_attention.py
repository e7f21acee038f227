"""The attention kernels against plain float64 attention, one molecule at a time."""

from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from moleblend_fs.ops.layout import Layout

pytest.importorskip("triton")
from moleblend_fs.ops.attention import launch, selftest
from moleblend_fs.ops.attention.kernel_parts import draw_seed, dropout_keep, dropout_scale, dropout_threshold

SIZES = {
    "one atom": [1],
    "two atoms": [2],
    "15, 16, 17": [15, 16, 17],
    "33": [33],
    "51": [51, 1],
    "123": [123],
    "300": [300],
    "mixed": [16, 1, 40, 2, 70, 63, 64],
}
# Largest error as a share of the largest value: products in float32, or rounding of inputs, weights and results to the half type.
TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 2.5e-2, torch.float16: 3e-3}
NAMES = ("output", "d qkv", "d bias", "d graph bias")


def inputs(layout: Layout, heads: int, width: int, dtype=torch.float32, device="cpu"):
    """qkv, bias, graph bias (both float32), upstream gradient."""
    random = torch.Generator().manual_seed(layout.num_tokens)
    shapes = ((layout.num_tokens, 3, heads, width), (layout.num_pairs, heads), (heads,), (layout.num_tokens, heads * width))
    qkv, bias, graph, upstream = (torch.randn(shape, generator=random).to(device) for shape in shapes)
    return qkv.to(dtype).requires_grad_(), (2 * bias).requires_grad_(), (2 * graph).requires_grad_(), upstream.to(dtype)


def run(given, layout, dropout=0.0):
    """Output and gradients of the launch."""
    qkv, bias, graph, upstream = given
    out = launch.attention(qkv, launch.prepare_bias(bias, graph, layout), layout, dropout)
    return [out.detach(), *torch.autograd.grad(out, (qkv, bias, graph), upstream)]


def expect(given, layout, keep=None, dropout=0.0):
    """The same in float64 from the same (rounded) inputs."""
    *leaves, upstream = (x.detach().double() for x in given)
    leaves = [x.requires_grad_() for x in leaves]
    out = selftest.dense_attention(*leaves, layout, keep, dropout)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]


def errors(ours, theirs):
    """Of the largest value; the graph bias's gradient is a sum that may cancel, so its summands' size counts too."""
    scales = [float(x.abs().max()) for x in theirs]
    scales[3] = max(scales[2:])
    return {name: float((a.double() - b).abs().max()) / scale for name, a, b, scale in zip(NAMES, ours, theirs, scales, strict=True)}


def check(ours, theirs, dtype):
    worst = errors(ours, theirs)
    assert max(worst.values()) < TOLERANCE[dtype], worst


@pytest.mark.parametrize("width", [8, 24, 64])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_float32(sizes, width, device):
    layout = Layout(torch.tensor(sizes), device)
    heads = 5 if len(sizes) == 3 else 1 if max(sizes) > 100 else 2  # five is one more than a program takes
    given = inputs(layout, heads, width, device=device)
    ours, theirs = run(given, layout), expect(given, layout)
    check(ours, theirs, torch.float32)
    # Without the bias, or with the graph token's left out, the results are others by far.
    for spoiled in ((given[0], given[1] * 0, *given[2:]), (*given[:2], given[2] * 0, given[3])):
        assert max(errors(expect(spoiled, layout), theirs).values()) > 100 * TOLERANCE[torch.float32] or max(sizes) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [8, 24, 64, 128])
def test_half_precision(dtype, width, device):
    layout = Layout(torch.tensor([16, 1, 40, 70, 15]), device)
    given = inputs(layout, 2, width, dtype, device)
    ours, theirs = run(given, layout), expect(given, layout)
    assert [x.dtype for x in ours] == [dtype, dtype, torch.float32, torch.float32]
    check(ours, theirs, dtype)
    assert max(errors(expect((given[0], given[1] * 0, *given[2:]), layout), theirs).values()) > 10 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("sizes", "heads"), [([1, 9, 15], 3), ([20, 30], 3), ([51], 2), ([70, 3], 2)], ids=str)
def test_dropout_keeps_what_the_plain_hash_keeps(sizes, heads, dtype, device):
    layout, p = Layout(torch.tensor(sizes), device), 0.3
    given = inputs(layout, heads, 24, dtype, device)
    torch.manual_seed(5)
    ours = run(given, layout, p)
    torch.manual_seed(5)
    low, high = draw_seed()
    keep = dropout_keep((low, high), layout, heads, p)
    check(ours, expect(given, layout, keep, p), dtype)
    if dtype == torch.float32:  # one other weight in every row would be seen
        keep[0] = keep[0] ^ (torch.arange(keep[0].shape[2], device=device) == 0)
    else:
        keep = dropout_keep((low, high + 1), layout, heads, p)
    assert max(errors(ours, expect(given, layout, keep, p)).values()) > 10 * TOLERANCE[dtype]


def test_dropped_weights_are_a_share_and_independent():
    """Over heads, rows and columns, and between two seeds; 4 standard deviations of a binomial."""
    layout, heads, p = Layout(torch.tensor([63] * 20), "cpu"), 4, 0.3
    kept = torch.stack(dropout_keep((1, 2), layout, heads, p)).double()
    other = torch.stack(dropout_keep((1, 3), layout, heads, p)).double()
    bound = 4 * (p * (1 - p) / kept.numel()) ** 0.5
    assert abs(float(kept.mean()) - (1 - p)) < bound
    pairs = [(kept, other), (kept[1:], kept[:-1]), (kept[:, 1:], kept[:, :-1]), (kept[:, :, 1:], kept[:, :, :-1])]
    pairs += [(kept[:, :, 8:], kept[:, :, :-8])]  # rows that share a hash
    pairs += [(kept[..., 1:], kept[..., :-1]), (kept, kept.transpose(2, 3))]
    for a, b in pairs:
        both = float((a * b).mean())
        assert abs(both - (1 - p) ** 2) < 8 * (0.25 / a.numel()) ** 0.5
    for dim in ((0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3)):  # no column, row, head or molecule is dropped more than others
        means = kept.mean(dim)
        assert float((means - (1 - p)).abs().max()) < 5 * (p * (1 - p) * means.numel() / kept.numel()) ** 0.5
    assert all(bool(k.all()) for k in dropout_keep((1, 2), layout, heads, 0.0))


@pytest.mark.parametrize("p", [0.0, 1e-6, 0.1, 0.3, 0.999999])
def test_what_is_kept_is_scaled_by_the_share_that_is_dropped(p):
    """Which is p to 16 bits."""
    share = dropout_threshold(p) / 2**16
    assert abs(share - p) <= 2**-16
    assert share < 1
    assert dropout_scale(p) * (1 - share) == pytest.approx(1, abs=1e-12)


def test_same_seed_same_bits(device):
    layout = Layout(torch.tensor([15, 1, 40, 70]), device)
    given = inputs(layout, 1, 24, device=device)
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        results.append(run(given, layout, 0.1))
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(results[0], results[2], strict=True))


def layers(given, layout, apply, count=3, dropout=0.0):
    """Several attention layers on top of each other that read one bias."""
    qkv, bias, graph, _ = given
    packed = launch.prepare_bias(bias, graph, layout)

    def layer(x):
        return launch.attention(x, packed, layout, dropout).view(x.shape[0], 1, *x.shape[2:]) * 0.5 + x

    for number in range(count):
        qkv = apply(number, layer, qkv)
    return qkv[:, 0].flatten(1)


def dense_layers(given, layout, count=3):
    qkv, bias, graph, _ = given
    for _ in range(count):
        qkv = selftest.dense_attention(qkv, bias, graph, layout).view(qkv.shape[0], 1, *qkv.shape[2:]) * 0.5 + qkv
    return qkv[:, 0].flatten(1)


def plain(number, layer, x):
    return layer(x)


def recomputed(number, layer, x):
    return checkpoint(layer, x, use_reentrant=False)


def recomputed_partly(number, layer, x):
    return x if number == 1 else recomputed(number, layer, x) if number == 0 else layer(x)


@pytest.fixture
def small(device):
    layout = Layout(torch.tensor([3, 20, 1]), device)
    return inputs(layout, 2, 8, device=device), layout


@pytest.mark.parametrize(("apply", "count"), [(plain, 3), (recomputed, 3), (recomputed_partly, 2)], ids=["plain", "recomputed", "skipping"])
def test_bias_gradient_is_the_sum_over_layers(apply, count, small):
    given, layout = small
    out = layers(given, layout, apply)
    expected = dense_layers(given, layout, count)
    ours = [out.detach(), *torch.autograd.grad(out, given[:3], given[3])]
    theirs = [expected.detach(), *torch.autograd.grad(expected, given[:3], given[3])]
    check(ours, [x.double() for x in theirs], torch.float32)
    one = torch.autograd.grad(dense_layers(given, layout, 1), given[:3], given[3])
    assert max(errors([expected.detach(), *one], theirs).values()) > 100 * TOLERANCE[torch.float32], "a layer more or less would be seen"


def test_recomputation_drops_the_same_weights(small):
    given, layout = small
    gradients = []
    for apply in (plain, recomputed):
        torch.manual_seed(11)
        gradients.append(torch.autograd.grad(layers(given, layout, apply, dropout=0.3), given[:3], given[3]))
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


def test_gradients_accumulate_over_passes(small):
    """Two forward passes before their backward passes, in either order and in one; all add up in the leaves."""
    given, layout = small
    leaves, upstream = given[:3], given[3]
    single = torch.autograd.grad(layers(given, layout, plain), leaves, upstream)
    for order in ((0, 1), (1, 0), None):
        outs = [layers(given, layout, apply) for apply in (plain, recomputed)]
        for leaf in leaves:
            leaf.grad = None
        if order is None:
            torch.autograd.backward(outs, [upstream, upstream])
        else:
            for number in order:
                outs[number].backward(upstream)
        for leaf, once in zip(leaves, single, strict=True):
            torch.testing.assert_close(leaf.grad, 2 * once, rtol=1e-6, atol=1e-6 * float(once.abs().max()))


def test_partial_and_repeated_backward_passes(small):
    """A backward pass that does not ask for the bias leaves nothing behind; one that is repeated gives the same again."""
    given, layout = small
    leaves, upstream = given[:3], given[3]
    expected = torch.autograd.grad(layers(given, layout, plain), leaves, upstream)
    out = layers(given, layout, plain)
    first = torch.autograd.grad(out, leaves[0], upstream, retain_graph=True)
    again = [torch.autograd.grad(out, leaves, upstream, retain_graph=True) for _ in range(2)]
    only_bias = torch.autograd.grad(out, leaves[1:], upstream)
    assert torch.equal(first[0], expected[0])
    for gradients in (*again, (first[0], *only_bias)):
        assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 2)], ids=str)
def test_only_what_is_asked_for(needed, small):
    given, layout = small
    expected = run(given, layout)[1:]
    leaves = [x.detach().requires_grad_(i in needed) for i, x in enumerate(given[:3])]
    out = launch.attention(leaves[0], launch.prepare_bias(leaves[1], leaves[2], layout), layout, 0.0)
    for i, gradient in zip(needed, torch.autograd.grad(out, [leaves[i] for i in needed], given[3]), strict=True):
        assert torch.equal(gradient, expected[i])


def test_bias_of_the_relation_kernel_is_read_where_it_is(small):
    (qkv, bias, graph, upstream), layout = small
    bias_HP = bias.detach().t().contiguous()
    packed = launch.prepare_bias(bias_HP.t(), graph, layout)
    assert packed.bias_HP.data_ptr() == bias_HP.data_ptr()
    with torch.no_grad():
        out = launch.attention(qkv, packed, layout, 0.0)
    assert torch.equal(out, run((qkv, bias, graph, upstream), layout)[0])


@pytest.mark.parametrize("bias_mode", [0, 1, 2])
def test_opcheck(bias_mode, small):
    (qkv, bias, graph, upstream), layout = small
    qkv, bias, graph = qkv.detach(), bias.detach().t().contiguous(), graph.detach()
    molecules, capacities = [c.molecules for c in layout.size_classes], [c.capacity for c in layout.size_classes]
    given = (layout.cu_tokens, layout.cu_pairs, molecules, capacities, 0.1, 7, -8)
    torch.library.opcheck(torch.ops.moleblend.attention_forward, (qkv, bias, graph, *given))
    out, logsumexp = launch.attention_forward(qkv, bias, graph, *given)
    buffers = (torch.zeros_like(bias), bias.new_zeros(2, layout.num_molecules))
    torch.library.opcheck(torch.ops.moleblend.attention_backward, (upstream, out, qkv, logsumexp, bias, graph, *buffers, *given, bias_mode))


def test_self_test_fails_on_other_numbers(device, monkeypatch):
    selftest.self_test(device)
    monkeypatch.setattr(selftest, "dense_attention", lambda *x: 1.001 * partial(dense)(*x))
    with pytest.raises(RuntimeError, match="d graph bias"):
        selftest.self_test(device)


dense = selftest.dense_attention


def test_gradcheck_of_the_dense_reference():
    layout = Layout(torch.tensor([3, 1, 4]), "cpu")
    keep = dropout_keep((1, 2), layout, 2, 0.4)
    given = [x.detach().double().requires_grad_() for x in inputs(layout, 2, 3)[:3]]
    assert torch.autograd.gradcheck(lambda *x: selftest.dense_attention(*x, layout, keep, 0.4), given)


def test_launches_are_on_the_gpu_of_the_tensors(device, monkeypatch):
    """Triton launches on the current GPU, which may be another one: every op makes that of its tensors current."""
    asked = []

    class Guard(torch.cuda.device_of):
        def __init__(self, tensor):
            asked.append(tensor.data_ptr())
            super().__init__(tensor)

    monkeypatch.setattr(torch.cuda, "device_of", Guard)
    layout = Layout(torch.tensor([3, 5]), device)
    qkv, bias, graph, _ = inputs(layout, 2, 16, device=device)
    out = launch.attention(qkv, launch.prepare_bias(bias, graph, layout), layout, 0.0)
    assert asked == [qkv.data_ptr()]
    out.sum().backward()
    assert len(asked) == 2
