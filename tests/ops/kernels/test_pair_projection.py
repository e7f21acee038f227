"""The pair losses' kernels against plain torch in float64: outer products that are really built, logits that are really stored."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from moleblend_fs.data.graph import MAX_HOPS
from moleblend_fs.model.config import PRESETS
from moleblend_fs.model.target_classes import EDGE_CLASSES, SPD_CLASSES
from moleblend_fs.ops.layout import Layout

pytest.importorskip("triton", reason="triton is not installed")

from moleblend_fs.ops.pair_projection import autograd, selftest
from moleblend_fs.ops.pair_projection import launch as ops
from moleblend_fs.ops.pair_projection import variants as shipped

# Largest error as a share of the largest value. float32: sums of some 10^4 terms. Half precision: U, dz and dU are rounded to
# 8 or 11 bits before they are multiplied, as they would be if they were stored; TF32 may cut them off instead, after 11 bits.
TOLERANCES = [(torch.float32, 2e-5), (torch.bfloat16, 2e-2), (torch.float16, 1e-2)]
NAMES = ("loss", "d_left", "d_right", "d_weight", "d_bias")
MIXTURE = [2, 17, 1, 33, 16, 15]
UPSTREAM = 0.37


class Case:
    """Inputs of one loss and what is expected of them."""

    def __init__(self, loss, sizes, width, device, dtype=torch.float32, hops=1, classes=4, scale=0.5):
        generator = torch.Generator().manual_seed(len(sizes) * 1000 + sum(sizes))

        def draw(*shape):
            return torch.randn(*shape, generator=generator)

        pairs = sum(n * n for n in sizes)
        outputs = {"cross_entropy": hops * classes, "cosine": 3, "smooth_l1": 1}[loss]
        self.loss, self.sizes, self.hops, self.layout = loss, sizes, hops, Layout(torch.tensor(sizes), device)
        shapes = [(sum(sizes), width), (sum(sizes), width), (outputs, width, width), (outputs,)]
        # Width^2 terms of size scale each: z is about 3 in size, so that both branches of Smooth-L1 and all classes are met.
        scales = [1.0, 1.0, 3 * scale / width, scale]
        self.inputs = [(draw(*shape) * s).to(device, dtype) for shape, s in zip(shapes, scales, strict=True)]
        if loss == "cross_entropy":
            self.targets = [torch.randint(-2, classes, (pairs, hops), generator=generator).to(torch.int8).to(device)]
        else:
            weight = torch.rand(pairs, generator=generator) * (torch.rand(pairs, generator=generator) > 0.3)
            self.targets = [(draw(pairs, 3) if loss == "cosine" else draw(pairs)).to(device), weight.to(device)]
        self.upstream = torch.tensor(UPSTREAM, device=device)

    def ours(self):
        """Loss and gradients."""
        inputs = [x.clone().requires_grad_() for x in self.inputs]
        total = getattr(autograd, f"pair_{self.loss}")(*inputs, *self.targets, self.layout)
        return [total.detach(), *torch.autograd.grad(total, inputs, self.upstream)]

    def expected(self):
        inputs = [x.double().requires_grad_() for x in self.inputs]
        total = built_loss(self, *inputs)
        return [total.detach(), *torch.autograd.grad(total, inputs, self.upstream.double())]


def built_loss(case, left, right, weight, bias):
    """The loss from outer products l_i r_j^T, one molecule after the other."""
    parts = []
    for l, r in zip(left.split(case.sizes), right.split(case.sizes), strict=True):
        outer = torch.einsum("ia,jb->ijab", l, r).flatten(0, 1).flatten(1)
        parts.append(outer @ weight.flatten(1).T + bias)
    z = torch.cat(parts)
    if case.loss == "cross_entropy":
        target = case.targets[0].reshape(-1).long().clamp(min=-1)
        return F.cross_entropy(z.reshape(len(target), -1), target, ignore_index=-1, reduction="sum")
    target, share = (t.double() for t in case.targets)
    if case.loss == "cosine":
        return ((1 - F.cosine_similarity(z, target, dim=1)) * share).sum()
    return (F.smooth_l1_loss(z.squeeze(1), target, reduction="none") * share).sum()


def errors(got, expected):
    """Largest errors as shares of the largest values, of the loss and of each gradient. A gradient that is 0 must be 0."""
    result = {}
    for name, a, b in zip(NAMES, got, expected, strict=True):
        largest = float(b.abs().max())
        result[name] = float((a.double() - b).abs().max()) / (largest if largest else 1.0)
    return result


LOSSES = ("cross_entropy", "cosine", "smooth_l1")


@pytest.mark.parametrize("sizes", [[1], [1, 1], [2], [15], [16], [17], [33, 51], MIXTURE, [1] * 20 + [3] * 5], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradients(loss, sizes, device):
    case = Case(loss, sizes, 32, device, hops=2, classes=3)
    assert max(errors(case.ours(), case.expected()).values()) < 2e-5


@pytest.mark.parametrize(("loss", "sizes"), [("cosine", [123]), ("smooth_l1", [300, 4]), ("cross_entropy", [123, 7])], ids=str)
def test_large_molecules(loss, sizes, device):
    case = Case(loss, sizes, 16, device, classes=2)
    assert max(errors(case.ours(), case.expected()).values()) < 2e-5


@pytest.mark.slow
def test_the_largest_molecule(device):
    case = Case("smooth_l1", [511], 16, device)
    assert max(errors(case.ours(), case.expected()).values()) < 2e-5


@pytest.mark.parametrize(("hops", "classes"), [(1, 11), (5, 24)])
def test_shipped_heads(hops, classes, device):
    case = Case("cross_entropy", [9, 17], 32, device, hops=hops, classes=classes)
    assert max(errors(case.ours(), case.expected()).values()) < 2e-5


@pytest.mark.parametrize("width", [1, 5, 16, 24, 33, 64])
@pytest.mark.parametrize("loss", LOSSES)
def test_widths(loss, width, device):
    case = Case(loss, [3, 18, 7], width, device)
    assert max(errors(case.ours(), case.expected()).values()) < 2e-5


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES[1:], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision(loss, dtype, tolerance, device):
    case = Case(loss, MIXTURE, 32, device, dtype=dtype, hops=2, classes=3)
    got = case.ours()
    assert got[0].dtype == torch.float32
    assert [x.dtype for x in got[1:]] == [dtype] * 4
    assert max(errors(got, case.expected()).values()) < tolerance


def test_small_weights_are_not_lost_in_float16(device):
    """The weight of a pair is 1 / n^2; its gradients are below what float16 can hold (6e-8) before a loss scale makes up for it."""
    case = Case("cosine", MIXTURE, 32, device, dtype=torch.float16)
    expected = case.expected()
    case.targets[1] = case.targets[1] * 1e-7
    case.upstream = case.upstream * 1e7
    assert max(errors([case.ours()[0] * 1e7, *case.ours()[1:]], expected).values()) < TOLERANCES[2][1]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("_", "tolerance"), TOLERANCES, ids=str)
def test_wrong_answers_fall_outside(loss, _, tolerance, device):
    """What likely mistakes would give is at least 10 times further off than the tolerance."""
    case = Case(loss, MIXTURE, 32, device, hops=2, classes=3)
    expected = case.expected()
    left, right, weight, bias = case.inputs
    mistakes = {
        "sides swapped": [right, left, weight, bias],
        "form transposed": [left, right, weight.mT, bias],
        "no bias": [left, right, weight, bias * 0],
        "next atom": [left, right.roll(1, 0), weight, bias],
    }
    for inputs in mistakes.values():
        case.inputs = inputs
        assert max(errors(case.expected(), expected).values()) > 10 * tolerance


def test_zero_predictions_and_targets(device):
    """cos is 0 and has torch's gradient where a prediction is zero or shorter than torch's least norm; 0 where the target is zero."""
    case = Case("cosine", [5], 8, device)
    case.inputs[2].zero_()
    case.targets[0][:4] = 0.0
    for bias in (0.0, 3e-9, 1e-3):
        case.inputs[3].fill_(bias)
        got, expected = case.ours(), case.expected()
        assert max(errors(got, expected).values()) < 2e-5
        assert all(torch.isfinite(x).all() for x in got)
        assert float(expected[4].abs().max()) > 1


def test_no_counted_pairs(device):
    for loss in LOSSES:
        case = Case(loss, [3, 17], 16, device)
        case.targets[-1].fill_(-1 if loss == "cross_entropy" else 0)
        assert all(float(x.abs().max()) == 0 for x in case.ours())


@pytest.mark.parametrize("loss", LOSSES)
def test_same_bits_each_run(loss, device):
    first, second = (Case(loss, MIXTURE, 32, device).ours() for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("loss", LOSSES)
def test_without_gradients(loss, device):
    """The loss is the same number where no gradient is wanted, and nothing is kept for one."""
    case = Case(loss, MIXTURE, 16, device)
    function = getattr(autograd, f"pair_{loss}")
    total = function(*case.inputs, *case.targets, case.layout)
    assert not total.requires_grad
    with torch.no_grad():
        inputs = [x.clone().requires_grad_() for x in case.inputs]
        also = function(*inputs, *case.targets, case.layout)
    assert not also.requires_grad
    with_gradient = function(*inputs, *case.targets, case.layout)
    assert torch.equal(total, also)
    assert torch.equal(total, with_gradient.detach())
    assert with_gradient.grad_fn is not None


def test_under_activation_checkpointing_and_twice(device):
    case = Case("cross_entropy", [5, 18], 16, device)
    plain = case.ours()
    for _ in range(2):
        inputs = [x.clone().requires_grad_() for x in case.inputs]
        total = checkpoint(autograd.pair_cross_entropy, *inputs, *case.targets, case.layout, use_reentrant=False)
        got = [total.detach(), *torch.autograd.grad(total, inputs, case.upstream)]
        assert all(torch.equal(a, b) for a, b in zip(got, plain, strict=True))


@pytest.mark.slow
def test_under_torch_compile(device):
    """One graph, the same bits."""
    case = Case("cross_entropy", [5, 18], 16, device)
    plain = case.ours()
    inputs = [x.clone().requires_grad_() for x in case.inputs]
    compiled = torch.compile(lambda *x: autograd.pair_cross_entropy(*x, *case.targets, case.layout), backend="aot_eager", fullgraph=True)
    total = compiled(*inputs)
    got = [total.detach(), *torch.autograd.grad(total, inputs, case.upstream)]
    assert all(torch.equal(a, b) for a, b in zip(got, plain, strict=True))


def test_views_and_mixed_types(device):
    """Sides that are slices, a transposed form, and a form in float32 beside half-precision sides."""
    case = Case("cross_entropy", [5, 18], 16, device)
    expected = case.expected()
    both = torch.cat([case.inputs[0], case.inputs[1]], dim=1)
    case.inputs = [both[:, :16], both[:, 16:], case.inputs[2].mT.contiguous().mT, case.inputs[3]]
    assert max(errors(case.ours(), expected).values()) < 2e-5
    case.inputs = [case.inputs[0].half(), case.inputs[1].half(), *case.inputs[2:]]
    got = case.ours()
    assert [x.dtype for x in got[1:]] == [torch.float16] * 2 + [torch.float32] * 2
    assert max(errors(got, expected).values()) < TOLERANCES[2][1]


@pytest.mark.parametrize("with_grad", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_opcheck(loss, with_grad, device):
    case = Case(loss, [3, 18], 16, device, hops=2, classes=3)
    op = torch.ops.moleblend.pair_cross_entropy if loss == "cross_entropy" else torch.ops.moleblend.pair_geometry
    torch.library.opcheck(op, (*case.inputs, *case.targets, *ops.plan_of(case.layout), with_grad))


def test_plan_covers_every_pair_once(device):
    sizes = [1, 16, 17, 511, 40]
    layout = Layout(torch.tensor(sizes), device)
    plan = ops.plan_of(layout)
    assert plan is ops.plan_of(layout)
    seen = torch.zeros(layout.num_pairs, dtype=torch.int64)
    step = torch.arange(16)
    for _, size, row, column, pair in plan.tiles.cpu().tolist():
        rows, columns = (row + step)[row + step < size], (column + step)[column + step < size]
        seen[(pair + rows[:, None] * size + columns).reshape(-1)] += 1
    assert torch.equal(seen, torch.ones_like(seen))
    assert int(plan.strips[:, 1].clamp(max=16).sum()) == layout.num_total_atoms


def test_what_the_kernels_cannot_do_is_said(device):
    with pytest.raises(ValueError, match="widths up to 64"):
        Case("cosine", [3], 65, device).ours()
    with pytest.raises(ValueError, match="float64"):
        Case("cosine", [3], 16, device, dtype=torch.float64).ours()


def test_self_test_passes_and_finds_mistakes(device, monkeypatch):
    selftest.self_test(device)
    monkeypatch.setattr(selftest, "pair_cosine", lambda left, right, *rest: autograd._loss_sum(ops.geometry_op, right, left, *split(rest)))
    with pytest.raises(RuntimeError, match="off by more than"):
        selftest.self_test(device)


def split(rest):
    weight, bias, target, share, layout = rest
    return weight, bias, layout, [target, share]


def test_variants_are_those_of_the_shipped_models():
    assert {preset["pair_dim"] for preset in PRESETS.values()} == set(shipped.SHIPPED_WIDTHS)
    assert shipped.SHIPPED_CLASSES == {"spd": (1, SPD_CLASSES), "edge": (MAX_HOPS, EDGE_CLASSES)}
