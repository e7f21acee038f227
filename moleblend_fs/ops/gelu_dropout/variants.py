"""Configurations that the shipped presets launch, for the table of resources."""

import itertools

from moleblend_fs.ops.gelu_dropout.kernels import activate, activate_backward
from moleblend_fs.ops.gelu_dropout.launch import WARPS, launch_of
from moleblend_fs.ops.kernel_common import TRITON_TYPES, Variant

WIDTHS = (64, 256, 768)
"""Hidden widths of the shipped presets; larger ones are multiples of 256 and launched as 768, but for WIDTH."""


def variants() -> list[Variant]:
    """Every type and width as in training."""
    found = []
    for short, width in itertools.product(TRITON_TYPES.values(), WIDTHS):
        for kernel, direction in ((activate, "forward"), (activate_backward, "backward")):
            launch = launch_of(width, direction)
            constants = {"WIDTH": width, "ROWS": launch.rows, "BLOCK": launch.block, "BIAS": True, "DROPOUT": True}
            kinds = {"partial_ptr": "*fp32", "drop_scale": "fp32"}
            signature = {
                name: kinds.get(name, f"*{short}" if name.endswith("_ptr") else "i32") for name in kernel.arg_names if name not in constants
            }
            found.append(Variant(f"{kernel.__name__}/{short}/{width}", kernel, signature, constants, WARPS, 3))
    return found
