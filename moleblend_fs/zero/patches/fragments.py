"""Relies on where ZeRO's optimizers (DeepSpeed 0.19) keep a rank's piece of a parameter: flat float32 buffers, found by stage."""

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor

PINS = {
    "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer._link_all_hp_params": "d2ea2635007c",
    "deepspeed.utils.mixed_precision_linkage.link_hp_params": "6eb3d44e37f2",
    "deepspeed.utils.tensor_fragment.get_hp_fragment_mapping": "a81cfb8d7156",
    "deepspeed.utils.tensor_fragment.fragment_address": "d5e0a58b3c92",
    "deepspeed.runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3._create_fp32_partitions": "644398ffd22f",
    "deepspeed.runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3.set_grad_positions": "c290434305d7",
    "deepspeed.runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3.get_param_id": "095645bf535f",
}


@dataclass(frozen=True)
class Fragment:
    """The piece of a parameter that this rank has.

    Attributes:
        flat: the rank's flat float32 buffer, which is also what the optimizer keeps its state by.
        offset: of the piece in `flat`.
        start: of the piece in the flattened parameter.
        length: of the piece, without padding.
    """

    flat: Tensor
    offset: int
    start: int
    length: int

    def of(self, buffer: Tensor) -> Tensor:
        """The piece of a buffer as long as `flat`."""
        return buffer.narrow(0, self.offset, self.length)


def fragment(parameter: Any, zero: Any) -> Fragment | None:
    """This rank's piece of a parameter; None if it has none.

    Args:
        zero: the engine's ZeRO optimizer, of any stage.
    """
    if hasattr(parameter, "ds_id"):  # stage 3: each rank has the same share of each parameter, the last ones padded
        group, offset, share = zero.grad_position[zero.get_param_id(parameter)]
        start = share * dist.get_rank(parameter.ds_process_group)
        length = min(share, parameter.ds_numel - start)
        return Fragment(zero.fp32_partitioned_groups_flat[group], offset, start, length) if length > 0 else None
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    here, there = mapping.lp_fragment_address, mapping.hp_fragment_address
    return Fragment(zero.single_partition_of_fp32_groups[mapping.param_group_index], there.start, here.start, here.numel)
