"""The looked-up part of the relation bias (SPD and edge), the list of pairs that show a distance, and the tables' gradients.

Shape legend: P pairs, H heads (padded to H_PAD), M the pairs that show a distance, in the order of P.
"""

import triton
import triton.language as tl

from moleblend_fs.data import graph
from moleblend_fs.ops import embedding_rows
from moleblend_fs.ops.relation_bias import weights
from moleblend_fs.ops.relation_bias.kernels_atoms import FIRST_ELEMENT_ROW, SECOND_ELEMENT_ROW, load_atom, pair_distance

SHOW_SPD: tl.constexpr = tl.constexpr(weights.SHOW_SPD)
SHOW_EDGE: tl.constexpr = tl.constexpr(weights.SHOW_EDGE)
SHOW_DISTANCE: tl.constexpr = tl.constexpr(weights.SHOW_DISTANCE)
HOPS: tl.constexpr = tl.constexpr(graph.MAX_HOPS)
UNREACHABLE: tl.constexpr = tl.constexpr(graph.UNREACHABLE)
UNREACHABLE_ROW: tl.constexpr = tl.constexpr(embedding_rows.UNREACHABLE_ROW)
SPD_ROWS: tl.constexpr = tl.constexpr(embedding_rows.TABLE_ROWS)
SPD_FIRST_ROW: tl.constexpr = tl.constexpr(embedding_rows.SPD_FIRST_ROW)
GROUP: tl.constexpr = tl.constexpr(64)
"""Rows of a table whose gradients one program sums."""
SPD_GROUPS: tl.constexpr = tl.constexpr(4)


