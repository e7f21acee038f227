"""The atoms' sums of Gaussians over their pairs, and the gradients that are summed by atom.

Shape legend: A atoms, a block of R of them (rows of pairs), j a neighbour's number, K Gaussians (padded to K_PAD), P pairs.
"""

import triton
import triton.language as tl

from moleblend_fs.ops import embedding_rows

INV_SQRT_2PI: tl.constexpr = tl.constexpr(0.3989422804014327)
FIRST_ELEMENT_ROW: tl.constexpr = tl.constexpr(embedding_rows.FIRST_ELEMENT_ROW)
SECOND_ELEMENT_ROW: tl.constexpr = tl.constexpr(embedding_rows.SECOND_ELEMENT_ROW)
ELEMENTS: tl.constexpr = tl.constexpr(256)
"""Values that an element's number, a byte, can take."""


@triton.jit
def load_gaussians(means, stds, k, K: tl.constexpr):
    """Mean and 1 / (|std| + 0.01) of Gaussians k; both 0 beyond the K-th, which makes their densities 0."""
    mean = tl.load(means + k, mask=k < K, other=0.0)
    inverse = tl.where(k < K, 1.0 / (tl.abs(tl.load(stds + k, mask=k < K, other=0.0)) + 0.01), 0.0)
    return mean, inverse


@triton.jit
def standardise(x, mean, inverse):
    """u = (x - mean) / s and the density exp(-u^2 / 2) / (sqrt(2 pi) s), each (x, Gaussian)."""
    u = (x[:, None] - mean[None, :]) * inverse[None, :]
    return u, tl.exp(-0.5 * u * u) * (inverse * INV_SQRT_2PI)[None, :]


@triton.jit
def load_atom(coordinates_A3, element_A, atom, mask):
    """Coordinates and element of atoms."""
    at = coordinates_A3 + atom.to(tl.int64) * 3
    x = tl.load(at, mask=mask, other=0.0)
    y = tl.load(at + 1, mask=mask, other=0.0)
    z = tl.load(at + 2, mask=mask, other=0.0)
    return x, y, z, tl.load(element_A + atom, mask=mask, other=0).to(tl.int32)


@triton.jit
def pair_distance(x, y, z, coordinates_A3, element_A, other_atom, mask):
    """Distance from (x, y, z) to other atoms, and those atoms' elements."""
    other_x, other_y, other_z, element = load_atom(coordinates_A3, element_A, other_atom, mask)
    dx, dy, dz = x - other_x, y - other_y, z - other_z
    return tl.sqrt(dx * dx + dy * dy + dz * dz), element


@triton.jit
def load_rows(atom, exists, atom_molecule, cu_atoms, cu_pairs):
    """First atom and number of atoms of the atoms' molecules, and where each atom's row of pairs starts."""
    molecule = tl.load(atom_molecule + atom, mask=exists, other=0)
    first = tl.load(cu_atoms + molecule, mask=exists, other=0).to(tl.int32)
    size = tl.load(cu_atoms + molecule + 1, mask=exists, other=0).to(tl.int32) - first
    size = tl.where(exists, size, 0)
    return first, size, tl.load(cu_pairs + molecule, mask=exists, other=0).to(tl.int32)


