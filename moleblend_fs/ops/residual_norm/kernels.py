"""A residual sum and its normalisation in one pass over memory, forward and backward; a program holds whole rows.

Which values of the branch are dropped is a hash of (seed, row, column), which molecules lose it whole one of (seed, molecule), so that
neither is stored. Sums over rows (gradients of gain, shift and the branch's bias) are kept by each program for itself and added up
afterwards, in a fixed order, so that results are the same bits at each run.
"""

import triton
import triton.language as tl

from moleblend_fs.ops.dropout_bits import keep_rows, keep_values

NOT_SPECIALIZED = ["rows", "seed_low", "seed_high", "drop_below", "path_below"]
"""Arguments for whose values (1, or a multiple of 16) no kernel is compiled anew: batches differ in them."""


@triton.jit
def _places(first, rows, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Rows (ROWS, 1), columns (1, BLOCK), places of their values and which of them exist."""
    row, column = first + tl.arange(0, ROWS)[:, None], tl.arange(0, BLOCK)[None, :]
    return row, column, row.to(tl.int64) * WIDTH + column, (row < rows) & (column < WIDTH)


@triton.jit
def _kept(
    row, rows, molecule_ptr, seed_low, seed_high, drop_below, drop_scale, path_below, path_scale,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, DROPOUT: tl.constexpr, DROP_PATH: tl.constexpr,
):  # fmt: skip
    """What the branch is multiplied by: (ROWS, BLOCK), or (ROWS, 1) where no single values are dropped."""
    factor = tl.full((ROWS, 1), 1.0, tl.float32)
    if DROP_PATH:
        molecule = tl.load(molecule_ptr + row, mask=row < rows, other=0)
        factor = keep_rows(seed_low, seed_high, molecule, path_below, path_scale)
    if DROPOUT:
        factor = factor * keep_values(seed_low, seed_high, row, 0, drop_below, drop_scale, ROWS, BLOCK)
    return factor


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def add_and_normalise(
    x_ptr, branch_ptr, bias_ptr, gain_ptr, shift_ptr, molecule_ptr, sum_ptr, normed_ptr, mean_ptr, rstd_ptr, rows, eps,
    seed_low, seed_high, drop_below, drop_scale, path_below, path_scale,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, BRANCH: tl.constexpr, BIAS: tl.constexpr,
    DROPOUT: tl.constexpr, DROP_PATH: tl.constexpr,
):  # fmt: skip
    """sum = x + dropped(branch + bias), normed = LN(sum), and each row's mean and 1 / std; without BRANCH the sum is x."""
    row, column, place, exists = _places(tl.program_id(0) * ROWS, rows, WIDTH, ROWS, BLOCK)
    in_row = column < WIDTH
    s = tl.load(x_ptr + place, mask=exists, other=0.0).to(tl.float32)
    if BRANCH:
        branch = tl.load(branch_ptr + place, mask=exists, other=0.0).to(tl.float32)
        if BIAS:
            branch += tl.load(bias_ptr + column, mask=in_row, other=0.0).to(tl.float32)
        s += branch * _kept(
            row, rows, molecule_ptr, seed_low, seed_high, drop_below, drop_scale, path_below, path_scale, ROWS, BLOCK, DROPOUT, DROP_PATH
        )  # fmt: skip
        # What is normalised is what the backward pass reads.
        s = s.to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + place, s, mask=exists)
        s = tl.where(exists, s.to(tl.float32), 0.0)
    mean = tl.sum(s, 1, keep_dims=True) / WIDTH
    centred = tl.where(exists, s - mean, 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, 1, keep_dims=True) / WIDTH + eps)
    gain = tl.load(gain_ptr + column, mask=in_row, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + column, mask=in_row, other=0.0).to(tl.float32)
    normed = centred * rstd * gain + shift
    tl.store(normed_ptr + place, normed.to(normed_ptr.dtype.element_ty), mask=exists)
    tl.store(mean_ptr + row, mean, mask=row < rows)
    tl.store(rstd_ptr + row, rstd, mask=row < rows)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def normalise_backward(
    d_normed_ptr, d_more_ptr, sum_ptr, mean_ptr, rstd_ptr, gain_ptr, shift_ptr, molecule_ptr, d_sum_ptr, d_branch_ptr, normed_ptr,
    partial_ptr, rows, seed_low, seed_high, drop_below, drop_scale, path_below, path_scale,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, MORE: tl.constexpr, NORMED: tl.constexpr, BIAS: tl.constexpr,
    DROPOUT: tl.constexpr, DROP_PATH: tl.constexpr,
):  # fmt: skip
    """From the gradient of LN(sum), in one or two (MORE) summands, that of the sum, and that of the branch where something of it is
    dropped (it is the sum's otherwise); LN(sum) once more where it is asked for. partial (3, programs, WIDTH): d gain, d shift, d bias.
    """
    first = tl.program_id(0) * ROWS
    d_gain, d_shift, d_bias = (
        tl.zeros((ROWS, BLOCK), tl.float32), tl.zeros((ROWS, BLOCK), tl.float32), tl.zeros((ROWS, BLOCK), tl.float32)
    )  # fmt: skip
    columns = tl.arange(0, BLOCK)[None, :]
    gain = tl.load(gain_ptr + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    while first < rows:
        row, _, place, exists = _places(first, rows, WIDTH, ROWS, BLOCK)
        d = tl.load(d_normed_ptr + place, mask=exists, other=0.0).to(tl.float32)
        if MORE:
            d += tl.load(d_more_ptr + place, mask=exists, other=0.0).to(tl.float32)
        s = tl.load(sum_ptr + place, mask=exists, other=0.0).to(tl.float32)
        mean = tl.load(mean_ptr + row, mask=row < rows, other=0.0)
        rstd = tl.load(rstd_ptr + row, mask=row < rows, other=0.0)
        scaled = tl.where(exists, (s - mean) * rstd, 0.0)
        if NORMED:
            tl.store(normed_ptr + place, (scaled * gain + shift).to(normed_ptr.dtype.element_ty), mask=exists)
        d_gain += d * scaled
        d_shift += d
        d *= gain
        along = tl.sum(d * scaled, 1, keep_dims=True) / WIDTH
        d = rstd * (d - tl.sum(d, 1, keep_dims=True) / WIDTH - scaled * along)
        tl.store(d_sum_ptr + place, d.to(d_sum_ptr.dtype.element_ty), mask=exists)
        if DROPOUT or DROP_PATH:
            d *= _kept(
                row, rows, molecule_ptr, seed_low, seed_high, drop_below, drop_scale, path_below, path_scale,
                ROWS, BLOCK, DROPOUT, DROP_PATH,
            )  # fmt: skip
            tl.store(d_branch_ptr + place, d.to(d_branch_ptr.dtype.element_ty), mask=exists)
        if BIAS:
            d_bias += tl.where(exists, d, 0.0)
        first += tl.num_programs(0) * ROWS
    ends = partial_ptr + tl.program_id(0) * WIDTH + tl.arange(0, BLOCK)
    inside = tl.arange(0, BLOCK) < WIDTH
    tl.store(ends, tl.sum(d_gain, 0), mask=inside)
    tl.store(ends + tl.num_programs(0) * WIDTH, tl.sum(d_shift, 0), mask=inside)
    if BIAS:
        tl.store(ends + 2 * tl.num_programs(0) * WIDTH, tl.sum(d_bias, 0), mask=inside)
