"""Blend, noise and targets of a batch: a program draws for a molecule, its pairs and then its atoms.

The hash is that of `objectives/common/hashed_draws.py`, to the bit. Shape legend as in the room.
"""

import triton
import triton.language as tl

from moleblend_fs.data import graph
from moleblend_fs.ops import blend
from moleblend_fs.ops.relation_bias import weights

SHOW_SPD, SHOW_EDGE, SHOW_DISTANCE = (tl.constexpr(bit) for bit in (weights.SHOW_SPD, weights.SHOW_EDGE, weights.SHOW_DISTANCE))
HOPS, UNREACHABLE = tl.constexpr(graph.MAX_HOPS), tl.constexpr(graph.UNREACHABLE)
SPD_CLASSES, EDGE_CLASSES = tl.constexpr(blend.SPD_CLASSES), tl.constexpr(blend.EDGE_CLASSES)
IGNORED, OUT_OF_RANGE = tl.constexpr(blend.IGNORED), tl.constexpr(blend.OUT_OF_RANGE)
TALLIES, EDGE_AT = tl.constexpr(blend.TALLIES), tl.constexpr(blend.EDGE_AT)
GEOMETRY_AT, NOISY_AT = tl.constexpr(blend.GEOMETRY_AT), tl.constexpr(blend.NOISY_AT)
SPD_SLOTS, EDGE_SLOTS = tl.constexpr(16), tl.constexpr(32)
"""Slots of a tally: the classes, bonds out of range after the last class of edges, and the last slot for places without a target."""
PLACE_FACTOR: tl.constexpr = tl.constexpr(0x9E3779B1)
MIX_1: tl.constexpr = tl.constexpr(0x7FEB352D)
MIX_2: tl.constexpr = tl.constexpr(0x846CA68B)


@triton.jit
def _mix(x):
    x ^= x >> 16
    x *= MIX_1
    x ^= x >> 15
    x *= MIX_2
    x ^= x >> 16
    return x


@triton.jit
def _of_molecule(key, low, high):
    """The hash's state after a molecule's number."""
    return _mix(_mix(key.to(tl.uint32) + low * PLACE_FACTOR) + high * PLACE_FACTOR)


@triton.jit
def _bits(state, place):
    """32 random bits of a place, in int64."""
    return _mix(state + place.to(tl.uint32) * PLACE_FACTOR).to(tl.int64)


@triton.jit
def _cosine(turns, full_turn):
    """cos(2 pi turns) of numbers in [0, 1), float64, as a sine between -pi/2 and pi/2: its series, whose first term left out is 1e-18.

    The library's cosine, made for any angle, needs memory of each thread.
    """
    y = (tl.abs(turns - 0.5) - 0.25) * full_turn
    square = y * y
    sine = 1.9572941063391263e-20 * square + -8.22063524662433e-18
    sine = sine * square + 2.8114572543455206e-15
    sine = sine * square + -7.647163731819816e-13
    sine = sine * square + 1.6059043836821613e-10
    sine = sine * square + -2.505210838544172e-08
    sine = sine * square + 2.7557319223985893e-06
    sine = sine * square + -0.0001984126984126984
    sine = sine * square + 0.008333333333333333
    sine = sine * square + -0.16666666666666666
    sine = sine * square + 1.0
    return y * sine


@triton.jit
def _uniform(state, place):
    """float64 in [0, 1), a multiple of 2^-32."""
    return _bits(state, place).to(tl.float64) * 2.3283064365386963e-10


@triton.jit
def _relations(state, p, size, limits):
    """Rows and columns of pairs, and the bits that they show."""
    i = p // size
    j = p - i * size
    bits = _bits(state, i * 65536 + j)
    last = tl.where(bits < tl.load(limits + 2), SHOW_DISTANCE, 0)
    shown = tl.where(bits < tl.load(limits + 1), SHOW_EDGE, last)
    return i, j, tl.where(bits < tl.load(limits), SHOW_SPD, shown)


