"""The kernels of the noise head's attention against plain float64, one molecule at a time."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from moleblend_fs.ops.atom_forces import atom_forces
from moleblend_fs.ops.layout import Layout

pytest.importorskip("triton", reason="triton is not installed")
from moleblend_fs.ops.atom_forces import launch, selftest
from moleblend_fs.ops.atom_forces.reference import directions
from moleblend_fs.ops.attention.kernel_parts import draw_seed, dropout_keep

SIZES = {
    "one atom": [1],
    "two atoms": [2],
    "15, 16, 17": [15, 16, 17],
    "33": [33],
    "51": [51, 1],
    "123": [123],
    "mixed": [16, 1, 40, 2, 70],
}
# Largest error as a share of the largest value: products in float32, or rounding of inputs and results to the half type.
TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}
NAMES = ("forces", "d q", "d k", "d value", "d bias")


def inputs(layout: Layout, heads: int, width: int, dtype=torch.float32):
    """q, k, value, bias, coordinates, upstream gradient."""
    random = torch.Generator().manual_seed(layout.num_tokens)
    A, P = layout.num_total_atoms, layout.num_pairs
    shapes = ((A, heads, width), (A, heads, width), (A, heads, 3), (P, heads), (A, 3), (A, 3))
    q, k, value, bias, coordinates, upstream = (torch.randn(shape, generator=random).to(layout.device) for shape in shapes)
    q, k, value = (x.to(dtype).requires_grad_() for x in (q * width**-0.5, k, value))
    return q, k, value, (2 * bias).requires_grad_(), coordinates, upstream


def run(given, layout, dropout=0.0, function=launch.atom_forces):
    """Forces and gradients."""
    *leaves, coordinates, upstream = given
    out = function(*leaves, coordinates, layout, dropout)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]


def expect(given, layout, keep=None, dropout=0.0):
    """The same in float64 from the same (rounded) inputs."""
    exact = [x.detach().double() for x in given]
    exact[:4] = [x.requires_grad_() for x in exact[:4]]
    return run(exact, layout, dropout, lambda *x: selftest.dense_forces(*x[:4], directions(x[4], layout), layout, keep, dropout))


def errors(ours, theirs):
    """Of the largest value; a gradient that vanishes (that of one atom's logits) is measured by the forces', 0 (one atom's) as it is."""
    scales = [max(float(x.abs().max()), float(theirs[0].abs().max())) or 1.0 for x in theirs]
    return {name: float((a.double() - b).abs().max()) / scale for name, a, b, scale in zip(NAMES, ours, theirs, scales, strict=True)}


def check(ours, theirs, dtype):
    worst = errors(ours, theirs)
    assert max(worst.values()) < TOLERANCE[dtype], worst


@pytest.mark.parametrize("width", [8, 24, 64])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_float32(sizes, width, device):
    layout = Layout(torch.tensor(sizes), device)
    given = inputs(layout, 1 if max(sizes) > 50 else 3, width)
    ours, theirs = run(given, layout), expect(given, layout)
    assert ours[0].dtype == torch.float32
    check(ours, theirs, torch.float32)
    without = expect((*given[:3], given[3] * 0, *given[4:]), layout)
    assert max(sizes) == 1 or max(errors(without, theirs).values()) > 100 * TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, device):
    layout = Layout(torch.tensor([16, 1, 40, 2]), device)
    given = inputs(layout, 2, 24, dtype)
    ours, theirs = run(given, layout), expect(given, layout)
    assert [x.dtype for x in ours] == [torch.float32, dtype, dtype, dtype, torch.float32]
    check(ours, theirs, dtype)
    without = expect((*given[:3], given[3] * 0, *given[4:]), layout)
    assert max(errors(without, theirs).values()) > 10 * TOLERANCE[dtype]


@pytest.mark.parametrize("implementation", ["triton", "reference"])
def test_entry_point(implementation, device, monkeypatch):
    """Both implementations agree, and the one that is asked for runs."""
    calls, original = [], launch.atom_forces
    monkeypatch.setattr(launch, "atom_forces", lambda *given: calls.append(given) or original(*given))
    monkeypatch.setenv("MOLEBLEND_OPS", implementation)
    layout = Layout(torch.tensor([5, 17]), device)
    given = inputs(layout, 2, 8)
    check(run(given, layout, function=atom_forces), expect(given, layout), torch.float32)
    assert len(calls) == (implementation == "triton")


def test_dropout_keeps_what_the_plain_hash_keeps(device):
    layout, heads, p = Layout(torch.tensor([20, 3, 40]), device), 2, 0.3
    given = inputs(layout, heads, 8)
    torch.manual_seed(5)
    ours = run(given, layout, p)
    torch.manual_seed(5)
    keep = dropout_keep(draw_seed(), layout, heads, p)
    check(ours, expect(given, layout, keep, p), torch.float32)
    keep[0] = keep[0] ^ (torch.arange(keep[0].shape[2], device=device) == 1)  # one other weight in every row would be seen
    assert max(errors(ours, expect(given, layout, keep, p)).values()) > 100 * TOLERANCE[torch.float32]


def test_recomputation_and_repetition_give_the_same_bits(device):
    layout = Layout(torch.tensor([20, 3]), device)
    given = inputs(layout, 2, 8)

    def recomputed(*x):
        return checkpoint(launch.atom_forces, *x, use_reentrant=False)

    results = []
    for seed, function in ((3, launch.atom_forces), (3, recomputed), (4, launch.atom_forces)):
        torch.manual_seed(seed)
        results.append(run(given, layout, 0.2, function))
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(results[0], results[2], strict=True))


def test_opcheck(device):
    layout = Layout(torch.tensor([3, 20]), device)
    q, k, value, bias, coordinates, upstream = (x.detach() for x in inputs(layout, 2, 8))
    molecules, capacities = [c.molecules for c in layout.size_classes], [c.capacity for c in layout.size_classes]
    where = (layout.cu_tokens, layout.cu_pairs, molecules, capacities, 0.1, 7, -8)
    given = (q, k, value, bias.t().contiguous())
    of_forward = (*given, coordinates, layout.atom_molecule, *where)
    torch.library.opcheck(torch.ops.moleblend.atom_forces_forward, of_forward)
    force, logsumexp, direction = launch.forward(*of_forward)
    torch.testing.assert_close(direction.t(), directions(coordinates, layout))
    of_backward = (upstream.t().contiguous(), force, logsumexp, *given, direction, *where)
    torch.library.opcheck(torch.ops.moleblend.atom_forces_backward, of_backward)


def test_self_test_fails_on_other_numbers(device, monkeypatch):
    selftest.self_test(device)
    dense = selftest.dense_forces
    monkeypatch.setattr(selftest, "dense_forces", lambda *x: 1.001 * dense(*x))
    with pytest.raises(RuntimeError, match="d value"):
        selftest.self_test(device)


def test_gradcheck_of_the_dense_reference():
    layout = Layout(torch.tensor([3, 1, 4]), "cpu")
    keep = dropout_keep((1, 2), layout, 2, 0.4)
    q, k, value, bias, coordinates, _ = (x.detach().double() for x in inputs(layout, 2, 3))
    leaves = [x.requires_grad_() for x in (q, k, value, bias)]
    assert torch.autograd.gradcheck(lambda *x: selftest.dense_forces(*x, directions(coordinates, layout), layout, keep, 0.4), leaves)
