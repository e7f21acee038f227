"""Other ways to compute attention with a bias for every pair, for the benchmark `attention`.

Each takes (qkv_T3Hw, bias_HP, graph_bias_H, layout), does once per batch what need not be done in every layer, and returns
(layer, leaves): a function without arguments that gives (T, H w), and the tensors that its backward pass is asked for.

Shape legend as in `ops.attention`.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from moleblend_fs.ops.attention import attention, bucket_bias
from moleblend_fs.ops.layout import Bucket, Layout

Prepared = tuple[Callable[[], Tensor], list[Tensor]]

FLEX_BLOCK = 128


def reference(qkv: Tensor, bias_HP: Tensor, graph_bias_H: Tensor, layout: Layout) -> Prepared:
    """The plain implementation: products over molecules of similar size."""
    biases = [x.requires_grad_() for x in bucket_bias(bias_HP.t(), graph_bias_H, layout)]
    return lambda: attention(qkv, biases, layout, 0.0), [qkv, *biases]


def kernels(qkv: Tensor, bias_HP: Tensor, graph_bias_H: Tensor, layout: Layout) -> Prepared:
    """Ours. Asked for the queries' gradient, a layer's backward pass writes its share of the bias's too."""
    from moleblend_fs.ops.attention.launch import attention as fused
    from moleblend_fs.ops.attention.launch import prepare_bias

    packed = prepare_bias(bias_HP.t().requires_grad_(), graph_bias_H.requires_grad_(), layout)
    return lambda: fused(qkv, packed, layout, 0.0), [qkv]


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


def sdpa(qkv: Tensor, bias_HP: Tensor, graph_bias_H: Tensor, layout: Layout) -> Prepared:
    """torch's scaled_dot_product_attention with the bias as its mask, over molecules of similar size."""
    biases = [x.to(qkv.dtype).requires_grad_() for x in bucket_bias(bias_HP.t(), graph_bias_H, layout)]

    def layer() -> Tensor:
        parts = []
        for bucket, bias in zip(layout.buckets, biases, strict=True):
            q, k, v = _padded(qkv, bucket)
            parts.append(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2))
        return _packed(parts, layout)

    return layer, [qkv, *biases]


def evoformer(qkv: Tensor, bias_HP: Tensor, graph_bias_H: Tensor, layout: Layout) -> Prepared:
    """DeepSpeed's EvoformerAttention, over molecules of similar size."""
    from deepspeed.ops.deepspeed4science import DS4Sci_EvoformerAttention

    biases = [x.to(qkv.dtype).clamp(min=-1e4).requires_grad_() for x in bucket_bias(bias_HP.t(), graph_bias_H, layout)]

    def layer() -> Tensor:
        parts = []
        for bucket, bias in zip(layout.buckets, biases, strict=True):
            q, k, v = (x.transpose(1, 2).unsqueeze(1) for x in _padded(qkv, bucket))
            parts.append(DS4Sci_EvoformerAttention(q, k, v, [None, bias.unsqueeze(1)]).squeeze(1))
        return _packed(parts, layout)

    return layer, [qkv, *biases]


def flex(qkv: Tensor, bias_HP: Tensor, graph_bias_H: Tensor, layout: Layout) -> Prepared:
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
    compiled = torch.compile(flex_attention, dynamic=False) if qkv.is_cuda else flex_attention

    def layer() -> Tensor:
        q, k, v = qkv.permute(1, 2, 0, 3).unsqueeze(1).unbind(0)
        out: Any = compiled(q, k, v, score_mod=add_bias, block_mask=blocks)
        return out.squeeze(0).transpose(0, 1).flatten(1)

    return layer, [qkv, bias_HP, graph_bias_H]


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


ALTERNATIVES: dict[str, Callable[[Tensor, Tensor, Tensor, Layout], Prepared]] = {
    "kernels": kernels,
    "reference": reference,
    "SDPA, materialised bias": sdpa,
    "FlexAttention, captured bias": flex,
    "EvoformerAttention": evoformer,
}
ONLY_CUDA = ("kernels", "FlexAttention, captured bias", "EvoformerAttention")
"""What has no backward pass on CPUs, or only the interpreter's."""
