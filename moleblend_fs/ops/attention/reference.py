"""Attention in plain torch, a bucket of molecules of similar size at a time.

    softmax(q_i . k_j / sqrt(w) + bias_ij) v_j over the tokens j of i's molecule (paper, Eq. 4), softmax in float32 or wider;
    pairs that have the graph token on either side get the graph-token bias instead.

Shape legend: T tokens, H heads, w head width, P atom pairs; b, n, N as in `layout`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from moleblend_fs.ops.dropout import draw_kept, factors, multiplied
from moleblend_fs.ops.layout import Bucket, Layout
from moleblend_fs.ops.linear import product, type_of_products
from moleblend_fs.patches.softmax_backward import softmax_backward


def bucket_bias(bias_PH: Tensor, graph_bias_H: Tensor, layout: Layout) -> list[Tensor]:
    """The packed bias as one (b, H, N, N) tensor per bucket, -inf at padded keys; computed once, read by every layer."""
    result = []
    for bucket in layout.buckets:
        b, n = bucket.atoms.shape
        pairs = bias_PH.index_select(0, bucket.pairs.reshape(-1)).view(b, n, n, -1).permute(0, 3, 1, 2)
        graph = graph_bias_H.to(bias_PH.dtype).view(1, -1, 1, 1)
        with_row = torch.cat([graph.expand(b, -1, 1, n), pairs], dim=2)
        full = torch.cat([graph.expand(b, -1, n + 1, 1), with_row], dim=3)
        result.append(full.masked_fill(~bucket.token_exists[:, None, None, :], float("-inf")))
    return result


class AttentionLinear(torch.autograd.Function):
    """`attention_linear` with its gradient written out: nothing of size n x n is saved (but which weights were dropped), the weights
    and the attention output are computed again, and each token's gradient is written once, where autograd would sum zeros over buckets.
    """

    @staticmethod
    def forward(ctx, qkv_T3Hw, weight, bias, layout, dropout, *biases):
        T, _, heads, width = qkv_T3Hw.shape
        out = qkv_T3Hw.new_empty(T, heads * width)
        keeps: list[Tensor | None] = []
        for bucket, pair_bias in zip(layout.buckets, biases, strict=True):
            q, k, v = _gather(qkv_T3Hw, bucket)
            weights = _weights(q, k, pair_bias)
            keeps.append(draw_kept(weights, dropout) if dropout > 0 else None)
            _scatter(out, torch.bmm(multiplied(weights, _factors(keeps[-1], dropout, q)), v), bucket)
        ctx.save_for_backward(qkv_T3Hw, weight, *biases, *keeps)
        ctx.layout, ctx.dropout, ctx.lower = layout, dropout, None if weight is None else type_of_products(weight)
        return out if weight is None else product(out, weight, bias, ctx.lower)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_y):
        qkv_T3Hw, weight, *saved = ctx.saved_tensors
        T, _, heads, width = qkv_T3Hw.shape
        buckets, scale = ctx.layout.buckets, width**-0.5
        d_out = d_y if weight is None else product(d_y, weight.t(), None, ctx.lower)
        out = None if weight is None else qkv_T3Hw.new_empty(T, heads * width)
        d_qkv_T3Hw = torch.empty_like(qkv_T3Hw)
        d_biases = []
        for bucket, pair_bias, keep in zip(buckets, saved[: len(buckets)], saved[len(buckets) :], strict=True):
            b, N = bucket.tokens.shape
            q, k, v = _gather(qkv_T3Hw, bucket)
            probabilities, factor = _weights(q, k, pair_bias), _factors(keep, ctx.dropout, q)
            weights = multiplied(probabilities, factor)
            if out is not None:
                _scatter(out, torch.bmm(weights, v), bucket)
            # Padded queries repeat their molecule's graph token: their part of the gradient is not asked for.
            d_rows = _rows(d_out.view(T, heads, width), bucket)
            d_rows = d_rows.mul_(bucket.token_exists[:, :, None, None].to(d_rows.dtype))
            d_o = d_rows.transpose(1, 2).reshape(b * heads, N, width)
            d_logits = softmax_backward(multiplied(torch.bmm(d_o, v.transpose(1, 2)), factor), probabilities)
            d_qkv = q.new_empty(3, *q.shape)
            d_qkv[0].baddbmm_(d_logits, k, beta=0, alpha=scale)
            d_qkv[1].baddbmm_(d_logits.transpose(1, 2), q, beta=0, alpha=scale)
            torch.bmm(weights.transpose(1, 2), d_o, out=d_qkv[2])
            rows = d_qkv.view(3, b, heads, N, width).permute(1, 3, 0, 2, 4).reshape(b * N, 3, heads, width)
            d_qkv_T3Hw.index_copy_(0, bucket.token_targets, rows.index_select(0, bucket.token_places).to(qkv_T3Hw.dtype))
            d_biases.append(d_logits.view(b, heads, N, N))
        if out is None:
            return d_qkv_T3Hw, None, None, None, None, *d_biases
        d_shift = d_y.sum(dim=0) if ctx.needs_input_grad[2] else None
        return d_qkv_T3Hw, product(d_y.t(), out.t(), None, ctx.lower), d_shift, None, None, *d_biases


def _weights(q: Tensor, k: Tensor, pair_bias: Tensor) -> Tensor:
    """Attention weights of a bucket, (b H, N, N)."""
    logits = torch.baddbmm(pair_bias.view(len(q), *pair_bias.shape[2:]), q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
    return logits.softmax(dim=-1)


def _factors(keep: Tensor | None, dropout: float, like: Tensor) -> Tensor | None:
    return None if keep is None else factors(keep, dropout, like.dtype)


def fused_attention(qkv_T3Hw: Tensor, biases: list[Tensor], layout: Layout) -> Tensor:
    """Attention output without a gradient, (T, H w), by torch's own attention: nothing of size n x n is written."""
    T, _, heads, width = qkv_T3Hw.shape
    out = qkv_T3Hw.new_empty(T, heads * width)
    for bucket, pair_bias in zip(layout.buckets, biases, strict=True):
        q, k, v = _rows(qkv_T3Hw, bucket).permute(2, 0, 3, 1, 4)
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=pair_bias.to(q.dtype))
        _scatter(out, o.flatten(0, 1), bucket)
    return out


def _scatter(out_Td: Tensor, o: Tensor, bucket: Bucket) -> None:
    """Write a bucket's (b H, N, w) values to their tokens."""
    b, N = bucket.tokens.shape
    rows = o.view(b, -1, N, o.shape[-1]).transpose(1, 2).reshape(b * N, -1)
    out_Td.index_copy_(0, bucket.token_targets, rows.index_select(0, bucket.token_places).to(out_Td.dtype))


def _gather(qkv_T3Hw: Tensor, bucket: Bucket) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a bucket, (b H, N, w) each, float32 or wider (as the softmax must be)."""
    rows = _rows(qkv_T3Hw, bucket)
    b, N, _, heads, width = rows.shape
    q, k, v = rows.permute(2, 0, 3, 1, 4).reshape(3, b * heads, N, width).unbind(0)
    return q, k, v


def _rows(x: Tensor, bucket: Bucket) -> Tensor:
    """A bucket's (b, N, ...) of (T, ...), float32 or wider, in memory of its own."""
    rows = x.flatten(1).index_select(0, bucket.tokens.flatten()).view(*bucket.tokens.shape, *x.shape[1:])
    return rows.to(torch.promote_types(rows.dtype, torch.float32))
