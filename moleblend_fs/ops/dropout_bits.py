"""Random numbers that nobody stores: a hash of a seed and of a place, in kernels and in plain torch.

The forward pass and the backward pass compute the same numbers. 32-bit counters go through the finalizer of MurmurHash3.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Odd multipliers that spread counters over 32 bits; the last two are those of MurmurHash3's finalizer.
HEAD, ROW, COLUMN = 0x9E3779B9, 0xB5297A4D, 0x27D4EB2F
HEAD_FACTOR, ROW_FACTOR, COLUMN_FACTOR = tl.constexpr(HEAD), tl.constexpr(ROW), tl.constexpr(COLUMN)
_MIX_1, _MIX_2 = 0x85EBCA6B, 0xC2B2AE35
MIX_1, MIX_2 = tl.constexpr(_MIX_1), tl.constexpr(_MIX_2)


@triton.jit
def mix(x):
    """32 bits that all depend on all bits of x (uint32)."""
    x ^= x >> 16
    x *= MIX_1
    x ^= x >> 13
    x *= MIX_2
    x ^= x >> 16
    return x


def mix_torch(x: Tensor) -> Tensor:
    """`mix` of int64 numbers below 2^32."""
    x = x ^ (x >> 16)
    x = (x * _MIX_1) & 0xFFFFFFFF
    x = x ^ (x >> 13)
    x = (x * _MIX_2) & 0xFFFFFFFF
    return x ^ (x >> 16)


@triton.jit
def row_key(seed_low, row):
    """What the numbers of a row have in common."""
    return mix(row.to(tl.uint32) * ROW_FACTOR + seed_low.to(tl.uint32))


@triton.jit
def keep_values(seed_low, seed_high, row, first, drop_below, scale, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """`scale` where dropout keeps a value, else 0, of rows (ROWS, 1) and BLOCK columns from `first` on, which is even.

    Two neighbouring columns share a hash: each compares half of its bits with `drop_below`.
    """
    pair = first // 2 + tl.arange(0, BLOCK // 2)[None, :]
    bits = mix((row_key(seed_low, row) ^ seed_high.to(tl.uint32)) + pair.to(tl.uint32) * COLUMN_FACTOR)
    halves = tl.reshape(tl.join(bits & 0xFFFF, bits >> 16), (ROWS, BLOCK))
    return tl.where(halves.to(tl.int32) >= drop_below, scale, 0.0)


@triton.jit
def keep_rows(seed_low, seed_high, row, drop_below, scale):
    """`scale` where a row is kept whole, else 0, in the shape of `row`; the hash is that of the pair of columns before the first."""
    bits = mix((row_key(seed_low, row) ^ seed_high.to(tl.uint32)) - COLUMN_FACTOR)
    return tl.where((bits & 0xFFFF).to(tl.int32) >= drop_below, scale, 0.0)


def threshold_and_scale(p: float) -> tuple[int, float]:
    """What 16 random bits are compared with, so that a share p is below, and 1 / the share that is not."""
    below = min(round(p * 2**16), 2**16 - 1)
    return below, 2**16 / (2**16 - below)


def kept_values(seed: tuple[int, int], rows: int, width: int, p: float) -> Tensor:
    """`keep_values` in plain torch: (rows, width) float64."""
    pair = torch.arange((width + 1) // 2)
    bits = mix_torch(((_row_keys(seed[0], rows) ^ (seed[1] & 0xFFFFFFFF)) + pair * COLUMN) & 0xFFFFFFFF)
    halves = torch.stack([bits & 0xFFFF, bits >> 16], dim=2).flatten(1)[:, :width]
    return _factor(halves, p)


def kept_rows(seed: tuple[int, int], rows: int, p: float) -> Tensor:
    """`keep_rows` in plain torch: (rows, 1) float64."""
    bits = mix_torch(((_row_keys(seed[0], rows) ^ (seed[1] & 0xFFFFFFFF)) - COLUMN) & 0xFFFFFFFF)
    return _factor(bits & 0xFFFF, p)


def _row_keys(low: int, rows: int) -> Tensor:
    return mix_torch((torch.arange(rows).unsqueeze(1) * ROW + (low & 0xFFFFFFFF)) & 0xFFFFFFFF)


def _factor(bits: Tensor, p: float) -> Tensor:
    below, scale = threshold_and_scale(p)
    return (bits >= below).double() * scale


def draw_seed() -> tuple[int, int]:
    """Two signed 32-bit integers from torch's CPU generator, which activation checkpointing sets back for recomputation."""
    low, high = torch.randint(-(2**31), 2**31, (2,)).tolist()
    return low, high
