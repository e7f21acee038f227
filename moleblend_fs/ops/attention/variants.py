"""The configurations that the shipped presets launch, for the table of resources."""

import itertools

from moleblend_fs.ops.attention.kernel_parts import PRESET_WIDTHS
from moleblend_fs.ops.attention.kernels_long import backward_columns_long, backward_rows_long, forward_long
from moleblend_fs.ops.attention.kernels_short import backward_short, forward_short
from moleblend_fs.ops.attention.launch import LONGER, constants_of, launches
from moleblend_fs.ops.kernel_common import TRITON_TYPES, Variant, dot_precisions

_SCALARS = {"scale": "fp32", "keep_scale": "fp32"}


def variants() -> list[Variant]:
    """All configurations that can be launched at the presets' head widths."""
    found = []
    for dtype, width in itertools.product(TRITON_TYPES, PRESET_WIDTHS):
        for products in dot_precisions(dtype):
            forward, backward = launches(dtype, products)["forward"], launches(dtype, products)["backward"]
            chosen = [(forward_short if launch.heads else forward_long, launch) for launch in forward.values()]
            chosen += [(backward_short, launch) for launch in backward.values() if launch.heads]
            chosen += [(kernel, backward[LONGER]) for kernel in (backward_rows_long, backward_columns_long)]
            for kernel, launch in chosen:
                constants = {**constants_of(kernel, launch, dtype, width), "PRECISION": products}
                signature = {name: _type(name, TRITON_TYPES[dtype]) for name in kernel.arg_names if name not in constants}
                numbers = TRITON_TYPES[dtype] if products == "ieee" else products
                name = f"attention_{kernel.__name__}/{numbers}/{launch.block}x{width}"
                found.append(Variant(name, kernel, signature, constants, launch.warps, 1))
    return found


def _type(argument: str, dtype: str) -> str:
    if argument in ("qkv_ptr", "out_ptr", "d_out_ptr", "d_qkv_ptr"):
        return f"*{dtype}"
    if argument in ("tokens_ptr", "pairs_ptr"):
        return "*i64"
    if argument == "molecules_ptr":
        return "*i32"
    return "*fp32" if argument.endswith("_ptr") else _SCALARS.get(argument, "i32")