@triton.jit(do_not_specialize=["num_atoms"])
def sum_gaussians(
    wants_A,
    coordinates_A3,
    element_A,
    mul,
    shift,
    means,
    stds,
    atom_molecule,
    cu_atoms,
    cu_pairs,
    sums_AK,
    num_atoms,
    K: tl.constexpr,
    K_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """sums[i] = sum over the molecule's j of the Gaussians of pair (i, j), for the atoms that want them, else 0."""
    atom = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = atom < num_atoms
    wants = tl.load(wants_A + atom, mask=exists, other=0) != 0
    first, size, _pairs = load_rows(atom, wants, atom_molecule, cu_atoms, cu_pairs)
    x_i, y_i, z_i, element_i = load_atom(coordinates_A3, element_A, atom, wants)
    mul_i = tl.load(mul + element_i + FIRST_ELEMENT_ROW, mask=wants, other=0.0)
    shift_i = tl.load(shift + element_i + FIRST_ELEMENT_ROW, mask=wants, other=0.0)
    k = tl.arange(0, K_PAD)
    mean, inverse = load_gaussians(means, stds, k, K)
    sums_RK = tl.zeros([BLOCK, K_PAD], tl.float32)
    longest = tl.max(size)
    j = 0
    while j < longest:
        valid = j < size
        distance, element_j = pair_distance(x_i, y_i, z_i, coordinates_A3, element_A, first + j, valid)
        factor = mul_i + tl.load(mul + element_j + SECOND_ELEMENT_ROW, mask=valid, other=0.0)
        x = factor * distance + shift_i + tl.load(shift + element_j + SECOND_ELEMENT_ROW, mask=valid, other=0.0)
        _u, density_RK = standardise(x, mean, inverse)
        sums_RK += tl.where(valid[:, None], density_RK, 0.0)
        j += 1
    tl.store(sums_AK + atom.to(tl.int64)[:, None] * K + k[None, :], sums_RK, mask=exists[:, None] & (k < K)[None, :])


@triton.jit(do_not_specialize=["num_atoms"])
def sum_gaussians_gradients(
    d_sums_AK,
    wants_A,
    coordinates_A3,
    element_A,
    mul,
    shift,
    means,
    stds,
    atom_molecule,
    cu_atoms,
    cu_pairs,
    d_x_P,
    partial,
    num_atoms,
    K: tl.constexpr,
    K_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add the sums' gradient to that of each pair's x, and sum what the Gaussians' own gradients need.

    partial: (programs, 2, K_PAD): sums of e u and e (u^2 - 1), e being the density times its upstream gradient.
    """
    k = tl.arange(0, K_PAD)
    mean, inverse = load_gaussians(means, stds, k, K)
    first_RK = tl.zeros([BLOCK, K_PAD], tl.float32)
    second_RK = tl.zeros([BLOCK, K_PAD], tl.float32)
    tile = tl.program_id(0)
    while tile < tl.cdiv(num_atoms, BLOCK):
        atom = tile * BLOCK + tl.arange(0, BLOCK)
        exists = atom < num_atoms
        wants = tl.load(wants_A + atom, mask=exists, other=0) != 0
        first, size, pairs = load_rows(atom, wants, atom_molecule, cu_atoms, cu_pairs)
        pairs += (atom - first) * size
        x_i, y_i, z_i, element_i = load_atom(coordinates_A3, element_A, atom, wants)
        mul_i = tl.load(mul + element_i + FIRST_ELEMENT_ROW, mask=wants, other=0.0)
        shift_i = tl.load(shift + element_i + FIRST_ELEMENT_ROW, mask=wants, other=0.0)
        d_RK = tl.load(d_sums_AK + atom.to(tl.int64)[:, None] * K + k[None, :], mask=wants[:, None] & (k < K)[None, :], other=0.0)
        longest = tl.max(size)
        j = 0
        while j < longest:
            valid = j < size
            distance, element_j = pair_distance(x_i, y_i, z_i, coordinates_A3, element_A, first + j, valid)
            factor = mul_i + tl.load(mul + element_j + SECOND_ELEMENT_ROW, mask=valid, other=0.0)
            x = factor * distance + shift_i + tl.load(shift + element_j + SECOND_ELEMENT_ROW, mask=valid, other=0.0)
            u_RK, density_RK = standardise(x, mean, inverse)
            e_RK = tl.where(valid[:, None], d_RK * density_RK, 0.0)
            first_RK += e_RK * u_RK
            second_RK += e_RK * (u_RK * u_RK - 1.0)
            at = d_x_P + pairs + j
            d_x = tl.load(at, mask=valid, other=0.0) - tl.sum(e_RK * u_RK * inverse[None, :], 1)
            tl.store(at, d_x, mask=valid)
            j += 1
        tile += tl.num_programs(0)
    into = partial + tl.program_id(0) * 2 * K_PAD + k
    tl.store(into, tl.sum(first_RK, 0))
    tl.store(into + K_PAD, tl.sum(second_RK, 0))


@triton.jit(do_not_specialize=["num_atoms"])
def element_gradients(
    d_x_P,
    coordinates_A3,
    element_A,
    atom_molecule,
    cu_atoms,
    cu_pairs,
    partial,
    num_atoms,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Sum dx and dx * distance by the element of a pair's first atom, and by that of its second.

    partial: (programs, 4, 256): mul of the first, mul of the second, shift of the first, shift of the second.
    """
    number = tl.arange(0, ELEMENTS)
    mul_first = tl.zeros([ELEMENTS], tl.float32)
    mul_second = tl.zeros([ELEMENTS], tl.float32)
    shift_first = tl.zeros([ELEMENTS], tl.float32)
    shift_second = tl.zeros([ELEMENTS], tl.float32)
    tile = tl.program_id(0)
    while tile < tl.cdiv(num_atoms, BLOCK):
        atom = tile * BLOCK + tl.arange(0, BLOCK)
        exists = atom < num_atoms
        first, size, pairs = load_rows(atom, exists, atom_molecule, cu_atoms, cu_pairs)
        x_i, y_i, z_i, element = load_atom(coordinates_A3, element_A, atom, exists)
        by_row = tl.zeros([BLOCK], tl.float32)
        by_column = tl.zeros([BLOCK], tl.float32)
        by_row_distance = tl.zeros([BLOCK], tl.float32)
        by_column_distance = tl.zeros([BLOCK], tl.float32)
        longest = tl.max(size)
        begin = 0
        while begin < longest:
            j = begin + tl.arange(0, COLUMNS)[None, :]
            valid = j < size[:, None]
            distance, _ = pair_distance(x_i[:, None], y_i[:, None], z_i[:, None], coordinates_A3, element_A, first[:, None] + j, valid)
            as_row = tl.load(d_x_P + (pairs + (atom - first) * size)[:, None] + j, mask=valid, other=0.0)
            as_column = tl.load(d_x_P + (pairs + atom - first)[:, None] + j * size[:, None], mask=valid, other=0.0)
            by_row += tl.sum(as_row, 1)
            by_column += tl.sum(as_column, 1)
            by_row_distance += tl.sum(as_row * distance, 1)
            by_column_distance += tl.sum(as_column * distance, 1)
            begin += COLUMNS
        is_element = element[:, None] == number[None, :]
        mul_first += tl.sum(tl.where(is_element, by_row_distance[:, None], 0.0), 0)
        mul_second += tl.sum(tl.where(is_element, by_column_distance[:, None], 0.0), 0)
        shift_first += tl.sum(tl.where(is_element, by_row[:, None], 0.0), 0)
        shift_second += tl.sum(tl.where(is_element, by_column[:, None], 0.0), 0)
        tile += tl.num_programs(0)
    into = partial + tl.program_id(0) * 4 * ELEMENTS + number
    tl.store(into, mul_first)
    tl.store(into + ELEMENTS, mul_second)
    tl.store(into + 2 * ELEMENTS, shift_first)
    tl.store(into + 3 * ELEMENTS, shift_second)
