"""What the attention kernels share: a molecule's place, logits of a tile, and which attention weights dropout keeps.

Shape legend: T tokens, P atom pairs, H heads, w head width; i, j tokens of one molecule (0 is the graph token), N their number.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from moleblend_fs.ops.dropout_bits import COLUMN, COLUMN_FACTOR, HEAD, HEAD_FACTOR, ROW, ROW_FACTOR, mix, mix_torch
from moleblend_fs.ops.layout import Layout

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
LOG2_E = tl.constexpr(math.log2(math.e))
"""Logits are in units of ln 2, so that their exponential is the GPU's own instruction, to the base 2."""

PRESET_WIDTHS = (16, 24, 32)
"""Head widths of the shipped presets, whose kernels are compiled ahead of time."""

COUNTS = ["heads", "num_tokens", "num_pairs", "num_molecules", "blocks"]
NOT_SPECIALIZED = ["molecules_ptr", "tokens_ptr", "pairs_ptr", *COUNTS, "seed_low", "seed_high", "threshold", "bias_mode"]
"""Arguments for whose values (1, or a multiple of 16) no kernel is compiled anew: batches differ in them."""


@triton.jit
def dot(a, b, PRECISION: tl.constexpr):
    """a b with float32 sums. Triton's interpreter multiplies the bits of bfloat16 as if they were integers, hence the detour."""
    if INTERPRETED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def loop_end(count):
    """`count` as the end of a range: Triton's interpreter cannot take one from NumPy 2.4's arrays."""
    if INTERPRETED:
        return count.handle.data.item()
    return count


@triton.jit
def place(molecules_ptr, tokens_ptr, pairs_ptr, slot):
    """Of the class's molecule number `slot`: its number in the batch, its first token, its token count and its first pair."""
    molecule = tl.load(molecules_ptr + slot)
    first = tl.load(tokens_ptr + molecule)
    count = (tl.load(tokens_ptr + molecule + 1) - first).to(tl.int32)
    return molecule, first, count, tl.load(pairs_ptr + molecule)


@triton.jit
def load_bias(bias_ptr, graph_bias, i, j, count):
    """Bias of tokens i and j, times log2(e), -inf where j does not exist; `bias_ptr` is that of molecule and head."""
    inner = (i >= 1) & (i < count) & (j >= 1) & (j < count)
    bias = tl.load(bias_ptr + ((i - 1) * (count - 1) + (j - 1)), mask=inner, other=0.0)
    return tl.where(j < count, tl.where((i == 0) | (j == 0), graph_bias, bias) * LOG2_E, float("-inf"))


@triton.jit
def add_bias_gradient(d_bias_ptr, d_s, i, j, count, bias_mode):
    """Write d_s of atoms i and j (bias_mode 1), add it (2) or leave what is there (0); `d_bias_ptr` is that of molecule and head."""
    inner = (i >= 1) & (i < count) & (j >= 1) & (j < count)
    pointers = d_bias_ptr + ((i - 1) * (count - 1) + (j - 1))
    before = tl.load(pointers, mask=inner & (bias_mode == 2), other=0.0)
    tl.store(pointers, before + d_s, mask=inner & (bias_mode != 0))


@triton.jit
def keep_factor(seed_low, seed_high, head, first, i, j, threshold, keep_scale):
    """1 / (1 - p) where dropout keeps the weight of head, token i (the molecule's first is `first`) and token j, else 0.

    16 bits of a hash of (seed, head, place of i in the batch, j) are compared with `threshold` = p 2^16. Tokens i and i + 8, which a
    thread has both of in the layout of a matrix instruction's result, in rows as in columns, share a hash: the compiler computes it once.
    """
    eighth = i & 8
    head_key = mix((head + tl.zeros_like(i)).to(tl.uint32) * HEAD_FACTOR + seed_low.to(tl.uint32))
    other_key = mix(head_key ^ seed_high.to(tl.uint32))
    row = mix((first + (i - eighth)).to(tl.uint32) * ROW_FACTOR + head_key)
    bits = mix((row ^ other_key) + j.to(tl.uint32) * COLUMN_FACTOR)
    return tl.where(((bits >> (2 * eighth)) & 0xFFFF).to(tl.int32) >= threshold, keep_scale, 0.0)


def dropout_threshold(p: float) -> int:
    """What 16 random bits are compared with, so that a share p is below."""
    return min(round(p * 2**16), 2**16 - 1)


def dropout_scale(p: float) -> float:
    """1 / (1 - p) of the share that is dropped, which is p rounded to 16 bits: means are kept exactly."""
    return 1 / (1 - dropout_threshold(p) / 2**16)


def dropout_keep(seed: tuple[int, int], layout: Layout, heads: int, p: float) -> list[Tensor]:
    """Which attention weights the kernels keep, in plain torch: for every molecule a bool tensor (H, N, N).

    Args:
        seed: two signed 32-bit integers, as drawn by `draw_seed`.
    """
    low, high = (part & 0xFFFFFFFF for part in seed)
    head = torch.arange(heads, device=layout.device).view(-1, 1, 1)
    head_key = mix_torch((head * HEAD + low) & 0xFFFFFFFF)
    other_key = mix_torch(head_key ^ high)
    kept = []
    for first, atoms in zip(layout.token_starts.tolist(), layout.sizes.tolist()):
        token = torch.arange(atoms + 1, device=layout.device)
        eighth = (token & 8).view(1, -1, 1)
        row = mix_torch(((first + token.view(1, -1, 1) - eighth) * ROW + head_key) & 0xFFFFFFFF)
        bits = mix_torch(((row ^ other_key) + token.view(1, 1, -1) * COLUMN) & 0xFFFFFFFF)
        kept.append(((bits >> (2 * eighth)) & 0xFFFF) >= dropout_threshold(p))
    return kept


def draw_seed() -> tuple[int, int]:
    """Two signed 32-bit integers from torch's CPU generator, which activation checkpointing sets back for recomputation."""
    low, high = torch.randint(-(2**31), 2**31, (2,)).tolist()
    return low, high
