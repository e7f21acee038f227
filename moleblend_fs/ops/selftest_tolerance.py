"""How the self-tests judge kernels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from moleblend_fs.ops.compile_ahead import only_compiling
from moleblend_fs.ops.dispatch import OtherNumbers
from moleblend_fs.ops.kernel_common import tf32_allowed


def tolerance_of(dtype: torch.dtype, exact: float = 1e-4) -> float:
    """Largest error, as a share of the largest value, that rounding explains; a mistake in an index is an error of order 1.

    Args:
        exact: for float32 products; bfloat16 keeps 8 bits, TF32 and float16 11.
    """
    if dtype == torch.float32:
        return 2e-2 if tf32_allowed() else exact
    return 4e-2 if dtype == torch.bfloat16 else 1e-2


def compare(what: str, names: Sequence[str], ours: Sequence[Tensor], exact: Sequence[Tensor], tolerance: float) -> None:
    """Hold results of kernels against exact ones, where the kernels were run.

    Raises:
        OtherNumbers: some are further off than the tolerance, with the figures.
    """
    if only_compiling():
        return
    errors = {
        name: float((a.detach().double() - b.detach()).abs().max() / b.detach().abs().max())
        for name, a, b in zip(names, ours, exact, strict=True)
    }
    if not max(errors.values()) <= tolerance:
        op = what.split()[0]
        figures = ", ".join(f"{name} {error:.2g}" for name, error in errors.items())
        raise OtherNumbers(
            f"{what}: off by more than {tolerance:g} of the largest value: {figures}; MOLEBLEND_OPS={op}=reference runs plain torch instead"
        )
