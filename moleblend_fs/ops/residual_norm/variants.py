"""Configurations that the shipped presets launch, for the table of resources."""

import itertools
from typing import Any

from moleblend_fs.ops.column_sums import add_programs
from moleblend_fs.ops.column_sums import constants_of as sum_constants
from moleblend_fs.ops.kernel_common import TRITON_TYPES, Variant
from moleblend_fs.ops.residual_norm.kernels import add_and_normalise, normalise_backward
from moleblend_fs.ops.residual_norm.launch import Launch, backward_launch, constants_of, forward_launch

WIDTHS = (64, 256, 768, 1024, 2048)
"""Embedding widths of the shipped presets."""
PAIR_WIDTHS = (16, 32)
"""Pair widths of the presets: the pair heads normalise their sides, with nothing added, and want no norm back."""
# What a pass launches: of the embeddings, in the first block (which drops nothing), in others, with --dropout, and (backward) at the end.
FORWARD: dict[str, dict[str, bool]] = {
    "first": {},
    "kept": {"BRANCH": True, "BIAS": True},
    "path": {"BRANCH": True, "BIAS": True, "DROP_PATH": True},
    "both": {"BRANCH": True, "BIAS": True, "DROPOUT": True, "DROP_PATH": True},
}
BACKWARD: dict[str, dict[str, bool]] = {
    "first": {"MORE": True, "NORMED": True},
    "kept": {"MORE": True, "NORMED": True, "BIAS": True},
    "path": {"MORE": True, "NORMED": True, "BIAS": True, "DROP_PATH": True},
    "both": {"MORE": True, "NORMED": True, "BIAS": True, "DROPOUT": True, "DROP_PATH": True},
    "last": {"BIAS": True, "DROP_PATH": True},
}

SWITCHES = {name for cases in (FORWARD, BACKWARD) for chosen in cases.values() for name in chosen}
COMMON = "path"
"""What most blocks launch."""
WITH_ALL_CASES = (("bf16", 768), ("fp32", 256), ("fp16", 64))
"""Types and widths that are listed with all cases: of each type one, in bfloat16 the base model's."""


def variants() -> list[Variant]:
    """Every type and width with what most blocks launch, and `WITH_ALL_CASES`; every type and width of pair heads."""
    found = []
    for (dtype, short), width in itertools.product(TRITON_TYPES.items(), WIDTHS):
        for kernel, cases, launch in (
            (add_and_normalise, FORWARD, forward_launch(width)),
            (normalise_backward, BACKWARD, backward_launch(width, dtype)),
        ):
            for case, chosen in cases.items():
                if case != COMMON and (short, width) not in WITH_ALL_CASES:
                    continue  # the same code with less or more of it switched on
                found.append(_with_switches(kernel, short, width, case, chosen, launch))
        found.append(_variant(f"add_programs/{short}/{width}", add_programs, short, sum_constants(width), 4))
    for (dtype, short), width in itertools.product(TRITON_TYPES.items(), PAIR_WIDTHS):
        found.append(_with_switches(add_and_normalise, short, width, "alone", {}, forward_launch(width)))
        found.append(_with_switches(normalise_backward, short, width, "alone", {}, backward_launch(width, dtype)))
        found.append(_variant(f"add_programs/{short}/{width}", add_programs, short, sum_constants(width), 4))
    return found


def _with_switches(kernel: Any, short: str, width: int, case: str, chosen: dict[str, bool], launch: Launch) -> Variant:
    switches = {name: chosen.get(name, False) for name in kernel.arg_names if name in SWITCHES}
    return _variant(f"{kernel.__name__}/{short}/{width}/{case}", kernel, short, {**constants_of(launch, width), **switches}, launch.warps)


def _variant(name: str, kernel: Any, short: str, constants: dict[str, Any], warps: int) -> Variant:
    kinds = dict.fromkeys(("mean_ptr", "rstd_ptr", "partial_ptr"), "*fp32") | {"molecule_ptr": "*i64"}
    kinds |= dict.fromkeys(("eps", "drop_scale", "path_scale"), "fp32")
    signature = {
        argument: kinds.get(argument, f"*{short}" if argument.endswith("_ptr") else "i32")
        for argument in kernel.arg_names
        if argument not in constants
    }
    return Variant(name, kernel, signature, constants, warps, 3)
