"""The configurations that the shipped presets launch, for the table of resources."""

import torch

from moleblend_fs.ops.kernel_common import TRITON_TYPES, Variant
from moleblend_fs.ops.pair_projection import kernels as jit
from moleblend_fs.ops.pair_projection.launch import KERNELS, launch_of, padded_width

SHIPPED_CLASSES = {"spd": (1, 11), "edge": (5, 24)}
"""(K, classes) of the two classifying heads."""
SHIPPED_OUTPUTS = {"cosine": 3, "smooth_l1": 1}
SHIPPED_WIDTHS = (16, 32)
"""Pair widths of the shipped presets."""


def variants() -> list[Variant]:
    """Every configuration that the shipped presets can choose."""
    result = []
    for width in SHIPPED_WIDTHS:
        for dtype, precision in ((torch.bfloat16, "ieee"), (torch.float16, "ieee"), (torch.float32, "ieee"), (torch.float32, "tf32")):
            for with_grad in (True, False):
                for name, (hops, classes) in SHIPPED_CLASSES.items():
                    result.append(_variant("cross_entropy", name, dtype, precision, width, with_grad, {"HOPS": hops, "CLASSES": classes}))
                for name, outputs in SHIPPED_OUTPUTS.items():
                    inner = precision if dtype == torch.float32 else "tf32"
                    result.append(_variant(name, name, dtype, inner, width, with_grad, {"OUTPUTS": outputs}))
        sums = dict.fromkeys(("d_sides", "d_left", "d_right"), "*fp32") | {"strips": "*i32"}
        result.append(Variant(f"pair_add_tiles/{width}", jit.add_tiles, sums, {"WIDTH": width, "M": padded_width(width)}, 1, 3))
    return result


def _variant(loss: str, name: str, dtype: torch.dtype, precision: str, width: int, with_grad: bool, constexprs: dict[str, int]) -> Variant:
    inputs = dict.fromkeys(("left", "right", "weight", "bias"), f"*{TRITON_TYPES[dtype]}")
    targets = {"target": "*i8"} if loss == "cross_entropy" else {"target": "*fp32", "place_weight": "*fp32"}
    outputs = {"tiles": "*i32"} | dict.fromkeys(("loss", "d_sides", "d_weight", "d_bias"), "*fp32") | {"num_tiles": "i32"}
    launch = launch_of(loss, dtype, precision, padded_width(width))
    common = {"WIDTH": width, "M": padded_width(width), "GROUP": launch.group, "PRECISION": precision, "WITH_GRAD": with_grad}
    type_name = "tf32" if precision == "tf32" and dtype == torch.float32 else TRITON_TYPES[dtype]
    full_name = f"pair_{name}/{type_name}/{width}/{'with' if with_grad else 'without'} gradient"
    return Variant(full_name, KERNELS[loss], inputs | targets | outputs, constexprs | common, launch.num_warps, launch.num_stages)
