"""The attention kernels against plain torch, on the device where they are to run.

Shape legend: T tokens, P atom pairs, H heads, w head width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from moleblend_fs.ops.attention.kernel_parts import dropout_keep, dropout_scale
from moleblend_fs.ops.attention.launch import apply_attention, prepare_bias
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.selftest_tolerance import compare, tolerance_of


def dense_attention(
    qkv_T3Hw: Tensor, bias_PH: Tensor, graph_bias_H: Tensor, layout: Layout, keep: Sequence[Tensor] | None = None, dropout: float = 0.0
) -> Tensor:
    """What the kernels compute, one molecule at a time in plain torch, to test them: (T, H w).

    Args:
        keep: `dropout_keep`; None keeps all weights.
    """
    heads, width = qkv_T3Hw.shape[2:]
    outputs = []
    for number, n in enumerate(layout.sizes.tolist()):
        token, pair = int(layout.token_starts[number]), int(layout.pair_starts[number])
        q, k, v = qkv_T3Hw[token : token + n + 1].permute(1, 2, 0, 3).unbind(0)
        inner = bias_PH[pair : pair + n * n].view(n, n, heads).permute(2, 0, 1)
        graph = graph_bias_H.view(heads, 1, 1)
        bias = torch.cat([graph.expand(-1, 1, n + 1), torch.cat([graph.expand(-1, n, 1), inner], dim=2)], dim=1)
        weights = torch.softmax(q @ k.transpose(1, 2) * width**-0.5 + bias, dim=2)
        if keep is not None:
            weights = weights * keep[number] * dropout_scale(dropout)
        outputs.append((weights @ v).transpose(0, 1).reshape(n + 1, heads * width))
    return torch.cat(outputs)


def self_test(device: torch.device, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] | None = None) -> None:
    """Compare the kernels with `dense_attention` on a device, with dropout, on molecules of all size classes.

    Args:
        dtype: of queries, keys and values; the bias is float32.
        shape: heads and their width.

    Raises:
        OtherNumbers: output or a gradient is off by more than rounding can explain, with the figures.
    """
    random = torch.Generator().manual_seed(0)
    layout = Layout(torch.tensor([1, 9, 22, 40, 70]), device)
    (heads, width), dropout, seed = shape or (3, 24), 0.2, (12345, -678)
    shapes = ((layout.num_tokens, 3, heads, width), (layout.num_pairs, heads), (heads,), (layout.num_tokens, heads * width))
    with torch.enable_grad():
        qkv, bias, graph, upstream = (torch.randn(size, generator=random).to(device) for size in shapes)
        given = [qkv.to(dtype).requires_grad_(), bias.requires_grad_(), graph.to(dtype).requires_grad_()]
        upstream = upstream.to(dtype)
        ours = apply_attention(given[0], prepare_bias(given[1], given[2], layout), layout, dropout, seed)
        exact = [x.detach().double().requires_grad_() for x in given]
        theirs = dense_attention(exact[0], exact[1], exact[2], layout, dropout_keep(seed, layout, heads, dropout), dropout)
        ours_d = torch.autograd.grad(ours, given, upstream)
        theirs_d = torch.autograd.grad(theirs, exact, upstream.double())
    names = ("output", "d qkv", "d bias", "d graph bias")
    what = f"attention kernels on {device} in {dtype}, {heads} heads of {width}"
    compare(what, names, (ours, *ours_d), (theirs, *theirs_d), tolerance_of(dtype))
