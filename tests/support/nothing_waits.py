"""Refuses what would wait for a GPU, wherever the tensors are."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

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
    """

    def __init__(self, questions: int = 0):
        super().__init__()
        self.questions = questions

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
        return function(*args, **(kwargs or {}))
