"""Attention of packed molecules by Triton kernels: the same as `reference`, with nothing of size N x N stored.

The bias is read by every layer and its gradient is summed over the layers in one float32 buffer, (H, P), in place: `prepare_bias`
hands out a scalar, the ticket, which every layer takes as an input. The layers' backward passes add to the buffer; autograd then
asks for the ticket's gradient, after all of them, and gets the buffer as that of the bias.

Shape legend: T tokens, P atom pairs, B molecules, H heads, w head width; see `ops.layout`.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from moleblend_fs.ops.attention.kernel_parts import draw_seed, dropout_scale, dropout_threshold
from moleblend_fs.ops.attention.kernels_long import backward_columns_long, backward_rows_long, forward_long
from moleblend_fs.ops.attention.kernels_short import backward_short, forward_short
from moleblend_fs.ops.kernel_common import cdiv, dot_precision, kernel_op, padded
from moleblend_fs.ops.layout import Layout
from moleblend_fs.patches.graph_task import backward_pass

LONGER = 0
"""Stands for all size classes beyond those that a table lists."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How the kernels of a size class are launched.

    Attributes:
        block: tokens that a program holds. step: tokens that it goes through at a time.
        heads: that it goes through one after another; 0 if it holds a block of the molecule, for one head.
        warps: of the program.
    """

    block: int
    step: int
    heads: int
    warps: int


# At PCQM4Mv2's sizes (16 tokens on average, w = 24, bfloat16) memory decides: 20 kFLOP for 7 kB per molecule and head in the
# backward pass. Small programs share a multiprocessor, so that their loads overlap: one warp and one head up to 32 tokens, where the
# instructions of such programs, simulated on one multiprocessor, take less than half as long as those of two warps and four heads
# (backward, 32 tokens) or four fifths (backward, 16; forward, 32). A warp takes 16 rows, as a matrix instruction does. Steps of 16 or
# 32 keep the tiles in registers; float32, whose products have no such instruction, needs more of them.
_HALF = {
    "forward": {16: Launch(16, 16, 1, 1), 32: Launch(32, 32, 1, 1), LONGER: Launch(64, 32, 0, 4)},
    "backward": {16: Launch(16, 16, 1, 1), 32: Launch(32, 32, 1, 1), 64: Launch(64, 16, 1, 4), LONGER: Launch(64, 16, 0, 4)},
}
_FULL = {
    "forward": {16: Launch(16, 16, 1, 1), 32: Launch(32, 32, 2, 2), LONGER: Launch(64, 16, 0, 8)},
    "backward": {16: Launch(16, 16, 1, 1), 32: Launch(32, 16, 2, 2), 64: Launch(64, 16, 1, 8), LONGER: Launch(32, 16, 0, 4)},
}
_TF32_BACKWARD = {32: Launch(32, 32, 1, 2), 64: Launch(64, 16, 1, 4), LONGER: Launch(64, 16, 0, 4)}
_TF32 = {**_FULL, "backward": {**_FULL["backward"], **_TF32_BACKWARD}}


def launches(dtype: torch.dtype, products: str) -> dict[str, dict[int, Launch]]:
    """Pass -> tokens of the size class -> launch.

    Args:
        products: what `dot_precision` says.
    """
    return _TF32 if products == "tf32" else _FULL if dtype == torch.float32 else _HALF


@dataclass(slots=True)
class _Shared:
    """The buffers that the layers of one forward pass share in one backward pass (`task`): d_bias (H, P) and d_graph (H, B)."""

    task: int = -1
    d_bias_HP: Tensor | None = None
    d_graph_HB: Tensor | None = None


@dataclass(frozen=True, slots=True)
class PackedBias:
    """The bias of one forward pass, for all layers.

    Attributes:
        bias_HP: (H, P) float32, contiguous. graph_bias_H: (H,) float32, of all pairs with the graph token.
        ticket: scalar that stands for both in autograd. shared: the buffers of their gradients.
    """

    bias_HP: Tensor
    graph_bias_H: Tensor
    ticket: Tensor
    shared: _Shared


class _Gate(torch.autograd.Function):
    """(bias, graph bias) -> ticket. Its backward pass runs after those of all users of the ticket and returns what they summed."""

    @staticmethod
    def forward(ctx, bias_PH, graph_bias_H, shared):
        ctx.shared, ctx.dtypes = shared, (bias_PH.dtype, graph_bias_H.dtype)
        ctx.set_materialize_grads(False)  # the layers give none
        return bias_PH.new_zeros((), dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_ticket):
        shared: _Shared = ctx.shared
        d_bias_HP, d_graph_HB = shared.d_bias_HP, shared.d_graph_HB
        shared.d_bias_HP = shared.d_graph_HB = None
        if d_bias_HP is None or d_graph_HB is None:
            return None, None, None
        d_bias = d_bias_HP.t().to(ctx.dtypes[0]) if ctx.needs_input_grad[0] else None
        return d_bias, d_graph_HB.sum(dim=1).to(ctx.dtypes[1]) if ctx.needs_input_grad[1] else None, None


def prepare_bias(bias_PH: Tensor, graph_bias_H: Tensor, layout: Layout) -> PackedBias:
    """The packed bias for the kernels, once per forward pass.

    Args:
        bias_PH: (P, H) bias of atom pairs; a view of a contiguous (H, P) float32 tensor is read where it is.
        graph_bias_H: (H,) bias of every pair with the graph token on either side.
    """
    shared = _Shared()
    ticket = _Gate.apply(bias_PH, graph_bias_H, shared)
    bias_HP = bias_PH.detach().t().to(torch.float32).contiguous()
    return PackedBias(bias_HP, graph_bias_H.detach().to(torch.float32).contiguous(), ticket, shared)


def _launches(layout: Layout) -> tuple[list[Tensor], list[int]]:
    """Molecules and capacity of every launch."""
    classes = layout.size_classes
    return [c.molecules for c in classes], [c.capacity for c in classes]


def _launch(direction: str, capacity: int, dtype: torch.dtype) -> Launch:
    table = launches(dtype, dot_precision(dtype))[direction]
    return table.get(capacity, table[LONGER])


def constants_of(kernel: Any, launch: Launch, dtype: torch.dtype, width: int) -> dict[str, Any]:
    return _constants(tuple(kernel.arg_names), launch, width, dot_precision(dtype))


@functools.cache
def _constants(names: tuple[str, ...], launch: Launch, width: int, precision: str) -> dict[str, Any]:
    """Those that a kernel has arguments for."""
    values = {
        "W": width,
        "BLOCK": launch.block,
        "BLOCK_W": padded(width),
        "HEADS": launch.heads,
        "STEP": launch.step,
        "PRECISION": precision,
    }
    return {name: value for name, value in values.items() if name in names}


def _run(kernel: Any, launch: Launch, qkv: Tensor, programs: int, *arguments: Any) -> None:
    width = qkv.shape[3]
    kernel[(programs,)](*arguments, **constants_of(kernel, launch, qkv.dtype, width), num_warps=launch.warps, num_stages=1)


@kernel_op("moleblend::attention_forward")
def attention_forward(
    qkv: Tensor,
    bias: Tensor,
    graph_bias: Tensor,
    tokens: Tensor,
    pairs: Tensor,
    molecules: Sequence[Tensor],
    capacities: Sequence[int],
    dropout: float,
    seed_low: int,
    seed_high: int,
) -> tuple[Tensor, Tensor]:
    """out (T, H w), and for the backward pass log2 of the sum of each row's exponentials, (H, T) float32; one launch per size class."""
    T, _, heads, width = qkv.shape
    out = qkv.new_empty(T, heads * width)
    logsumexp = qkv.new_empty(heads, T, dtype=torch.float32)
    random = (seed_low, seed_high, dropout_threshold(dropout), dropout_scale(dropout))
    for members, capacity in zip(molecules, capacities, strict=True):
        launch = _launch("forward", capacity, qkv.dtype)
        data = (qkv, bias, graph_bias, out, logsumexp, members, tokens, pairs, heads, T, bias.shape[1])
        if launch.heads:
            programs = len(members) * cdiv(heads, launch.heads)
            _run(forward_short, launch, qkv, programs, *data, width**-0.5, *random)
        else:
            blocks = capacity // launch.block
            _run(forward_long, launch, qkv, len(members) * heads * blocks, *data, blocks, width**-0.5, *random)
    return out, logsumexp


