"""Losses of property prediction.

Shape legend: B molecules, K targets.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from moleblend_fs.errors import UserError

KINDS = ("regression", "classification")


def property_loss(prediction_BK: Tensor, label_BK: Tensor, present_BK: Tensor, kind: str, loss: str) -> Tensor:
    """Summed loss over the labels that are present, float32 or wider.

    Classification: binary cross-entropy of logits. Regression, on scaled labels: "mse" or "mae".
    """
    prediction = prediction_BK.float() if prediction_BK.dtype in (torch.float16, torch.bfloat16) else prediction_BK
    # Zero where missing: a scaled placeholder may be infinite in float32, and 0 times infinity is not 0 in the gradient.
    label = torch.where(present_BK, label_BK, 0).to(prediction.dtype)
    if kind == "classification":
        each = F.binary_cross_entropy_with_logits(prediction, label, reduction="none")
    elif loss == "mae":
        each = (prediction - label).abs()
    else:
        each = (prediction - label).square()
    return torch.where(present_BK, each, 0).sum()


def shared_kind(kinds: tuple[str, ...], names: tuple[str, ...]) -> str:
    """The one kind of all targets; UserError if they are mixed."""
    if len(set(kinds)) != 1:
        mixed = ", ".join(f"{name} ({kind})" for name, kind in zip(names, kinds, strict=True))
        raise UserError(f"targets of one run must be all regression or all classification, got {mixed}; choose with --targets")
    return kinds[0]
