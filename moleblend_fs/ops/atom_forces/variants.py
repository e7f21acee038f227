"""The configurations that the shipped presets launch, for the table of resources."""

import itertools

from moleblend_fs.ops.atom_forces.kernels import forces_backward_columns, forces_backward_rows, forces_forward
from moleblend_fs.ops.atom_forces.kernels_directions import pair_directions
from moleblend_fs.ops.atom_forces.launch import STEP, WARPS, constants_of
from moleblend_fs.ops.attention.kernel_parts import PRESET_WIDTHS
from moleblend_fs.ops.kernel_common import TRITON_TYPES, Variant, dot_precisions


def variants() -> list[Variant]:
    """All configurations that can be launched at the presets' head widths."""
    signature = {name: _type(name, "fp32") for name in pair_directions.arg_names if name != "STEP"}
    found = [Variant("atom_pair_directions", pair_directions, signature, {"STEP": STEP}, 1, 3)]
    for (dtype, short), width in itertools.product(TRITON_TYPES.items(), PRESET_WIDTHS):
        kernels = (forces_forward, forces_backward_rows, forces_backward_columns)
        for kernel, products in itertools.product(kernels, dot_precisions(dtype)):
            constants = {**constants_of(dtype, width), "PRECISION": products}
            signature = {name: _type(name, short) for name in kernel.arg_names if name not in constants}
            numbers = short if products == "ieee" else products
            found.append(Variant(f"atom_{kernel.__name__}/{numbers}/{width}", kernel, signature, constants, WARPS[products], 1))
    return found


def _type(argument: str, dtype: str) -> str:
    if argument.removeprefix("d_") in ("q_ptr", "k_ptr", "value_ptr"):
        return f"*{dtype}"
    if argument in ("atom_molecule_ptr", "tokens_ptr", "pairs_ptr"):
        return "*i64"
    if argument == "molecules_ptr":
        return "*i32"
    return "*fp32" if argument.endswith("_ptr") else "fp32" if argument == "keep_scale" else "i32"
