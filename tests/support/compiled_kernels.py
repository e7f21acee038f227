"""Kernels compiled as `benchmarks.kernel_resources` compiles them, for a process without Triton's interpreter (`without_interpreter`)."""

import contextlib
import io
from dataclasses import replace
from unittest import mock

import triton
import triton.language as tl

from benchmarks.__main__ import main
from benchmarks.kernel_resources import _measure_one, believable, compiled, kernel_modules, measure, read_table, variants_of
from moleblend_fs.ops.kernel_common import Variant
from moleblend_fs.ops.pair_projection import variants


def check_the_table() -> tuple[int, str]:
    """Exit status of `python -m benchmarks kernel_resources --check`, and what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = main(["--no-save", "kernel_resources", "--check", "--workers", "1"])
    return status, printed.getvalue()


def stale() -> list[str]:
    """Ops of which the table has rows that were compiled of other code."""
    variants_by_name = {(op, variant.name): variant for op in kernel_modules() for variant in variants_of(op)()}
    rows = [(row, variants_by_name.get((row.module, row.variant))) for row in read_table()]
    return sorted({row.module for row, variant in rows if variant is not None and not believable(variant, row)})


def spilled() -> list[int]:
    """Bytes that a kernel spills, and that it does on a quarter of its threads."""
    variant = next(v for v in variants.variants() if v.name == "pair_edge/bf16/32/with gradient")
    crowded = variant._replace(num_warps=variant.num_warps // 4)
    return [compiled("pair_projection", v, 90).spilled for v in (variant, crowded)]


def changed_numbers_are_measured() -> bool:
    """Whether rows whose numbers are not those of their seal are measured again."""
    rows = [r for r in read_table() if r.module == "blend"]
    return measure(["blend"], 1, [replace(r, registers=r.registers + 1) for r in rows]) == (rows, [])


@triton.jit
def changes_type(x):
    k = tl.program_id(0)
    while k < 3:
        k = k + 0.5
    tl.store(x, k)


def not_compiling() -> str:
    """What is said of a kernel that does not compile."""
    wrong = [Variant("name", changes_type, {"x": "*fp32"}, {}, 4, 2)]
    with mock.patch.object(variants, "variants", return_value=wrong):
        return str(_measure_one("pair_projection", 0, 90))
