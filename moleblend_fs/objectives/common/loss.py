"""Weighting and normalising of losses, for all objectives.

Losses come as sums and counts: a global batch, however it is split over ranks and micro-batches, has one loss, the weighted sum of
(sum of sums) / (sum of counts).
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def weighted_loss(sums: Tensor, counts: Tensor, weights: Sequence[float]) -> Tensor:
    """A micro-batch's share of the loss: sum over terms of weight * sum / count.

    Args:
        sums: (terms,) of this micro-batch.
        counts: (terms,) of the whole update; a term without a place counts as one.
    """
    shares = sums / counts.clamp(min=1).to(sums.dtype)
    return torch.stack([weight * share for weight, share in zip(weights, shares, strict=True)]).sum()
