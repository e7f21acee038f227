"""Other ways to compute attention with a bias for every pair, for the benchmark `attention`.

Each takes (bias_HP, graph_bias_H, layout, dtype), does once per batch what need not be done in every layer, and returns
(layer, leaves): a function of qkv (T, 3, H, w) that gives (T, H w), and the tensors that stand for the bias in its backward pass.

Shape legend as in `ops.attention`.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from moleblend_fs.ops import layout as layouts
from moleblend_fs.ops.attention import attention, bucket_bias
from moleblend_fs.ops.layout import Bucket, Layout

Prepared = tuple[Callable[[Tensor], Tensor], list[Tensor]]

FLEX_BLOCK = 128


def reference(bias_HP: Tensor, graph_bias_H: Tensor, layout: Layout, dtype: torch.dtype) -> Prepared:
    """The plain implementation: products over molecules of similar size."""
    biases = [x.requires_grad_() for x in bucket_bias(bias_HP.t(), graph_bias_H, layout)]
    return lambda qkv: attention(qkv, biases, layout, 0.0), biases


def kernels(bias_HP: Tensor, graph_bias_H: Tensor, layout: Layout, dtype: torch.dtype) -> Prepared:
    """Ours. Each layer's backward pass adds its share to the bias's gradient, as in training."""
    from moleblend_fs.ops.attention.launch import attention as fused
    from moleblend_fs.ops.attention.launch import prepare_bias

    leaves = [bias_HP.requires_grad_(), graph_bias_H.requires_grad_()]
    packed = prepare_bias(bias_HP.t(), graph_bias_H, layout)
    return lambda qkv: fused(qkv, packed, layout, 0.0), leaves


def kernels_of_several_heads(bias_HP: Tensor, graph_bias_H: Tensor, layout: Layout, dtype: torch.dtype) -> Prepared:
    """Ours with other launches for molecules of up to 16 and 32 tokens: a program goes through several heads."""
    from moleblend_fs.ops.attention import launch

    layer, leaves = kernels(bias_HP, graph_bias_H, layout, dtype)
    tables = (launch._HALF, launch._FULL, launch._TF32)
    small = {"forward": {16: launch.Launch(16, 16, 4, 1), 32: launch.Launch(32, 32, 4, 2)}}
    small["backward"] = {16: launch.Launch(16, 16, 4, 1), 32: launch.Launch(32, 16, 4, 2)}
    return _Within(layer, [mock.patch.dict(table[way], small[way]) for table in tables for way in small]), leaves


class _Within:
    """A layer whose calls, and whose backward passes (see `within`), run with something replaced."""

    def __init__(self, layer: Callable[[Tensor], Tensor], replaced: list[Any]):
        self._layer, self.replaced = layer, replaced

    def __call__(self, qkv: Tensor) -> Tensor:
        return self._layer(qkv)


@contextlib.contextmanager
def within(layer: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """What a layer and its backward pass are to be called in."""
    with contextlib.ExitStack() as stack:
        for each in getattr(layer, "replaced", ()):
            stack.enter_context(each)
        yield


def _padded(qkv: Tensor, bucket: Bucket) -> Tensor:
    """(3, b, H, N, w)."""
    b, N = bucket.tokens.shape
    return qkv.index_select(0, bucket.tokens.reshape(-1)).view(b, N, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)


def _packed(parts: list[Tensor], layout: Layout) -> Tensor:
    """(T, H w) from one (b, N, H, w) per bucket."""
    out = parts[0].new_empty(layout.num_tokens, parts[0].shape[2] * parts[0].shape[3])
    for part, bucket in zip(parts, layout.buckets, strict=True):
        rows = part.reshape(part.shape[0] * part.shape[1], -1).index_select(0, bucket.token_places)
        out = out.index_copy(0, bucket.token_targets, rows)
    return out


def sdpa(bias_HP: Tensor, graph_bias_H: Tensor, layout: Layout, dtype: torch.dtype) -> Prepared:
    """torch's scaled_dot_product_attention with the bias as its mask, over molecules of similar size."""
    return _by_bucket(bias_HP, graph_bias_H, layout, dtype, _sdpa)


def single_sdpa(bias_HP: Tensor, graph_bias_H: Tensor, layout: Layout, dtype: torch.dtype) -> Prepared:
    """The same with all molecules padded to the largest: one call."""
    with mock.patch.object(layouts, "BUCKET_STEP", int(layout.sizes.max()) + 1):
        together = Layout(torch.from_numpy(layout.sizes), layout.device)
        assert len(together.buckets) == 1
    return _by_bucket(bias_HP, graph_bias_H, together, dtype, _sdpa)


def compiled(bias_HP: Tensor, graph_bias_H: Tensor, layout: Layout, dtype: torch.dtype) -> Prepared:
    """Plain attention over molecules of similar size, by torch.compile for any sizes (on a CPU as it is, since compiling takes long)."""
    return _by_bucket(bias_HP, graph_bias_H, layout, dtype, _compiled() if layout.device.type == "cuda" else _plain)


