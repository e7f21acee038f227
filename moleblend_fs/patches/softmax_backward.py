"""Relies on `torch._softmax_backward_data` (torch 2.13): what autograd calls for a softmax, where only its result was kept."""

import torch
from torch import Tensor

PINS = {
    "torch._softmax_backward_data": "test_softmax_backward_is_autograd_s",
}


def softmax_backward(d_probabilities: Tensor, probabilities: Tensor) -> Tensor:
    """Gradient of the logits of a softmax over the last dimension: p (d - sum(p d)), in p's dtype."""
    return torch._softmax_backward_data(d_probabilities, probabilities, -1, probabilities.dtype)