@attention_forward.register_fake
def _(qkv, bias, graph_bias, tokens, pairs, molecules, capacities, dropout, seed_low, seed_high):
    T, _, heads, width = qkv.shape
    return qkv.new_empty(T, heads * width), qkv.new_empty(heads, T, dtype=torch.float32)


@kernel_op("moleblend::attention_backward", mutates_args=("d_bias", "d_graph"))
def attention_backward(
    d_out: Tensor,
    out: Tensor,
    qkv: Tensor,
    logsumexp: Tensor,
    bias: Tensor,
    graph_bias: Tensor,
    d_bias: Tensor,
    d_graph: Tensor,
    tokens: Tensor,
    pairs: Tensor,
    molecules: Sequence[Tensor],
    capacities: Sequence[int],
    dropout: float,
    seed_low: int,
    seed_high: int,
    bias_mode: int,
) -> Tensor:
    """d_qkv (T, 3, H, w); d_bias (H, P) and d_graph (H, B) are left alone (bias_mode 0), written (1) or added to (2)."""
    T, _, heads, width = qkv.shape
    d_qkv = torch.empty_like(qkv)
    random = (seed_low, seed_high, dropout_threshold(dropout), dropout_scale(dropout))
    for members, capacity in zip(molecules, capacities, strict=True):
        launch = _launch("backward", capacity, qkv.dtype)
        where = (members, tokens, pairs, heads, T, bias.shape[1], len(tokens) - 1)
        given = (qkv, logsumexp, bias, graph_bias, d_qkv)
        if launch.heads:
            programs = len(members) * cdiv(heads, launch.heads)
            _run(backward_short, launch, qkv, programs, d_out, *given, d_bias, d_graph, *where, width**-0.5, *random, bias_mode)
        else:
            blocks = capacity // launch.block
            programs, rest = len(members) * heads * blocks, (*where, blocks, width**-0.5, *random, bias_mode)
            _run(backward_rows_long, launch, qkv, programs, d_out, out, *given, d_bias, d_graph, *rest)
            _run(backward_columns_long, launch, qkv, programs, d_out, out, *given, d_graph, *rest)
    return d_qkv


