"""Replaces how fairseq's optimizer for half precision (fairseq 0.12) goes between the model's weights and those in float32, and clears
gradients: all tensors at a time, where fairseq starts three kernels for each of some hundred parameters in every update.

What is computed is the same to the last bit.
"""

from typing import Any

import torch
from fairseq.optim import fp16_optimizer
from torch import Tensor, nn

from moleblend_fs.patches import foreach

PINS = {
    "fairseq.optim.fp16_optimizer._FP16OptimizerMixin.build_fp32_params": "286fe3b9b001",
    "fairseq.optim.fp16_optimizer._FP16OptimizerMixin._sync_fp16_grads_to_fp32": "3325808863ca",
    "fairseq.optim.fp16_optimizer._FP16OptimizerMixin._sync_fp32_params_to_fp16": "c9e44ba56285",
    "fairseq.optim.fp16_optimizer._FP16OptimizerMixin.step": "393b3fc9b734",
    "fairseq.optim.fp16_optimizer._FP16OptimizerMixin.zero_grad": "1fc91081dca7",
}


def install() -> None:
    """Put ours in their places."""
    mixin = fp16_optimizer._FP16OptimizerMixin
    mixin._sync_fp16_grads_to_fp32 = gradients_to_float32
    mixin._sync_fp32_params_to_fp16 = weights_from_float32
    mixin.zero_grad = zero_grad


def gradients_to_float32(self: Any) -> None:
    """Copy the model's gradients into those of the weights in float32, 0 where there is none, once for each backward pass."""
    if not self._needs_sync:
        return
    trained = [parameter for parameter in self.fp16_params if parameter.requires_grad]
    targets = _gradients(self, trained)
    given = [(target, p.grad.detach()) for target, p in zip(targets, trained, strict=True) if p.grad is not None]
    foreach.zero_([target for target, p in zip(targets, trained, strict=True) if p.grad is None])
    foreach.copy_([target for target, _ in given], [gradient for _, gradient in given])
    self._needs_sync = False


def weights_from_float32(self: Any) -> None:
    """Copy the weights in float32 into the model, rounded."""
    if self.has_flat_params:
        sources = _parts({device: flat.detach() for device, flat in self.fp32_params.items()}, self.fp16_params)
        pairs = list(zip(self.fp16_params, sources, strict=True))
    else:
        pairs = [(p, exact.detach()) for p, exact in zip(self.fp16_params, self.fp32_params, strict=True) if p.requires_grad]
    foreach.copy_([parameter.detach() for parameter, _ in pairs], [exact for _, exact in pairs])


def zero_grad(self: Any) -> None:
    """fairseq's: no gradients of the model, zeros for the weights in float32, and the loss scale to divide by."""
    for parameter in self.fp16_params:
        parameter.grad = None
    exact = self.fp32_params.values() if self.has_flat_params else self.fp32_params
    foreach.zero_([parameter.grad for parameter in exact if parameter.grad is not None])
    self._needs_sync = False
    if self.scaler is not None:
        self._multiply_factor = 1.0 / float(self.scaler.loss_scale)


def _gradients(optimizer: Any, trained: list[nn.Parameter]) -> list[Tensor]:
    """Where the gradient of each parameter goes in float32."""
    if optimizer.has_flat_params:
        return _parts({device: flat.grad for device, flat in optimizer.fp32_params.items()}, trained)
    exact = [p32 for p, p32 in zip(optimizer.fp16_params, optimizer.fp32_params, strict=True) if p.requires_grad]
    for parameter in exact:
        if parameter.grad is None:
            parameter.grad = torch.empty_like(parameter)
    return [parameter.grad for parameter in exact]


def _parts(flat: dict[Any, Tensor], parameters: list[nn.Parameter]) -> list[Tensor]:
    """The share of each parameter in the array of its device, end to end in their order."""
    starts = dict.fromkeys(flat, 0)
    parts = []
    for parameter in parameters:
        device = parameter.device.index
        start, size = starts[device], parameter.numel()
        parts.append(flat[device][start : start + size].view_as(parameter))
        starts[device] = start + size
    return parts
