"""Replaces how ZeRO's optimizers compute norms and clip (DeepSpeed 0.19), by the formulas of `zero/gradient_clipping.py`."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from moleblend_fs.zero.gradient_clipping import coefficient, sum_of_squares

PINS = {
    "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer.scaled_global_norm": "743a054fb50f",
    "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer.step": "050c36d7948f",
    "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer.unscale_and_clip_grads": "eb8167e72e37",
    "deepspeed.runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3._get_norm_groups": "70a92017c69a",
    "deepspeed.runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3.step": "dfc83b7912f0",
    "deepspeed.runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3.unscale_and_clip_grads": "96aa6a844d2b",
}


def clip_in_zero(zero: Any, device: torch.device, *, fp16: bool) -> None:
    """Let ZeRO (of any stage) compute norms and clip as above. Its methods for that are replaced on this one object.

    A norm that is not finite raises a FloatingPointError (on all processes) before the step, but in fp16, where the step is left out.

    Args:
        device: the model's, where processes exchange; gradients may be in host memory.
    """

    def scaled_norm() -> Tensor:
        squares = sum_of_squares(gradient_pieces(zero)).to(device)
        dist.all_reduce(squares, group=zero.dp_process_group)
        if not fp16 and not bool(squares.isfinite()):
            raise FloatingPointError(f"the sum of the gradients' squares is {float(squares)}")
        return squares.sqrt()

    def multiply(gradients: Iterable[Tensor], norm: Tensor) -> None:
        factor = 1 / float(zero.loss_scale)
        if zero.clip_grad > 0:
            factor *= float(coefficient((norm * factor).float(), zero.clip_grad))
        for gradient in gradients:
            gradient.mul_(factor)

    if hasattr(zero, "fp32_partitioned_groups_flat"):  # stage 3
        zero._get_norm_groups = lambda: [scaled_norm()]
        zero.unscale_and_clip_grads = lambda group, norm: multiply([zero.fp32_partitioned_groups_flat[group].grad], norm)
    else:
        zero.scaled_global_norm = lambda norm_type=2: scaled_norm()
        zero.unscale_and_clip_grads = multiply


def gradient_pieces(zero: Any) -> list[Tensor]:
    """This rank's gradients at the end of an update; padding is 0."""
    stage_3 = hasattr(zero, "fp32_partitioned_groups_flat")
    if zero.offload_optimizer if stage_3 else zero.cpu_offload:
        flat = zero.fp32_partitioned_groups_flat if stage_3 else zero.single_partition_of_fp32_groups
        return [buffer.grad for buffer in flat]
    return [gradient for group in zero.averaged_gradients.values() for gradient in group]
