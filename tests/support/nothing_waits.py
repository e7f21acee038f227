"""Refuses what would wait for a GPU, wherever the tensors are."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

WAITING = {
    "aten._local_scalar_dense",
    "aten.nonzero",
    "aten.masked_select",
    "aten.is_nonzero",
    "aten.equal",
    "aten.unique_dim",
    "aten._unique2",
    "aten.unique_consecutive",
    "aten.bincount",
}
"""Operations whose result the host needs before it can go on."""


class NothingWaits(TorchDispatchMode):
    """Raises at operations that would wait.

    Args:
        questions: how many times the host may ask for one bit.
        kernels: whether our own ops run. What these do inside is not seen from here, and the interpreter takes long for it; without, they
            give zeros of the shapes that torch is told they give.
    """

    def __init__(self, questions: int = 0, *, kernels: bool = True):
        super().__init__()
        self.questions, self.kernels = questions, kernels

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function.overloadpacket)
        by_mask = name in ("aten.index", "aten.index_put", "aten.index_put_", "aten._index_put_impl_") and any(
            x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]
        )
        unsized = name == "aten.repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name == "aten._local_scalar_dense" and args[0].dtype == torch.bool and self.questions:
            self.questions -= 1
            return function(*args)
        if name in WAITING or by_mask or unsized:
            raise AssertionError(f"{function} would wait for the device")
        if function.namespace == "moleblend" and not self.kernels:
            return zeros_of(function, *args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def zeros_of(op: Any, *args: Any, **kwargs: Any) -> Any:
    """What an op gives for tensors without content, as zeros."""
    args, kwargs = tree_map_only(torch.Tensor, lambda x: x.to("meta"), (args, kwargs))
    return tree_map_only(torch.Tensor, lambda x: torch.zeros_like(x, device="cpu"), op(*args, **kwargs))
