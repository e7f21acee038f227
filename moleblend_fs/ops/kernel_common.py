"""What the kernel modules share."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

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


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up. Triton's looks for constants of kernels among its arguments, which takes the host longer than all else here."""
    return -(-a // b)


@functools.cache
def padded(size: int) -> int:
    """The least power of two, from 16, which products need, that holds a size."""
    return max(16, triton.next_power_of_2(size))


PLAIN = (Tensor, nn.Parameter)
"""Tensors of which torch's dispatcher knows nothing besides their device."""


class KernelOp:
    """An op of torch's that launches kernels. Calls that torch's dispatcher has nothing to do for go straight to its Python.

    The dispatcher takes some 0.1 ms of the host for a call, as long as a small kernel runs. It is for whom it sees to: gradients that are
    recorded, fake tensors, subclasses, dispatch modes, and compilers. Results are the same; versions of what an op writes to
    (`mutates_args`) are counted by the dispatcher alone.

    Triton launches on the current GPU, whatever the tensors are on: that of the first tensor is made the current one.
    """

    def __init__(self, name: str, op: Callable[..., Any], mutates_args: Iterable[str]):
        @functools.wraps(op)
        def guarded(*arguments: Any, **options: Any) -> Any:
            with torch.cuda.device_of(_first((*arguments, *options.values()))):
                return op(*arguments, **options)

        self._op = op
        self._dispatched = torch.library.custom_op(name, guarded, mutates_args=mutates_args)
        self.register_fake = self._dispatched.register_fake

    def __call__(self, *arguments: Any) -> Any:
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or is_in_torch_dispatch_mode():
            return self._dispatched(*arguments)
        first = _first(arguments)
        if type(first) not in PLAIN or first.is_meta:
            return self._dispatched(*arguments)
        with torch.cuda.device_of(first):
            return self._op(*arguments)


def kernel_op(name: str, mutates_args: Iterable[str] = ()) -> Callable[[Callable[..., Any]], KernelOp]:
    """Make a function that launches kernels an op, which wants `register_fake`, too.

    Args:
        name: e.g. "moleblend::blend". mutates_args: the tensors that it writes to, see `torch.library.custom_op`.
    """
    return lambda op: KernelOp(name, op, mutates_args)


def _first(arguments: tuple[Any, ...]) -> Tensor:
    for value in arguments:
        if isinstance(value, Tensor):
            return value
    raise TypeError("an op that launches kernels wants a tensor")
