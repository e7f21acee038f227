"""Packed attention and the noise head's forces, against one dense molecule at a time."""

import pytest
import torch
from torch import Tensor

from moleblend_fs.ops.atom_forces import atom_forces
from moleblend_fs.ops.attention import attention, attention_linear, bucket_bias
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import Linear

SIZES = {
    "one atom": [1],
    "single atoms": [1, 1, 1],
    "around the padding step": [2, 3, 4, 7, 8],
    "odd": [15, 16, 17, 33],
    "mixed": [31, 1, 123, 2, 31, 5],
}


def dense_attention(qkv: Tensor, bias: Tensor, graph_bias: Tensor, sizes: list[int]) -> Tensor:
    """softmax(q k^T / sqrt(w) + bias) v molecule by molecule, head by head."""
    outputs, token, pair = [], 0, 0
    heads, width = qkv.shape[2:]
    for n in sizes:
        q, k, v = qkv[token : token + n + 1].unbind(1)
        full = graph_bias.expand(n + 1, n + 1, heads).clone()
        full[1:, 1:] = bias[pair : pair + n * n].view(n, n, heads)
        parts = [torch.softmax(q[:, h] @ k[:, h].T * width**-0.5 + full[:, :, h], dim=1) @ v[:, h] for h in range(heads)]
        outputs.append(torch.cat(parts, dim=1))
        token, pair = token + n + 1, pair + n * n
    return torch.cat(outputs)


