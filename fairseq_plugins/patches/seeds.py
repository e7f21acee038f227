"""Replaces `fairseq.utils.set_torch_seed` (fairseq 0.12), which every update calls, where there is no GPU: the same random numbers.

`torch.manual_seed` seeds devices that nobody has used yet, too: for each kind of them it keeps a traceback of the call, for when one is
used. That takes 100 microseconds and more, and the tracebacks stay.
"""

import torch
from fairseq import utils

PINS = {
    "fairseq.utils.set_torch_seed": "ca514891e7b1",
}


class SetTorchSeed(utils.set_torch_seed):
    """fairseq's, of the CPU's generator alone."""

    def __init__(self, seed: int):
        self.rng_state = utils.get_rng_state()
        torch.default_generator.manual_seed(seed)


def install() -> None:
    """Put ours in its place."""
    if not torch.cuda.is_available():
        utils.set_torch_seed = SetTorchSeed
