"""Random numbers that nobody stores: a hash of a seed and of a place, in kernels and in plain torch.

The forward pass and the backward pass compute the same numbers. 32-bit counters go through the finalizer of MurmurHash3.
"""

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
