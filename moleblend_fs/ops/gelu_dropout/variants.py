"""Configurations that the shipped presets launch, for the table of resources."""

import itertools

from moleblend_fs.ops.gelu_dropout.kernels import activate, activate_backward
from moleblend_fs.ops.gelu_dropout.launch import WARPS, launch_of
from moleblend_fs.ops.kernel_common import TRITON_TYPES, Variant

WIDTHS = (64, 256, 768)
"""Hidden widths of the shipped presets; larger ones are multiples of 256 and launched as 768, but for WIDTH."""

PASSES = ((activate, "forward", True), (activate, "forward", False), (activate_backward, "backward", True))
"""Kernel, pass, and whether something is dropped."""
PREDICTING = (("bf16", 768), ("fp32", 256), ("fp16", 64))
"""Types and widths that are listed with nothing dropped, too."""


def variants() -> list[Variant]:
    """Every type and width as in training, and one width of each type without dropout, as in predicting."""
    found = []
    for short, width in itertools.product(TRITON_TYPES.values(), WIDTHS):
        for kernel, direction, dropout in PASSES:
            if not dropout and (short, width) not in PREDICTING:
                continue
            launch = launch_of(width, direction)
            constants = {"WIDTH": width, "ROWS": launch.rows, "BLOCK": launch.block, "BIAS": True, "DROPOUT": dropout}
            kinds = {"partial_ptr": "*fp32", "drop_scale": "fp32"}
            signature = {
                name: kinds.get(name, f"*{short}" if name.endswith("_ptr") else "i32") for name in kernel.arg_names if name not in constants
            }
            name = f"{kernel.__name__}/{short}/{width}" + ("" if dropout else "/all kept")
            found.append(Variant(name, kernel, signature, constants, WARPS, 3))
    return found
