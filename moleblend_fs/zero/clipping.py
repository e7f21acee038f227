"""Gradient norms and clipping that come out the same in every digit, however gradients are cut into tensors and spread over processes.

Squares are summed in float64: their order then changes nothing that is left after rounding to float32. fairseq and DeepSpeed sum
in float32, each in its own order, and clip by formulas that round differently; Adam and ZeRO would drift apart by that.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def sum_of_squares(gradients: Iterable[Tensor]) -> Tensor:
    """() float64, on the gradients' device; 0 for none."""
    gradients = [gradient.detach() for gradient in gradients]
    if not gradients:
        return torch.zeros((), dtype=torch.float64)
    return torch.stack(torch._foreach_norm(gradients, 2, dtype=torch.float64)).square().sum()


def coefficient(norm: Tensor, max_norm: float) -> Tensor:
    """() float32, what gradients of this norm (() float32) are multiplied by; at most 1. fairseq's formula."""
    return (max_norm / (norm + 1e-6)).clamp(max=1)


def clip_grad_norm_(parameters: Any, max_norm: float, aggregate_norm_fn: Any = None) -> Tensor:
    """In place of fairseq's `utils.clip_grad_norm_`: clips (not with a `max_norm` of 0), returns the norm before, () float32."""
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    gradients = [parameter.grad.detach() for parameter in parameters if parameter is not None and parameter.grad is not None]
    norm = sum_of_squares(gradients).sqrt().float()
    if aggregate_norm_fn is not None:
        norm = aggregate_norm_fn(norm)
    if max_norm > 0 and gradients:
        torch._foreach_mul_(gradients, coefficient(norm, float(max_norm)))
    return norm


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
