"""The pair losses and their gradients on the GPU, one tile of 16 x 16 pairs at a time.

A program takes GROUP tiles together, one to a warp, whichever molecules they belong to. For each output c it forms
U = L W_c and z = U R^T + b_c; a first round over the outputs gathers what the loss needs of all of them, a second forms
dz and with it dU = dz R, dR += dz^T U, dL += dU W_c^T, dW_c += L^T dU. dL and dR are kept for each tile and dW, db
for each program; they are added up afterwards in a fixed order, so that results are the same bits at each run.
Shape legend: G tiles of a group, I and J atoms of a tile's rows and columns (16 each), M pair width padded to a power of two.
"""

import triton
import triton.language as tl

TILE = tl.constexpr(16)
"""Atoms on each side of a tile: the smallest matrix product has 16 rows, and molecules have 15 atoms on average."""
TILE_FIELDS = tl.constexpr(5)
"""Numbers that describe a tile: the molecule's first atom, its size, the tile's first row and column, the molecule's first pair."""
STRIP_FIELDS = tl.constexpr(5)
"""Numbers that describe 16 atoms: the first one, how many exist, the molecule's first tile, its tiles in a row, this strip's number."""
COSINE_EPS = tl.constexpr(1e-8)
"""Least norm, as in torch's cosine_similarity."""
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def _product(a, b, total, PRECISION: tl.constexpr):
    """total + a b in float32. Triton's interpreter multiplies the bits of bfloat16 as if they were integers, hence the detour."""
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def _load_tiles(left, right, tiles, first, num_tiles, WIDTH: tl.constexpr, M: tl.constexpr, GROUP: tl.constexpr):
    """A group's sides (GI, M) and (G, J, M), its pairs' places in P and which pairs exist, (G, I, J)."""
    step, wide = tl.arange(0, TILE), tl.arange(0, M)
    tile = first + tl.arange(0, GROUP)
    exists = tile < num_tiles
    fields = tiles + tile * TILE_FIELDS
    atom = tl.load(fields, mask=exists, other=0)
    size = tl.load(fields + 1, mask=exists, other=0)
    row = tl.load(fields + 2, mask=exists, other=0)[:, None] + step[None, :]
    column = tl.load(fields + 3, mask=exists, other=0)[:, None] + step[None, :]
    pair = tl.load(fields + 4, mask=exists, other=0)
    in_row, in_column, in_width = row < size[:, None], column < size[:, None], (wide < WIDTH)[None, None, :]
    left_place = (atom[:, None] + row)[:, :, None] * WIDTH + wide[None, None, :]
    right_place = (atom[:, None] + column)[:, :, None] * WIDTH + wide[None, None, :]
    left_GIM = tl.load(left + left_place, mask=in_row[:, :, None] & in_width, other=0.0)
    right_GJM = tl.load(right + right_place, mask=in_column[:, :, None] & in_width, other=0.0)
    place_GIJ = pair[:, None, None] + row[:, :, None] * size[:, None, None] + column[:, None, :]
    return tl.reshape(left_GIM, (GROUP * TILE, M)), right_GJM, place_GIJ, in_row[:, :, None] & in_column[:, None, :]


@triton.jit
def _load_form(weight, output, WIDTH: tl.constexpr, M: tl.constexpr):
    """W_c, (M, M)."""
    wide = tl.arange(0, M)
    inside = (wide[:, None] < WIDTH) & (wide[None, :] < WIDTH)
    return tl.load(weight + output * WIDTH * WIDTH + wide[:, None] * WIDTH + wide[None, :], mask=inside, other=0.0)


@triton.jit
def _project(left_GIxM, right_GMJ, form_MM, bias, output, GROUP: tl.constexpr, M: tl.constexpr, PRECISION: tl.constexpr):
    """z, (G, I, J) float32, and U = L W_c, (G, I, M), rounded to the inputs' type."""
    u = _product(left_GIxM, form_MM, None, PRECISION).to(left_GIxM.dtype)
    u_GIM = tl.reshape(u, (GROUP, TILE, M))
    return _product(u_GIM, right_GMJ, None, PRECISION) + tl.load(bias + output).to(tl.float32), u_GIM


@triton.jit
def _load_sums(d_weight, d_bias, place, M: tl.constexpr, GROUP: tl.constexpr):
    """What this program has of an output's dW (M, M) and db (G,) so far. Asked for early: it comes from the L2 cache at best."""
    wide = tl.arange(0, M)
    form = tl.load(d_weight + place * M * M + wide[:, None] * M + wide[None, :])
    return form, tl.load(d_bias + place * GROUP + tl.arange(0, GROUP))