@triton.jit(do_not_specialize=["relation_key", "atom_key", "radius_key", "angle_key"])
def blend_molecules(
    molecule_id_B,
    has_coordinates_B,
    cu_atoms,
    cu_pairs,
    spd_P,
    path_P5,
    coordinates_A3,
    edge_class,
    limits,
    numbers,
    relations_P,
    distances_A,
    noise_A3,
    shown_A3,
    spd_class_P,
    edge_P5,
    displacement_P3,
    weight_P,
    noisy_A,
    tallies_B,
    relation_key,
    atom_key,
    radius_key,
    angle_key,
    HIDDEN_ONLY: tl.constexpr,
    BLOCK: tl.constexpr,
    ATOMS: tl.constexpr,
):
    """One molecule. `limits`: see `Rules`; `numbers`: scale of the noise and 2 pi, float64; tallies (B, TALLIES)."""
    molecule = tl.program_id(0)
    first_atom = tl.load(cu_atoms + molecule)
    size = (tl.load(cu_atoms + molecule + 1) - first_atom).to(tl.int32)
    first_pair = tl.load(cu_pairs + molecule)
    number = tl.load(molecule_id_B + molecule)
    low, high = number.to(tl.uint32), (number >> 32).to(tl.uint32)
    known = tl.load(has_coordinates_B + molecule) != 0
    limits += tl.where(known, 4, 0)
    state = _of_molecule(relation_key, low, high)
    pairs = size * size

    counted = pairs - size
    if HIDDEN_ONLY:
        counted = 0
        start = 0
        while start < pairs:
            p = start + tl.arange(0, BLOCK)
            i, j, shown = _relations(state, p, size, limits)
            counted += tl.sum(((p < pairs) & (i != j) & (shown != SHOW_DISTANCE)).to(tl.int32))
            start += BLOCK
    counted = tl.where(known, counted, 0)
    weight = tl.div_rn(1.0, tl.maximum(counted, 1).to(tl.float32))

    spd_slot, edge_slot = tl.arange(0, SPD_SLOTS), tl.arange(0, EDGE_SLOTS)
    spd_tally = tl.zeros([SPD_SLOTS], tl.int32)
    edge_tally = tl.zeros([EDGE_SLOTS], tl.int32)
    start = 0
    while start < pairs:
        p = start + tl.arange(0, BLOCK)
        exists = p < pairs
        i, j, shown = _relations(state, p, size, limits)
        at = first_pair + p
        tl.store(relations_P + at, shown.to(tl.uint8), mask=exists)
        apart = exists & (i != j)
        spd = tl.load(spd_P + at, mask=exists, other=0).to(tl.int32)
        spd_counts = apart & (spd != UNREACHABLE)
        edge_counts = apart
        geometry = apart & known
        if HIDDEN_ONLY:
            spd_counts = spd_counts & (shown != SHOW_SPD)
            edge_counts = edge_counts & (shown != SHOW_EDGE)
            geometry = geometry & (shown != SHOW_DISTANCE)
        spd_class = tl.where(spd_counts, tl.minimum(tl.maximum(spd, 1), SPD_CLASSES) - 1, IGNORED)
        tl.store(spd_class_P + at, spd_class.to(tl.int8), mask=exists)
        slot = tl.where(spd_counts, spd_class, SPD_SLOTS - 1)
        spd_tally += tl.sum((slot[:, None] == spd_slot[None, :]).to(tl.int32), 0)
        for hop in tl.static_range(HOPS):
            bond = tl.load(path_P5 + at * HOPS + hop, mask=exists, other=0).to(tl.int32)
            kind = tl.where(edge_counts, tl.load(edge_class + bond).to(tl.int32), IGNORED)
            tl.store(edge_P5 + at * HOPS + hop, kind.to(tl.int8), mask=exists)
            slot = tl.where(kind >= 0, kind, tl.where(kind == OUT_OF_RANGE, EDGE_CLASSES, EDGE_SLOTS - 1))
            edge_tally += tl.sum((slot[:, None] == edge_slot[None, :]).to(tl.int32), 0)
        for axis in tl.static_range(3):
            start_point = tl.load(coordinates_A3 + (first_atom + i) * 3 + axis, mask=exists, other=0.0)
            end_point = tl.load(coordinates_A3 + (first_atom + j) * 3 + axis, mask=exists, other=0.0)
            tl.store(displacement_P3 + at * 3 + axis, end_point - start_point, mask=exists)
        tl.store(weight_P + at, tl.where(geometry, weight, 0.0), mask=exists)
        start += BLOCK
    tally = tallies_B + molecule.to(tl.int64) * TALLIES
    tl.store(tally + spd_slot, tl.where(spd_slot < SPD_CLASSES, spd_tally, 0))
    tl.store(tally + EDGE_AT + edge_slot, tl.where(edge_slot <= EDGE_CLASSES, edge_tally, 0))
    tl.store(tally + GEOMETRY_AT, (counted > 0).to(tl.int32))

    scale, full_turn = tl.load(numbers), tl.load(numbers + 1)
    atom_state = _of_molecule(atom_key, low, high)
    radius_state = _of_molecule(radius_key, low, high)
    angle_state = _of_molecule(angle_key, low, high)
    axis = tl.arange(0, 4)
    noisy_atoms = 0
    start = 0
    while start < size:
        a = start + tl.arange(0, ATOMS)
        distance = (_bits(atom_state, a) >= tl.load(limits + 3)) & known & (a < size)
        tl.store(distances_A + first_atom + a, distance.to(tl.uint8), mask=a < size)
        noisy = distance & (size > 1)
        tl.store(noisy_A + first_atom + a, noisy.to(tl.uint8), mask=a < size)
        noisy_atoms += tl.sum(noisy.to(tl.int32))
        place = a[:, None] * 4 + axis[None, :]
        radius = tl.sqrt(-2.0 * tl.log(1.0 - _uniform(radius_state, place)))
        noise = scale * (radius * _cosine(_uniform(angle_state, place), full_turn))
        noise = tl.where(known, noise.to(tl.float32), 0.0)
        at = (first_atom + a)[:, None] * 3 + axis[None, :]
        wanted = (a < size)[:, None] & (axis < 3)[None, :]
        tl.store(noise_A3 + at, noise, mask=wanted)
        tl.store(shown_A3 + at, tl.load(coordinates_A3 + at, mask=wanted, other=0.0) + noise, mask=wanted)
        start += ATOMS
    tl.store(tally + NOISY_AT, noisy_atoms)
