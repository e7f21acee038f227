"""What the attention benchmark compares computes the same: else its times would mean nothing."""

from argparse import Namespace
from importlib.util import find_spec

import pytest
import torch

from benchmarks.attention import check
from benchmarks.attention_alternatives import compiled, flex, kernels, kernels_of_several_heads, reference, sdpa, single_sdpa, within
from benchmarks.sizes import TITLES, draw_sizes
from moleblend_fs.ops.layout import Layout


def results(prepare, sizes, backward=True):
    """Output, and gradients of two layers' queries, keys and values."""
    layout = Layout(torch.tensor(sizes), "cpu")
    torch.manual_seed(0)
    qkvs = [torch.randn(layout.num_tokens, 3, 2, 16).requires_grad_(backward) for _ in range(2)]
    layer, leaves = prepare(torch.randn(2, layout.num_pairs), torch.randn(2), layout, torch.float32)
    assert len(leaves) >= 1
    with within(layer):
        if not backward:
            with torch.no_grad():
                return [layer(qkvs[0])]
        outputs = [layer(qkv) for qkv in qkvs]
        gradients = torch.autograd.grad(outputs, [*qkvs, *leaves], [torch.sin(x.detach()) for x in outputs])
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    return [outputs[0].detach(), *gradients[:2]]


@pytest.mark.parametrize("alternative", [sdpa, single_sdpa, compiled, flex])
def test_alternatives_agree(alternative):
    sizes = [3, 1, 20, 9, 130, 60]  # more tokens than one of FlexAttention's blocks, and a molecule in two of them
    backward = alternative is not flex  # which has none on CPUs
    theirs = results(reference, sizes, backward)
    for a, b in zip(results(alternative, sizes, backward), theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    without = results(lambda bias, *rest: reference(bias * 0, *rest), sizes, backward=False)[0]
    assert (without - theirs[0]).abs().max() > 0.1


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_both_tables_of_launches_agree():
    from moleblend_fs.ops.attention import launch

    sizes = [3, 20, 15]
    for a, b, c in zip(*(results(prepare, sizes) for prepare in (kernels, kernels_of_several_heads, reference)), strict=True):
        torch.testing.assert_close(a, c, rtol=0, atol=1e-5)
        torch.testing.assert_close(b, c, rtol=0, atol=1e-5)
    layout = Layout(torch.tensor(sizes), "cpu")
    layer, _ = kernels_of_several_heads(torch.zeros(2, layout.num_pairs), torch.zeros(2), layout, torch.float32)
    with within(layer):
        assert launch._FULL["backward"][32] == launch.Launch(32, 16, 4, 2)
    assert launch._FULL["backward"][32] != launch.Launch(32, 16, 4, 2)


def test_other_numbers_are_no_alternative():
    """FlexAttention gave NaN for some lengths; a time of that would mean nothing."""
    options = Namespace(tiny=True, device="cpu")
    check(sdpa, "pcqm4mv2", torch.float32, options)

    def spoiled(bias_HP, *rest):
        return sdpa(bias_HP * float("nan"), *rest)

    with pytest.raises(ArithmeticError, match="other numbers"):
        check(spoiled, "pcqm4mv2", torch.float32, options)


@pytest.mark.parametrize(("name", "mean"), [("pcqm4mv2", 14.9), ("qm9", 18.0), ("lipo", 27.0)])
def test_sizes_are_those_of_the_set(name, mean):
    sizes = draw_sizes(name, 5000, seed=0)
    assert abs(sizes.mean() - mean) < 0.5
    assert (sizes == draw_sizes(name, 5000, seed=0)).all()
    assert (sizes != draw_sizes(name, 5000, seed=1)).any()
    assert set(TITLES) == {"pcqm4mv2", "qm9", "lipo"}
    with pytest.raises(ValueError, match="pcqm"):
        draw_sizes("pcqm", 1, 0)
