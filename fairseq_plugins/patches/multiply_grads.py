"""Replaces `fairseq.optim.fairseq_optimizer.FairseqOptimizer.multiply_grads` (fairseq 0.12), which multiplies gradients by 1, too.

Losses are normalised before the backward pass: on one process the factor is 1 at every update.
"""

from typing import Any

from fairseq.optim.fairseq_optimizer import FairseqOptimizer

PINS = {
    "fairseq.optim.fairseq_optimizer.FairseqOptimizer.multiply_grads": "5f2556e11600",
}

_fairseq_multiply_grads = FairseqOptimizer.multiply_grads


def _multiply_grads(self: FairseqOptimizer, c: Any) -> None:
    """fairseq's, of a number that changes something; a tensor is on a device that would have to be waited for."""
    if not (isinstance(c, float | int) and c == 1):
        _fairseq_multiply_grads(self, c)


def install() -> None:
    """Put ours in its place."""
    FairseqOptimizer.multiply_grads = _multiply_grads