def inputs(sizes: list[int], heads: int, width: int, dtype=torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(len(sizes))
    qkv = torch.randn(sum(sizes) + len(sizes), 3, heads, width, dtype=dtype)
    return qkv, torch.randn(sum(n * n for n in sizes), heads, dtype=dtype) * 2, torch.randn(heads, dtype=dtype) * 2


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(("heads", "width"), [(1, 8), (3, 5), (4, 24)])
def test_output_and_gradients_against_dense(sizes, heads, width):
    arguments = [x.requires_grad_() for x in inputs(sizes, heads, width)]
    layout = Layout(torch.tensor(sizes), "cpu")
    out = attention(arguments[0], bucket_bias(arguments[1], arguments[2], layout), layout, 0.0)
    expected = dense_attention(*arguments, sizes)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    upstream = torch.randn_like(out)
    ours, theirs = (torch.autograd.grad(x, arguments, upstream) for x in (out, expected))
    for name, a, b in zip(("qkv", "bias", "graph bias"), ours, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-12 * max(1, len(sizes)) * b.abs().max(), name
    if max(sizes) > 1:
        # The bias is felt: without it the result is another one.
        assert (dense_attention(arguments[0], arguments[1] * 0, arguments[2], sizes) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_without_gradients(sizes, dtype, rtol):
    """torch's own attention in inference mode, against what training computes."""
    qkv, bias, graph_bias = inputs(sizes, 4, 24, torch.promote_types(dtype, torch.float32))
    qkv, layout, layer = qkv.to(dtype), Layout(torch.tensor(sizes), "cpu"), Linear(96, 32).to(dtype)
    biases = bucket_bias(bias, graph_bias, layout)
    with torch.no_grad():
        expected = attention_linear(qkv, biases, layout, 0.0, layer)
        one_by_one = layer(attention(qkv, biases, layout, 0.0))
    with torch.inference_mode():
        found = attention_linear(qkv, biases, layout, 0.0, layer)
    assert found.is_inference()
    assert found.dtype == dtype
    assert torch.equal(expected, one_by_one)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradcheck(dropout):
    sizes = [3, 1, 5, 4]
    layout = Layout(torch.tensor(sizes), "cpu")

    def run(qkv, bias, graph_bias):
        torch.manual_seed(1)  # the same places are dropped at every call
        return attention(qkv, bucket_bias(bias, graph_bias, layout), layout, dropout)

    assert torch.autograd.gradcheck(run, [x.requires_grad_() for x in inputs(sizes, 2, 3)])


def test_dropout_keeps_the_mean_and_drops_its_share():
    """Values of ones: an output is the sum of the kept probabilities / (1 - p), 1 on average; equal weights make it a binomial share."""
    sizes, heads, p = [63] * 40, 2, 0.3
    layout = Layout(torch.tensor(sizes), "cpu")
    qkv = torch.zeros(layout.num_tokens, 3, heads, 4)
    qkv[:, 2] = 1
    torch.manual_seed(0)
    biases = bucket_bias(torch.zeros(layout.num_pairs, heads), torch.zeros(heads), layout)
    out = attention(qkv, biases, layout, p).view(-1, heads, 4)
    assert torch.equal(out[..., 0], out[..., 3]), "a weight is dropped for the whole value"
    kept = out[..., 0] * (1 - p) * 64  # each of the 64 weights is 1/64
    assert (kept - kept.round()).abs().max() < 1e-4
    draws = 64 * kept.numel()
    assert abs(float(kept.mean()) / 64 - (1 - p)) < 4 * (p * (1 - p) / draws) ** 0.5
    variance = float(kept.var())
    assert abs(variance / (64 * p * (1 - p)) - 1) < 0.1, "places are dropped independently"
    assert torch.equal(attention(qkv, biases, layout, 0.0), torch.ones_like(out).view(-1, heads * 4))


def test_half_precision_is_as_close_as_its_rounding():
    sizes = [5, 17, 30]
    qkv, bias, graph_bias = inputs(sizes, 4, 24)
    layout = Layout(torch.tensor(sizes), "cpu")
    expected = dense_attention(qkv, bias, graph_bias, sizes)
    half = attention(qkv.bfloat16(), bucket_bias(bias.float(), graph_bias.float(), layout), layout, 0.0)
    assert half.dtype == torch.bfloat16
    assert (half.double() - expected).abs().max() < 0.05  # 2^-8 of values up to 4, and rounded logits


def dense_forces(q, k, value, bias, coordinates, sizes):
    """sum_hj softmax_j(q_i k_j + bias_ij)_h u_ij,a s_hj,a by loops; u_ij = (r_j - r_i) / (|r_j - r_i| + 1e-5)."""
    out, atom, pair = [], 0, 0
    for n in sizes:
        a, p = slice(atom, atom + n), slice(pair, pair + n * n)
        logits = torch.einsum("ihw,jhw->ijh", q[a], k[a]) + bias[p].view(n, n, -1)
        probabilities = torch.softmax(logits, dim=1)
        displacement = coordinates[a] - coordinates[a, None]
        direction = displacement / (displacement.norm(dim=2, keepdim=True) + 1e-5)
        out.append(torch.einsum("ijh,ija,jha->ia", probabilities, direction, value[a]))
        atom, pair = atom + n, pair + n * n
    return torch.cat(out)


def force_inputs(sizes, heads, width):
    torch.manual_seed(7)
    atoms, pairs = sum(sizes), sum(n * n for n in sizes)
    shapes = [(atoms, heads, width), (atoms, heads, width), (atoms, heads, 3), (pairs, heads), (atoms, 3)]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_forces_and_gradients_against_dense(sizes):
    arguments = force_inputs(sizes, 3, 5)
    out = atom_forces(*arguments, Layout(torch.tensor(sizes), "cpu"), 0.0)
    expected = dense_forces(*arguments, sizes)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    upstream = torch.randn_like(out)
    ours, theirs = (torch.autograd.grad(x, arguments, upstream) for x in (out, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10 * float(b.abs().max().clamp(min=1)))  # near atoms turn each other far


def test_gradcheck_of_forces():
    sizes = [3, 1, 4]
    layout = Layout(torch.tensor(sizes), "cpu")
    assert torch.autograd.gradcheck(lambda *x: atom_forces(*x, layout, 0.0), force_inputs(sizes, 2, 3))