@triton.jit
def _accumulate(
    dz_GIJ, u_GIM, left_GIxM, right_GJM, form_MM, d_left, d_right, d_form, d_constant, d_weight, d_bias, place,
    GROUP: tl.constexpr, M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add one output's share to all gradients; `place` is program * outputs + output."""
    wide = tl.arange(0, M)
    tl.store(d_bias + place * GROUP + tl.arange(0, GROUP), d_constant + tl.sum(tl.sum(dz_GIJ, 2), 1))
    dz = dz_GIJ.to(right_GJM.dtype)
    du = tl.reshape(_product(dz, right_GJM, None, PRECISION).to(right_GJM.dtype), (GROUP * TILE, M))
    d_right = _product(tl.permute(dz, (0, 2, 1)), u_GIM, d_right, PRECISION)
    d_left = _product(du, tl.trans(form_MM), d_left, PRECISION)
    d_form = _product(tl.trans(left_GIxM), du, d_form, PRECISION)
    tl.store(d_weight + place * M * M + wide[:, None] * M + wide[None, :], d_form)
    return d_left, d_right


@triton.jit
def _store_sides(d_sides, d_left, d_right, first, num_tiles, M: tl.constexpr, GROUP: tl.constexpr):
    """A group's dL and dR, to be added up by `add_tiles`."""
    tile = first + tl.arange(0, GROUP)[:, None, None]
    place = (tile * 2 * TILE + tl.arange(0, TILE)[None, :, None]) * M + tl.arange(0, M)[None, None, :]
    tl.store(d_sides + place, tl.reshape(d_left, (GROUP, TILE, M)), mask=tile < num_tiles)
    tl.store(d_sides + place + TILE * M, d_right, mask=tile < num_tiles)
    # The next group reads what other threads of this program have stored in dW.
    tl.debug_barrier()


@triton.jit(do_not_specialize=["num_tiles"])
def cross_entropy(
    left, right, weight, bias, target, tiles, loss, d_sides, d_weight, d_bias, num_tiles,
    HOPS: tl.constexpr, CLASSES: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, GROUP: tl.constexpr,
    PRECISION: tl.constexpr, WITH_GRAD: tl.constexpr,
):  # fmt: skip
    """Cross-entropy of HOPS classifications per pair; each program's losses go to loss (programs, G)."""
    first = tl.program_id(0) * GROUP
    loss_G = tl.zeros((GROUP,), tl.float32)
    while first < num_tiles:
        l, r, place, exists = _load_tiles(left, right, tiles, first, num_tiles, WIDTH, M, GROUP)
        r_t = tl.permute(r, (0, 2, 1))
        d_left, d_right = tl.zeros((GROUP * TILE, M), tl.float32), tl.zeros((GROUP, TILE, M), tl.float32)
        for hop in range(HOPS):
            t = tl.load(target + place * HOPS + hop, mask=exists, other=-1).to(tl.int32)
            top = tl.full((GROUP, TILE, TILE), float("-inf"), tl.float32)
            total, at_target = tl.zeros((GROUP, TILE, TILE), tl.float32), tl.zeros((GROUP, TILE, TILE), tl.float32)
            for c in range(CLASSES):
                output = hop * CLASSES + c
                z, _ = _project(l, r_t, _load_form(weight, output, WIDTH, M), bias, output, GROUP, M, PRECISION)
                e = tl.exp(-tl.abs(z - top))
                total = tl.where(z > top, total * e + 1.0, total + e)
                top = tl.maximum(top, z)
                at_target = tl.where(t == c, z, at_target)
            log_total = top + tl.log(total)
            loss_G += tl.sum(tl.sum(tl.where(t >= 0, log_total - at_target, 0.0), 2), 1)
            if WITH_GRAD:
                for c in range(CLASSES):
                    output = hop * CLASSES + c
                    d_place = tl.program_id(0) * HOPS * CLASSES + output
                    form = _load_form(weight, output, WIDTH, M)
                    d_form, d_constant = _load_sums(d_weight, d_bias, d_place, M, GROUP)
                    z, u = _project(l, r_t, form, bias, output, GROUP, M, PRECISION)
                    dz = tl.where(t >= 0, tl.exp(z - log_total) - tl.where(t == c, 1.0, 0.0), 0.0)
                    d_left, d_right = _accumulate(
                        dz, u, l, r, form, d_left, d_right, d_form, d_constant, d_weight, d_bias, d_place, GROUP, M, PRECISION
                    )  # fmt: skip
        if WITH_GRAD:
            _store_sides(d_sides, d_left, d_right, first, num_tiles, M, GROUP)
        first += tl.num_programs(0) * GROUP
    tl.store(loss + tl.program_id(0) * GROUP + tl.arange(0, GROUP), loss_G)


@triton.jit(do_not_specialize=["num_tiles"])
def geometry(
    left, right, weight, bias, target, place_weight, tiles, loss, d_sides, d_weight, d_bias, num_tiles,
    OUTPUTS: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, GROUP: tl.constexpr,
    PRECISION: tl.constexpr, WITH_GRAD: tl.constexpr,
):  # fmt: skip
    """OUTPUTS = 1: Smooth-L1 of z; otherwise 1 - cos(z, target) over the outputs; times place_weight.

    In float32 (or TF32) throughout: a weight of 1 / n^2 would be lost in float16, and there are few outputs.
    """
    first = tl.program_id(0) * GROUP
    loss_G = tl.zeros((GROUP,), tl.float32)
    while first < num_tiles:
        l, r, place, exists = _load_tiles(left, right, tiles, first, num_tiles, WIDTH, M, GROUP)
        l, r = l.to(tl.float32), r.to(tl.float32)
        r_t = tl.permute(r, (0, 2, 1))
        d_left, d_right = tl.zeros((GROUP * TILE, M), tl.float32), tl.zeros((GROUP, TILE, M), tl.float32)
        share = tl.load(place_weight + place, mask=exists, other=0.0)
        zt, zz = tl.zeros((GROUP, TILE, TILE), tl.float32), tl.zeros((GROUP, TILE, TILE), tl.float32)
        tt = tl.zeros((GROUP, TILE, TILE), tl.float32)
        if OUTPUTS > 1:
            for c in range(OUTPUTS):
                t = tl.load(target + place * OUTPUTS + c, mask=exists, other=0.0)
                z, _ = _project(l, r_t, _load_form(weight, c, WIDTH, M).to(tl.float32), bias, c, GROUP, M, PRECISION)
                zt, zz, tt = zt + z * t, zz + z * z, tt + t * t
        norm = tl.sqrt(zz)
        over_z, over_t = 1.0 / tl.maximum(norm, COSINE_EPS), 1.0 / tl.maximum(tl.sqrt(tt), COSINE_EPS)
        cosine = zt * over_z * over_t
        if OUTPUTS > 1:
            loss_G += tl.sum(tl.sum(share * (1.0 - cosine), 2), 1)
        if WITH_GRAD or OUTPUTS == 1:
            # d cos / dz = t / (|z| |t|) - cos z / |z|^2; where |z| is under its least value, as torch differentiates that.
            along = tl.where(norm > 0.0, cosine * over_z / tl.where(norm > 0.0, norm, 1.0), 0.0)
            for c in range(OUTPUTS):
                form = _load_form(weight, c, WIDTH, M).to(tl.float32)
                t = tl.load(target + place * OUTPUTS + c, mask=exists, other=0.0)
                z, u = _project(l, r_t, form, bias, c, GROUP, M, PRECISION)
                if OUTPUTS > 1:
                    dz = share * (along * z - t * over_z * over_t)
                else:
                    off = z - t
                    near = tl.abs(off) < 1.0
                    loss_G += tl.sum(tl.sum(share * tl.where(near, 0.5 * off * off, tl.abs(off) - 0.5), 2), 1)
                    dz = share * tl.where(near, off, tl.where(off > 0.0, 1.0, -1.0))
                if WITH_GRAD:
                    d_place = tl.program_id(0) * OUTPUTS + c
                    d_form, d_constant = _load_sums(d_weight, d_bias, d_place, M, GROUP)
                    d_left, d_right = _accumulate(
                        dz, u, l, r, form, d_left, d_right, d_form, d_constant, d_weight, d_bias, d_place, GROUP, M, PRECISION
                    )  # fmt: skip
        if WITH_GRAD:
            _store_sides(d_sides, d_left, d_right, first, num_tiles, M, GROUP)
        first += tl.num_programs(0) * GROUP
    tl.store(loss + tl.program_id(0) * GROUP + tl.arange(0, GROUP), loss_G)


@triton.jit
def add_tiles(d_sides, strips, d_left, d_right, WIDTH: tl.constexpr, M: tl.constexpr):
    """dL and dR, (A, m) float32, of 16 atoms: the sum over the molecule's tiles in their row or column."""
    fields = strips + tl.program_id(0) * STRIP_FIELDS
    atom, count, first, across, number = (
        tl.load(fields), tl.load(fields + 1), tl.load(fields + 2), tl.load(fields + 3), tl.load(fields + 4)
    )  # fmt: skip
    step, wide = tl.arange(0, TILE)[:, None], tl.arange(0, M)[None, :]
    inside = step * M + wide
    left, right = tl.zeros((TILE, M), tl.float32), tl.zeros((TILE, M), tl.float32)
    k = number * 0
    while k < across:
        left += tl.load(d_sides + (first + number * across + k) * (2 * TILE * M) + inside)
        right += tl.load(d_sides + (first + k * across + number) * (2 * TILE * M) + TILE * M + inside)
        k += 1
    exists = (step < count) & (wide < WIDTH)
    place = (atom + step) * WIDTH + wide
    tl.store(d_left + place, left, mask=exists)
    tl.store(d_right + place, right, mask=exists)
