"""Attention of packed molecules with a bias for every pair of atoms.

    softmax(q_i . k_j / sqrt(w) + bias_ij) v_j over the tokens j of i's molecule (paper, Eq. 4), softmax in float32 or wider;
    pairs that have the graph token on either side get the graph-token bias instead.

Files go by how much of a molecule a program of the kernels holds, both passes in each:

    kernels_short.py  a whole molecule: `forward_short` (up to 32 tokens) and `backward_short` (up to 64)
    kernels_long.py   a block of a larger one: `forward_long`, `backward_rows_long` (d_q, d_bias), `backward_columns_long` (d_k, d_v)
    kernel_parts.py   what both call: places, logits of a tile, dropout
    launch.py         which kernel a molecule's size gets, with which blocks and warps, and autograd around both passes
    reference.py      the same in plain torch

Shape legend: T tokens, H heads, w head width, P atom pairs; see `ops.layout`.
"""

from typing import Any

import torch
from torch import Tensor

from moleblend_fs.ops.attention.reference import AttentionLinear, bucket_bias, fused_attention
from moleblend_fs.ops.dispatch import uses_triton
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import Linear, Product, linear

__all__ = ["attention", "attention_linear", "bucket_bias", "prepare_bias"]


def prepare_bias(bias_PH: Tensor, graph_bias_H: Tensor, layout: Layout, width: int | None = None) -> Any:
    """The bias of a forward pass in the form that its implementation reads in every layer: for `attention`, nothing else.

    Args:
        bias_PH: of pairs of atoms.
        graph_bias_H: of all pairs that have the graph token on either side, in the type of queries and keys.
        width: of a head; the kernels are checked for it before they run.
    """
    shape = None if width is None else (bias_PH.shape[1], width)
    if uses_triton("attention", bias_PH.device, graph_bias_H.dtype, shape):
        from moleblend_fs.ops.attention import launch

        return launch.prepare_bias(bias_PH, graph_bias_H, layout)
    return bucket_bias(bias_PH, graph_bias_H, layout)


def attention(qkv_T3Hw: Tensor, bias: Any, layout: Layout, dropout: float) -> Tensor:
    """Attention output, (T, H w).

    Args:
        qkv_T3Hw: (T, 3, H, w) queries, keys and values.
        bias: `prepare_bias` of this batch.
        dropout: probability of dropping an attention weight; 0 in evaluation.
    """
    if isinstance(bias, list):
        return AttentionLinear.apply(qkv_T3Hw, None, None, layout, dropout, *bias)
    from moleblend_fs.ops.attention import launch

    return launch.attention(qkv_T3Hw, bias, layout, dropout)


def attention_linear(qkv_T3Hw: Tensor, bias: Any, layout: Layout, dropout: float, layer: Linear | Product) -> Tensor:
    """`layer` of the attention output, (T, d). The reference does not keep the attention output for the backward pass; the
    kernels do, whose own backward pass reads it. In inference mode the reference leaves the work to torch's fused attention."""
    if isinstance(bias, list) and torch.is_inference_mode_enabled() and not dropout:
        return linear(fused_attention(qkv_T3Hw, bias, layout), layer.weight, layer.bias)
    if isinstance(bias, list):
        return AttentionLinear.apply(qkv_T3Hw, layer.weight, layer.bias, layout, dropout, *bias)
    return linear(attention(qkv_T3Hw, bias, layout, dropout), layer.weight, layer.bias)