@attention_backward.register_fake
def _(
    d_out, out, qkv, logsumexp, bias, graph_bias, d_bias, d_graph, tokens, pairs, molecules, capacities, dropout, seed_low, seed_high, mode
):
    return torch.empty_like(qkv)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv_T3Hw, ticket, bias_HP, graph_bias_H, shared, layout, dropout, seed):
        molecules, capacities = _launches(layout)
        given = (layout.cu_tokens, layout.cu_pairs, molecules, capacities, dropout, *seed)
        out, logsumexp = attention_forward(qkv_T3Hw, bias_HP, graph_bias_H, *given)
        ctx.save_for_backward(qkv_T3Hw, out, logsumexp, bias_HP, graph_bias_H)
        ctx.shared, ctx.layout, ctx.dropout, ctx.seed = shared, layout, dropout, seed
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        qkv_T3Hw, out, logsumexp, bias_HP, graph_bias_H = ctx.saved_tensors
        shared, layout, mode = ctx.shared, ctx.layout, 0
        if ctx.needs_input_grad[1]:
            task = backward_pass()
            mode = 2
            if shared.d_bias_HP is None or shared.task != task:  # what a backward pass left that did not ask for the bias is void
                shared.task, mode = task, 1
                shared.d_bias_HP = torch.empty_like(bias_HP)
                shared.d_graph_HB = bias_HP.new_empty(len(bias_HP), layout.num_molecules)
            d_bias, d_graph = shared.d_bias_HP, shared.d_graph_HB
        else:
            d_bias, d_graph = logsumexp.new_empty(1, 1), logsumexp.new_empty(1, 1)  # mode 0 leaves them alone
        molecules, capacities = _launches(layout)
        given = (layout.cu_tokens, layout.cu_pairs, molecules, capacities, ctx.dropout, *ctx.seed, mode)
        d_qkv = attention_backward(d_out.contiguous(), out, qkv_T3Hw, logsumexp, bias_HP, graph_bias_H, d_bias, d_graph, *given)
        return d_qkv, *(None,) * 7


def attention(qkv_T3Hw: Tensor, packed: PackedBias, layout: Layout, dropout: float) -> Tensor:
    """Attention output, (T, H w), in the dtype of qkv.

    Args:
        qkv_T3Hw: (T, 3, H, w) queries, keys and values.
        packed: `prepare_bias` of this batch.
        dropout: probability of dropping an attention weight; 0 in evaluation.
    """
    return apply_attention(qkv_T3Hw, packed, layout, dropout, draw_seed() if dropout > 0 else (0, 0))


def apply_attention(qkv_T3Hw: Tensor, packed: PackedBias, layout: Layout, dropout: float, seed: tuple[int, int]) -> Tensor:
    bias = (packed.ticket, packed.bias_HP, packed.graph_bias_H, packed.shared)
    return _Attention.apply(qkv_T3Hw.contiguous(), *bias, layout, dropout, seed)
