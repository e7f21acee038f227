"""What the kernel modules share."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch

TRITON_TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
"""Input types of the kernels, by their names in signatures."""


class Variant(NamedTuple):
    """One configuration that a kernel can be launched in, enough to compile it without a GPU.

    Attributes:
        name: unique among all modules, e.g. "attention_forward/bf16/16x24".
        function: the function under `triton.jit`.
        signature: the type of every argument that is no constexpr, e.g. "*bf16", "i32", "fp32".
        constexprs: the values of the others.
        num_warps, num_stages: as the launch gives them.
    """

    name: str
    function: Callable[..., Any]
    signature: dict[str, str]
    constexprs: dict[str, Any]
    num_warps: int
    num_stages: int


@torch.compiler.assume_constant_result
def tf32_allowed() -> bool:
    """Whether torch's own float32 products may be in TF32, by whichever of its settings (its older `allow_tf32` raises after the newer)."""
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


def dot_precision(dtype: torch.dtype) -> str:
    """`input_precision` of products: float32 is rounded to TF32 only where torch's own products may be."""
    return "tf32" if dtype == torch.float32 and tf32_allowed() else "ieee"


def dot_precisions(dtype: torch.dtype) -> tuple[str, ...]:
    """All that `dot_precision` may say."""
    return ("ieee", "tf32") if dtype == torch.float32 else ("ieee",)


Op = TypeVar("Op", bound=Callable[..., Any])


def on_its_device(op: Op) -> Op:
    """Run an op with the GPU of its first tensor as the current one: Triton launches on the current GPU, whatever the tensors are on."""

    @functools.wraps(op)
    def guarded(*arguments: Any, **options: Any) -> Any:
        first = next(value for value in (*arguments, *options.values()) if isinstance(value, torch.Tensor))
        with torch.cuda.device_of(first):
            return op(*arguments, **options)

    return guarded  # type: ignore[return-value]