@triton.jit(do_not_specialize=["num_pairs"])
def look_up(
    shown_P,
    spd_P,
    path_P5,
    spd_table_HR,
    hop_table_HC,
    bias_HP,
    counts,
    num_pairs,
    H: tl.constexpr,
    CLASSES: tl.constexpr,
    H_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the SPD and edge part of the bias, 0 where neither is shown, and count the block's pairs that show a distance.

    The tables come with the heads first: lanes of a warp handle consecutive pairs, whose rows then lie in few cache lines.
    """
    p = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = p < num_pairs
    shown = tl.load(shown_P + p, mask=exists, other=0)
    tl.store(counts + tl.program_id(0), tl.sum(((shown & SHOW_DISTANCE) != 0).to(tl.int32)))
    spd = tl.load(spd_P + p, mask=exists, other=0).to(tl.int32)
    h = tl.arange(0, H_PAD)[:, None]
    has_spd = ((shown & SHOW_SPD) != 0)[None, :] & (h < H)
    row = tl.where(spd == UNREACHABLE, UNREACHABLE_ROW, spd + SPD_FIRST_ROW)
    bias_HB = tl.load(spd_table_HR + h * SPD_ROWS + row[None, :], mask=has_spd, other=0.0)
    has_edge = (shown & SHOW_EDGE) != 0
    hops_HB = tl.zeros([H_PAD, BLOCK], tl.float32)
    for hop in tl.static_range(HOPS):
        bond = tl.load(path_P5 + p.to(tl.int64) * HOPS + hop, mask=has_edge, other=0).to(tl.int32)
        hops_HB += tl.load(hop_table_HC + (h * HOPS + hop) * CLASSES + bond[None, :], mask=has_edge[None, :] & (h < H), other=0.0)
    length = tl.minimum(tl.maximum(spd, 1), HOPS).to(tl.float32)
    bias_HB += hops_HB / length[None, :]
    tl.store(bias_HP + h.to(tl.int64) * num_pairs + p[None, :], bias_HB, mask=exists[None, :] & (h < H))


@triton.jit(do_not_specialize=["num_pairs", "num_molecules", "search_steps"])
def list_distances(
    shown_P,
    counts,
    ends,
    coordinates_A3,
    element_A,
    mul,
    shift,
    cu_atoms,
    cu_pairs,
    pair_M,
    x_M,
    num_pairs,
    num_molecules,
    search_steps,
    BLOCK: tl.constexpr,
):
    """Write the pairs that show a distance, and their x = mul |r_i - r_j| + shift, without gaps and in order."""
    p = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    shows = (tl.load(shown_P + p, mask=p < num_pairs, other=0) & SHOW_DISTANCE) != 0
    place = tl.load(ends + tl.program_id(0)) - tl.load(counts + tl.program_id(0)) + tl.cumsum(shows.to(tl.int32), 0) - 1
    # Bisection: cu_pairs[molecule] <= p < cu_pairs[after].
    molecule = tl.zeros([BLOCK], tl.int32)
    after = molecule + num_molecules
    step = 0
    while step < search_steps:
        middle = (molecule + after) // 2
        right = tl.load(cu_pairs + middle, mask=shows, other=0) <= p
        molecule = tl.where(right, middle, molecule)
        after = tl.where(right, after, middle)
        step += 1
    start = tl.load(cu_atoms + molecule, mask=shows, other=0).to(tl.int32)
    size = tl.load(cu_atoms + molecule + 1, mask=shows, other=1).to(tl.int32) - start
    number = p - tl.load(cu_pairs + molecule, mask=shows, other=0).to(tl.int32)
    size = tl.where(shows, size, 1)
    row, column = start + number // size, start + number % size
    x_i, y_i, z_i, element_i = load_atom(coordinates_A3, element_A, row, shows)
    distance, element_j = pair_distance(x_i, y_i, z_i, coordinates_A3, element_A, column, shows)
    factor = tl.load(mul + element_i + FIRST_ELEMENT_ROW, mask=shows, other=0.0) + tl.load(
        mul + element_j + SECOND_ELEMENT_ROW, mask=shows, other=0.0
    )
    offset = tl.load(shift + element_i + FIRST_ELEMENT_ROW, mask=shows, other=0.0) + tl.load(
        shift + element_j + SECOND_ELEMENT_ROW, mask=shows, other=0.0
    )
    tl.store(pair_M + place, p, mask=shows)
    tl.store(x_M + place, factor * distance + offset, mask=shows)


@triton.jit(do_not_specialize=["num_pairs"])
def table_gradients(
    d_bias_HP,
    shown_P,
    spd_P,
    path_P5,
    partial,
    num_pairs,
    H: tl.constexpr,
    H_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Partial sums of the gradients of 64 table rows: groups 0-3 hold spd 64 g to 64 g + 63, group 4 + k the bond classes of hop k.

    Sums over pairs are products with 0/1 matrices, whose order is fixed; a row that no pair of a block has costs nothing.
    partial: (programs, 9, H_PAD, 64).
    """
    group = tl.program_id(0)
    h = tl.arange(0, H_PAD)[:, None]
    total_HG = tl.zeros([H_PAD, GROUP], tl.float32)
    tile = tl.program_id(1)
    while tile < tl.cdiv(num_pairs, BLOCK):
        p = tile * BLOCK + tl.arange(0, BLOCK)
        shown = tl.load(shown_P + p, mask=p < num_pairs, other=0)
        is_spd = group < SPD_GROUPS
        wanted = (shown & tl.where(is_spd, SHOW_SPD, SHOW_EDGE)) != 0
        spd = tl.load(spd_P + p, mask=wanted, other=0).to(tl.int32)
        hop = tl.maximum(group - SPD_GROUPS, 0)
        bond = tl.load(path_P5 + p.to(tl.int64) * HOPS + hop, mask=wanted & (group >= SPD_GROUPS), other=0).to(tl.int32)
        row = tl.where(is_spd, spd - group * GROUP, bond)
        wanted = wanted & (row >= 0) & (row < GROUP)
        if tl.max(wanted.to(tl.int32)) > 0:
            length = tl.minimum(tl.maximum(spd, 1), HOPS).to(tl.float32)
            d_HB = tl.load(d_bias_HP + h.to(tl.int64) * num_pairs + p[None, :], mask=wanted[None, :] & (h < H), other=0.0)
            d_HB = d_HB / tl.where(is_spd, 1.0, length)[None, :]
            has_row_BG = (row[:, None] == tl.arange(0, GROUP)[None, :]).to(tl.float32)
            total_HG = tl.dot(d_HB, has_row_BG, total_HG, input_precision=PRECISION)
        tile += tl.num_programs(1)
    into = (tl.program_id(1) * tl.num_programs(0) + group) * H_PAD * GROUP
    tl.store(partial + into + h * GROUP + tl.arange(0, GROUP)[None, :], total_HG)
