"""Relies on `torch._compile._disable_dynamo` (torch 2.13), which imports torch's compiler to keep it from compiling an optimizer's methods.

Nothing compiles them here, and the compiler takes as long to import as the rest of torch: they are called as they are.
"""

import torch

PINS = {
    "torch._compile._disable_dynamo": "42281fba5153",
}
METHODS = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
"""Of `torch.optim.Optimizer`, all that it decorates."""


def install() -> None:
    """Note for each that what is to be called in its place is itself."""
    for name in METHODS:
        method = getattr(torch.optim.Optimizer, name).__wrapped__
        method.__dict__.setdefault("__dynamo_disable", method)
