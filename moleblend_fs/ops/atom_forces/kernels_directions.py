"""Kernel of `atom_forces` that makes the directions which the others read, once for all heads and both passes.

Shape legend: A atoms, P atom pairs.
"""

import triton
import triton.language as tl

from moleblend_fs.ops.attention.kernel_parts import loop_end

NEAR = tl.constexpr(1e-5)
"""As in `reference`."""


@triton.jit(do_not_specialize=["tokens_ptr", "pairs_ptr", "num_pairs"])
def pair_directions(
    coordinates_ptr, direction_ptr, atom_molecule_ptr, tokens_ptr, pairs_ptr, num_pairs, STEP: tl.constexpr
):  # fmt: skip
    """coordinates r (A, 3) -> (r_j - r_i) / |r_j - r_i|, (3, P), of the pairs of an atom i."""
    i, pairs = tl.program_id(0).to(tl.int64), num_pairs.to(tl.int64)
    molecule = tl.load(atom_molecule_ptr + i)
    first_token = tl.load(tokens_ptr + molecule)
    first, n = first_token - molecule, (tl.load(tokens_ptr + molecule + 1) - first_token - 1).to(tl.int32)
    r_ptr, own_ptr = coordinates_ptr + first * 3, coordinates_ptr + i * 3
    u_ptr = direction_ptr + tl.load(pairs_ptr + molecule) + (i - first) * n
    for start in range(0, loop_end(n), STEP):
        j = start + tl.arange(0, STEP)
        x = tl.load(r_ptr + 3 * j, mask=j < n, other=0.0) - tl.load(own_ptr)
        y = tl.load(r_ptr + 3 * j + 1, mask=j < n, other=0.0) - tl.load(own_ptr + 1)
        z = tl.load(r_ptr + 3 * j + 2, mask=j < n, other=0.0) - tl.load(own_ptr + 2)
        over = 1.0 / (tl.sqrt(x * x + y * y + z * z) + NEAR)
        tl.store(u_ptr + j, x * over, mask=j < n)
        tl.store(u_ptr + pairs + j, y * over, mask=j < n)
        tl.store(u_ptr + 2 * pairs + j, z * over, mask=j < n)
