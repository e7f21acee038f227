"""Replaces `fairseq.utils.clip_grad_norm_` (fairseq 0.12), which sums in float32, in an order that depends on how gradients are cut.

Ours, which DeepSpeed's ZeRO is given too, comes out the same in every digit: `moleblend_fs/zero/gradient_clipping.py`.
"""

from fairseq import utils

from moleblend_fs.zero.gradient_clipping import clip_grad_norm_

PINS = {
    "fairseq.utils.clip_grad_norm_": "5ca169f045fa",
    "fairseq.optim.fairseq_optimizer.FairseqOptimizer.clip_grad_norm": "e95c358a15f7",
}


def install() -> None:
    """Put ours in its place."""
    utils.clip_grad_norm_ = clip_grad_norm_
