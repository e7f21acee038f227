"""Models of which only names and shapes are wanted: no memory, and none of the time that filling it takes."""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

DRAWS = {"normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_normal_", "xavier_uniform_"}
"""Names of what fills a tensor at random: methods, and functions of `torch.nn.init`."""


class Unallocated(TorchFunctionMode):
    """Modules that are made in this context have parameters without values, on torch's meta device, which take no memory.

    Unlike all of `torch.device("meta")` it has torch neither draw such values nor count on that device: to pretend to do so
    torch imports its compiler, which takes longer than a second.
    """

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty:
            return torch.empty(*args, **{**kwargs, "device": "meta"})
        if func.__name__ in DRAWS or (func is torch.Tensor.div_ and args[0].is_meta):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
