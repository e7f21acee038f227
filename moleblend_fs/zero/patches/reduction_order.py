"""Replaces two methods of ZeRO's optimizers (DeepSpeed 0.19): gradients are reduced in the same order of parameters on all ranks."""

from typing import Any

import torch.distributed as dist
from torch import nn

PINS = {
    "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer.reduce_ready_partitions_and_remove_grads": "a7ca557bc1fb",
    "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer.independent_gradient_partition_epilogue": "40809d01358e",
    "deepspeed.runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3.reduce_ready_partitions_and_remove_grads": "ebfa0683ae12",
    "deepspeed.runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3.independent_gradient_partition_epilogue": "cba07463ffe5",
}


def reduce_in_one_order(zero: Any, model: nn.Module) -> None:
    """Let ZeRO reduce gradients in the same order of parameters on all ranks.

    DeepSpeed 0.19 puts a gradient into the next reduction when its hook fires, and takes for granted that hooks fire in the same
    order everywhere. Where the order depends on the data (another code path for small batches, say), ZeRO 2 and 3 silently add
    up gradients of different parameters. Here a gradient waits until those before it, in an order fixed beforehand, are there.

    Raises:
        RuntimeError: (in backward) a parameter had no gradient on this rank.
    """
    order = [(name, parameter) for name, parameter in reversed(list(model.named_parameters())) if parameter.requires_grad]
    reduce, finish = zero.reduce_ready_partitions_and_remove_grads, zero.independent_gradient_partition_epilogue
    waiting: dict[int, tuple[Any, ...]] = {}
    done = 0

    def ready(parameter: nn.Parameter, *group: int) -> None:
        nonlocal done
        waiting[id(parameter)] = (parameter, *group)
        while done < len(order) and id(order[done][1]) in waiting:
            reduce(*waiting.pop(id(order[done][1])))
            done += 1

    def epilogue() -> None:
        nonlocal done
        if 0 < done < len(order) or waiting:
            raise RuntimeError(f"parameter {order[done][0]} had no gradient on rank {dist.get_rank()}, which ZeRO needs of each")
        done = 0
        finish()

    zero.reduce_ready_partitions_and_remove_grads = ready
    zero.independent_gradient_partition_epilogue = epilogue