def evoformer(bias_HP: Tensor, graph_bias_H: Tensor, layout: Layout, dtype: torch.dtype) -> Prepared:
    """DeepSpeed's EvoformerAttention, over molecules of similar size."""
    from deepspeed.ops.deepspeed4science import DS4Sci_EvoformerAttention

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        arranged = (x.transpose(1, 2).unsqueeze(1) for x in (q, k, v))
        return DS4Sci_EvoformerAttention(*arranged, [None, bias.clamp(min=-1e4).unsqueeze(1)]).squeeze(1).transpose(1, 2)

    return _by_bucket(bias_HP, graph_bias_H, layout, dtype, attend)


Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values (b, H, N, w) and bias (b, H, N, N) -> (b, H, N, w)."""


def _by_bucket(bias_HP: Tensor, graph_bias_H: Tensor, layout: Layout, dtype: torch.dtype, attend: Attend) -> Prepared:
    """Attention over padded molecules, a bucket at a time."""
    biases = [x.to(dtype).requires_grad_() for x in bucket_bias(bias_HP.t(), graph_bias_H, layout)]

    def layer(qkv: Tensor) -> Tensor:
        buckets = zip(layout.buckets, biases, strict=True)
        return _packed([attend(*_padded(qkv, bucket), bias).transpose(1, 2) for bucket, bias in buckets], layout)

    return layer, biases


def _sdpa(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def _plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias, dim=-1) @ v


@functools.cache
def _compiled() -> Attend:
    return torch.compile(_plain, dynamic=True)


def flex(bias_HP: Tensor, graph_bias_H: Tensor, layout: Layout, dtype: torch.dtype) -> Prepared:
    """torch's FlexAttention over the packed batch; its score function reads the packed bias."""
    from torch.nn.attention.flex_attention import flex_attention

    molecule, starts, pair_starts = layout.token_molecule, layout.cu_tokens, layout.cu_pairs
    bias_HP, graph_bias_H = bias_HP.requires_grad_(), graph_bias_H.requires_grad_()

    def add_bias(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        own = molecule[i]
        start = starts[own]
        row, column, n = i - start - 1, j - start - 1, starts[own + 1] - start - 1
        inner = (row >= 0) & (column >= 0) & (column < n)
        bias = bias_HP[h, torch.where(inner, pair_starts[own] + row * n + column, 0)]
        return score + torch.where(inner, bias, graph_bias_H[h])

    blocks = _flex_blocks(layout, lambda b, h, i, j: molecule[i] == molecule[j])
    function = torch.compile(flex_attention, dynamic=False) if layout.device.type == "cuda" else flex_attention

    def layer(qkv: Tensor) -> Tensor:
        q, k, v = qkv.permute(1, 2, 0, 3).unsqueeze(1).unbind(0)
        out: Any = function(q, k, v, score_mod=add_bias, block_mask=blocks)
        return out.squeeze(0).transpose(0, 1).flatten(1)

    return layer, [bias_HP, graph_bias_H]


def _flex_blocks(layout: Layout, same_molecule: Callable[..., Tensor]) -> Any:
    """Which blocks of keys each block of queries sees: from that of its first molecule's start to that of its last one's end."""
    from torch.nn.attention.flex_attention import BlockMask

    T = layout.num_tokens
    starts, molecule = torch.from_numpy(layout.token_starts), layout.token_molecule.cpu()
    first = torch.arange(0, T, FLEX_BLOCK)
    last = (first + FLEX_BLOCK - 1).clamp(max=T - 1)
    lowest = starts[molecule[first]] // FLEX_BLOCK
    counts = (starts[molecule[last] + 1] - 1) // FLEX_BLOCK - lowest + 1
    indices = lowest[:, None] + torch.arange(len(first))
    indices = torch.where(torch.arange(len(first)) < counts[:, None], indices, 0)
    given = (x.to(torch.int32).to(layout.device)[None, None] for x in (counts, indices))
    return BlockMask.from_kv_blocks(*given, BLOCK_SIZE=FLEX_BLOCK, mask_mod=same_molecule, seq_lengths=(T, T))


ALTERNATIVES: dict[str, Callable[[Tensor, Tensor, Layout, torch.dtype], Prepared]] = {
    "kernels": kernels,
    "kernels, several heads a program": kernels_of_several_heads,
    "reference": reference,
    "plain attention, compiled": compiled,
    "SDPA, materialised bias": sdpa,
    "SDPA, materialised bias, one bucket": single_sdpa,
    "FlexAttention, captured bias": flex,
    "EvoformerAttention": evoformer,
}
OURS = ("kernels", "kernels, several heads a program")
REHEARSED = (*OURS, "plain attention, compiled")
"""What runs on CPUs too, if only to see that it does."""
WITHOUT_GPU = ("reference", "SDPA, materialised bias", "SDPA, materialised bias, one bucket")
"""What CPUs run as it is meant to be run; others are compiled, need the interpreter, or have no backward pass there."""
