"""What the attention benchmark compares computes the same: else its times would mean nothing."""

import pytest
import torch

from benchmarks.attention_alternatives import flex, reference, sdpa
from benchmarks.sizes import TITLES, draw_sizes
from moleblend_fs.ops.layout import Layout


@pytest.mark.parametrize("alternative", [sdpa, flex])
def test_alternatives_agree(alternative):
    sizes = torch.tensor([3, 1, 20, 9, 130, 60])  # more tokens than one of FlexAttention's blocks, and a molecule in two of them
    layout = Layout(sizes, "cpu")
    torch.manual_seed(0)
    qkv, bias, graph = torch.randn(layout.num_tokens, 3, 2, 16), torch.randn(2, layout.num_pairs), torch.randn(2)
    outputs = []
    for prepare in (alternative, reference):
        layer, leaves = prepare(qkv.clone(), bias.clone(), graph.clone(), layout)
        assert len(leaves) >= 2
        with torch.no_grad():
            outputs.append(layer())
    torch.testing.assert_close(*outputs, rtol=0, atol=2e-6)
    without = reference(qkv, bias * 0, graph, layout)[0]()
    assert (without - outputs[1]).abs().max() > 0.1


@pytest.mark.parametrize(("name", "mean"), [("pcqm4mv2", 14.9), ("qm9", 18.0), ("lipo", 27.0)])
def test_sizes_are_those_of_the_set(name, mean):
    sizes = draw_sizes(name, 5000, seed=0)
    assert abs(sizes.mean() - mean) < 0.5
    assert (sizes == draw_sizes(name, 5000, seed=0)).all()
    assert (sizes != draw_sizes(name, 5000, seed=1)).any()
    assert set(TITLES) == {"pcqm4mv2", "qm9", "lipo"}
    with pytest.raises(ValueError, match="pcqm"):
        draw_sizes("pcqm", 1, 0)
