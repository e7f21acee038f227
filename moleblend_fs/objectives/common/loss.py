"""Weighting and normalising of losses, for all objectives.

Losses come as sums and counts: a global batch, however it is split over ranks and micro-batches, has one loss, the weighted sum of
(sum of sums) / (sum of counts).
"""

from collections.abc import Sequence

from torch import Tensor

from moleblend_fs.ops.constants import constant


def weighted_loss(sums: Tensor, counts: Tensor, weights: Sequence[float]) -> Tensor:
    """A micro-batch's share of the loss: sum over terms of weight * sum / count.

    Args:
        sums: (terms,) of this micro-batch.
        counts: (terms,) of the whole update; a term without a place counts as one.
    """
    assert len(sums) == len(weights), "a weight for each term"
    shares = sums / counts.clamp(min=1).to(sums.dtype)
    return (constant(tuple(weights), sums.dtype, sums.device) * shares).sum()
