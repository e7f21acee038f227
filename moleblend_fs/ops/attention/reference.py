"""Attention in plain torch, a bucket of molecules of similar size at a time.

    softmax(q_i . k_j / sqrt(w) + bias_ij) v_j over the tokens j of i's molecule (paper, Eq. 4), softmax in float32 or wider;
    pairs that have the graph token on either side get the graph-token bias instead.

Shape legend: T tokens, H heads, w head width, P atom pairs; b, n, N as in `layout`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    """`attention_linear` with its gradient written out: nothing of size n x n is saved (but which weights were dropped), the
    attention output is computed again, and each token's gradient is written once, where autograd would sum zeros over buckets.
    """

    @staticmethod
    def forward(ctx, qkv_T3Hw, weight, bias, layout, dropout, *biases):
        T, _, heads, width = qkv_T3Hw.shape
        out = qkv_T3Hw.new_empty(T, heads * width)
        saved: list[Tensor | None] = []
        for bucket, pair_bias in zip(layout.buckets, biases, strict=True):
            b, N = bucket.tokens.shape
            q, k, v = _gather(qkv_T3Hw, bucket)
            logits = torch.baddbmm(pair_bias.view(b * heads, N, N), q, k.transpose(1, 2), alpha=width**-0.5)
            logsumexp = logits.logsumexp(dim=-1, keepdim=True)
            weights, keep = logits.sub_(logsumexp).exp_(), None
            if dropout > 0:
                weights, keep = torch.native_dropout(weights, dropout, True)
            saved += [pair_bias, logsumexp, keep]
            _scatter(out, torch.bmm(weights, v), bucket)
        ctx.save_for_backward(qkv_T3Hw, weight, *saved)
        ctx.layout, ctx.dropout, ctx.lower = layout, dropout, None if weight is None else type_of_products(weight)
        return out if weight is None else product(out, weight, bias, ctx.lower)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_y):
        qkv_T3Hw, weight, *saved = ctx.saved_tensors
        T, _, heads, width = qkv_T3Hw.shape
        scale = width**-0.5
        d_out = d_y if weight is None else product(d_y, weight.t(), None, ctx.lower)
        out = None if weight is None else qkv_T3Hw.new_empty(T, heads * width)
        d_qkv = torch.empty_like(qkv_T3Hw)
        d_biases = []
        for bucket, pair_bias, logsumexp, keep in zip(ctx.layout.buckets, saved[::3], saved[1::3], saved[2::3], strict=True):
            b, N = bucket.tokens.shape
            q, k, v = _gather(qkv_T3Hw, bucket)
            logits = torch.baddbmm(pair_bias.view(b * heads, N, N), q, k.transpose(1, 2), alpha=scale)
            probabilities = logits.sub_(logsumexp).exp_()
            d_o = d_out.index_select(0, bucket.tokens.reshape(-1)).view(b, N, heads, width)
            # Padded queries repeat their molecule's graph token: their part of the gradient is not asked for.
            d_o = (d_o * bucket.token_exists[:, :, None, None]).transpose(1, 2).reshape(b * heads, N, width).to(v.dtype)
            weights = _drop(probabilities, keep, ctx.dropout)
            if out is not None:
                _scatter(out, torch.bmm(weights, v), bucket)
            d_v = torch.bmm(weights.transpose(1, 2), d_o)
            d_probabilities = _drop(torch.bmm(d_o, v.transpose(1, 2)), keep, ctx.dropout)
            d_logits = softmax_backward(d_probabilities, probabilities)
            d_q, d_k = torch.bmm(d_logits, k) * scale, torch.bmm(d_logits.transpose(1, 2), q) * scale
            rows = torch.stack([d_q, d_k, d_v]).view(3, b, heads, N, width).permute(1, 3, 0, 2, 4).reshape(b * N, 3, heads, width)
            d_qkv.index_copy_(0, bucket.token_targets, rows.index_select(0, bucket.token_places).to(d_qkv.dtype))
            d_biases.append(d_logits.view(b, heads, N, N))
        if out is None:
            return d_qkv, None, None, None, None, *d_biases
        d_shift = d_y.sum(dim=0) if ctx.needs_input_grad[2] else None
        return d_qkv, product(d_y.t(), out.t(), None, ctx.lower), d_shift, None, None, *d_biases


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


def _rows(qkv_T3Hw: Tensor, bucket: Bucket) -> Tensor:
    """A bucket's (b, N, 3, H, w), float32 or wider."""
    rows = qkv_T3Hw.flatten(1).index_select(0, bucket.tokens.flatten()).view(*bucket.tokens.shape, *qkv_T3Hw.shape[1:])
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def _drop(x: Tensor, keep: Tensor | None, dropout: float) -> Tensor:
    return x if keep is None else torch.ops.aten.native_dropout_backward(x, keep, 1 / (1 - dropout))
