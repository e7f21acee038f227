"""A molecule with numbers that are not finite does not reach its batch mates: forward and backward, in plain torch and in the kernels."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from moleblend_fs.ops import dispatch
from moleblend_fs.ops.atom_forces import atom_forces
from moleblend_fs.ops.attention import attention, prepare_bias
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.pair_projection import pair_cosine, pair_cross_entropy, pair_smooth_l1

SIZES = (3, 1, 4, 2)
"""Several of them share a bucket, and are padded there."""
HEADS, WIDTH, PAIR = 2, 8, 4


def rows(layout: Layout, kind: str, molecule: int) -> slice:
    starts = {"atoms": layout.atom_starts, "tokens": layout.token_starts, "pairs": layout.pair_starts}[kind]
    return slice(int(starts[molecule]), int(starts[molecule + 1]))


def leaf(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=draw)


def make(name: str, layout: Layout, seed: int = 0) -> tuple[dict[str, tuple[str, Tensor]], Callable[..., Tensor], str]:
    """Inputs with what their rows are, the operation, and what its output's rows are ("" for a sum over all molecules)."""
    draw = torch.Generator().manual_seed(seed)
    atoms, tokens, pairs = layout.num_total_atoms, layout.num_tokens, layout.num_pairs
    if name == "attention":
        inputs = {"qkv": ("tokens", leaf(draw, tokens, 3, HEADS, WIDTH)), "bias": ("pairs", leaf(draw, pairs, HEADS))}
        graph = leaf(draw, HEADS)
        return inputs, lambda qkv, bias: attention(qkv, prepare_bias(bias, graph, layout), layout, 0.0), "tokens"
    if name == "atom_forces":
        sides = {key: ("atoms", leaf(draw, atoms, HEADS, WIDTH)) for key in ("q", "k")}
        inputs = {**sides, "value": ("atoms", leaf(draw, atoms, HEADS, 3)), "bias": ("pairs", leaf(draw, pairs, HEADS))}
        coordinates = leaf(draw, atoms, 3)
        return inputs, lambda q, k, value, bias: atom_forces(q, k, value, bias, coordinates, layout, 0.0), "atoms"
    inputs = {side: ("atoms", leaf(draw, atoms, PAIR)) for side in ("left", "right")}
    outputs = {"cross_entropy": 11, "cosine": 3, "smooth_l1": 1}[name]
    weight, bias = leaf(draw, outputs, PAIR, PAIR), leaf(draw, outputs)
    if name == "cross_entropy":
        target = torch.randint(-1, 11, (pairs, 1), generator=draw, dtype=torch.int8)
        return inputs, lambda left, right: pair_cross_entropy(left, right, weight, bias, target, layout), ""
    loss = pair_cosine if name == "cosine" else pair_smooth_l1
    target = leaf(draw, pairs, 3) if name == "cosine" else leaf(draw, pairs)
    share = torch.rand(pairs, generator=draw)
    return inputs, lambda left, right: loss(left, right, weight, bias, target, share, layout), ""


def gradients(function: Callable[..., Tensor], inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    output = function(**leaves)
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(9))
    return output.detach(), dict(zip(leaves, torch.autograd.grad(output, list(leaves.values()), upstream), strict=True))


@pytest.mark.parametrize("implementation", ["reference", pytest.param("triton", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["attention", "atom_forces", "cross_entropy", "cosine", "smooth_l1"])
def test_batch_mates_of_a_molecule_that_is_not_finite(name, implementation, monkeypatch):
    """Bit for bit what they are beside the healthy molecule; the sick one may be anywhere, first of all at the beginning."""
    if implementation == "triton":
        pytest.importorskip("triton")
    monkeypatch.setenv(dispatch.VARIABLE, implementation)
    layout = Layout(torch.tensor(SIZES), "cpu")
    inputs, function, output_rows = make(name, layout)
    plain = {key: value for key, (_, value) in inputs.items()}
    output, grads = gradients(function, plain)
    for sick, value in ((0, float("nan")), (2, float("inf"))):
        poisoned = {key: tensor.clone() for key, tensor in plain.items()}
        for key, (kind, _) in inputs.items():
            poisoned[key][rows(layout, kind, sick)] = value
        found, found_grads = gradients(function, poisoned)
        assert not found[rows(layout, output_rows, sick) if output_rows else ...].isfinite().any(), "it is not sick at all"
        for healthy in set(range(len(SIZES))) - {sick}:
            if output_rows:
                at = rows(layout, output_rows, healthy)
                assert torch.equal(found[at], output[at]), (sick, healthy)
            for key, (kind, _) in inputs.items():
                at = rows(layout, kind, healthy)
                assert torch.equal(found_grads[key][at], grads[key][at]), (key, sick, healthy)


@pytest.mark.parametrize("implementation", ["reference", "triton"])
@pytest.mark.parametrize("name", ["cosine", "smooth_l1"])
def test_a_pair_of_weight_0_counts_nothing_whatever_its_target(name, implementation, monkeypatch):
    if implementation == "triton":
        pytest.importorskip("triton")
    monkeypatch.setenv(dispatch.VARIABLE, implementation)
    layout = Layout(torch.tensor(SIZES), "cpu")
    draw = torch.Generator().manual_seed(1)
    outputs = 3 if name == "cosine" else 1
    weight, bias = leaf(draw, outputs, PAIR, PAIR), leaf(draw, outputs)
    target = leaf(draw, layout.num_pairs, 3) if name == "cosine" else leaf(draw, layout.num_pairs)
    share = torch.rand(layout.num_pairs, generator=draw)
    share[rows(layout, "pairs", 1)] = 0
    loss = pair_cosine if name == "cosine" else pair_smooth_l1
    inputs = {"left": leaf(draw, layout.num_total_atoms, PAIR), "right": leaf(draw, layout.num_total_atoms, PAIR)}
    results = []
    for fill in (1.0, float("nan")):
        filled = target.clone()
        filled[rows(layout, "pairs", 1)] = fill
        results.append(gradients(lambda left, right, t=filled: loss(left, right, weight, bias, t, share, layout), inputs))
    (total, grads), (other, other_grads) = results
    assert total.isfinite()
    assert torch.equal(total, other)
    assert all(torch.equal(grads[key], other_grads[key]) for key in grads)
