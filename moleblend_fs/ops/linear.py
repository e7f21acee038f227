"""Linear layers, through oneDNN on the CPU.

torch sends float32 products on the CPU to MKL, which leaves part of an AMD processor unused; oneDNN comes with torch and does not
(`python -m benchmarks matrix_products`).
"""

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from moleblend_fs.ops.fan_out import fan_out

P = ParamSpec("P")
T = TypeVar("T")

ONEDNN_MULTIPLICATIONS = 1 << 25
"""Smaller products go to MKL: oneDNN compiles one kernel per shape, and packed batches have new shapes at every step."""
ONEDNN_KERNELS = 64
"""Compiled kernels that oneDNN and torch keep; by default they keep 1,024 each, half a megabyte apiece. A step uses about 20."""

FIXED_ROWS = 64
"""Least rows of a product under `fixed_rows`."""
MANY_ROWS = (512, 256, 128)
"""More rows, for which products take less time each; of bfloat16 half the time. The most that give the same bits are taken."""
_fixed: ContextVar[int] = ContextVar("fixed rows", default=0)

LOWERED = 32
"""Least width of the float32 matrices whose products `products_in` is about. Narrower ones give few numbers, read by a loss or a user."""
_lower: ContextVar[torch.dtype | None] = ContextVar("type of products", default=None)


@contextmanager
def fixed_rows(many: int = FIXED_ROWS) -> Iterator[None]:
    """Within, in this thread, products are made of `many` rows at a time, then of `FIXED_ROWS`, the last ones filled up with zeros.

    Libraries choose their way of adding up by the shape of a product, so that a row's result depends, in its last bit, on how many
    there are. Of one shape, and by one thread, it does not depend on the row's place either, nor on the shape where both give the same
    bits, which `rows_alike` checks.
    """
    token = _fixed.set(many)
    try:
        yield
    finally:
        _fixed.reset(token)


@contextmanager
def products_in(dtype: torch.dtype | None) -> Iterator[None]:
    """Within, in this thread, products of float32 matrices are computed in another type, where they are `LOWERED` wide, and so are those
    of their backward pass, wherever that is run. They give float32; None is float32 as well."""
    token = _lower.set(dtype)
    try:
        yield
    finally:
        _lower.reset(token)


def recomputed_alike() -> tuple[AbstractContextManager, AbstractContextManager]:
    """For `torch.utils.checkpoint`: the contexts of what is computed here and of its repetition in the backward pass."""
    return nullcontext(), products_in(_lower.get())


def autocast_in_products(method: Callable[P, T]) -> Callable[P, T]:
    """A module's method under `torch.autocast`: its type for products alone, see `products_in`. All else knows which precision it needs."""

    @functools.wraps(method)
    def within(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        device = next(itertools.chain(self.parameters(), self.buffers())).device.type  # a frozen model has buffers alone
        if not torch.is_autocast_enabled(device):
            return method(self, *args, **kwargs)  # type: ignore[call-arg, arg-type]
        with products_in(torch.get_autocast_dtype(device)), torch.autocast(device, enabled=False):
            return method(self, *args, **kwargs)  # type: ignore[call-arg, arg-type]

    return within  # type: ignore[return-value]


def type_of_products(weight: Tensor) -> torch.dtype | None:
    """Of products with this weight, here: another than its own, or None."""
    return _lower.get() if weight.dtype == torch.float32 and min(weight.shape) >= LOWERED else None


def rows_alike(weight: Tensor, many: int = FIXED_ROWS) -> bool:
    """Whether rows have equal results, bit for bit, wherever they stand in a product of `fixed_rows(many)`."""
    rows = torch.arange(FIXED_ROWS * weight.shape[1], dtype=weight.dtype, device=weight.device).sin().view(FIXED_ROWS, -1)
    with torch.no_grad(), fixed_rows(many):
        out = product(torch.cat([rows.repeat(many // FIXED_ROWS, 1), rows.flip(0)]), weight, None, type_of_products(weight))
    *parts, last = out.split(FIXED_ROWS)
    return all(torch.equal(part, last.flip(0)) for part in parts)


@functools.cache
def onednn_product():
    """oneDNN's product, or None where torch was built without it."""
    # Both are read at first use, which is here.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(ONEDNN_KERNELS))
    os.environ.setdefault("LRU_CACHE_CAPACITY", str(ONEDNN_KERNELS))
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def product(x: Tensor, weight: Tensor, bias: Tensor | None, lower: torch.dtype | None = None) -> Tensor:
    """x weight^T + bias without a gradient, (rows, in) -> (rows, out).

    Args:
        lower: the type to multiply in; the sum with the bias, and what is given, have the type of `x`.
    """
    if x.is_cuda and lower is None and not _fixed.get():
        return F.linear(x, weight, bias)  # what follows comes to the same there, and takes the host longer
    compute = _by_fixed_rows if _fixed.get() else _at_once
    if lower is None:
        return compute(x, weight, bias, x.dtype)
    out = compute(x.to(lower), weight.to(lower), None, x.dtype)
    return out if bias is None else out.add_(bias)  # an addition of two types is ten times as slow on a CPU


def _at_once(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    return _product(x, weight, bias).to(dtype)


def _by_fixed_rows(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    out, start = x.new_empty(len(x), weight.shape[0], dtype=dtype), 0
    while (left := len(x) - start) > 0:
        rows = many if left >= (many := _fixed.get()) else FIXED_ROWS
        part, place = x[start : start + rows], out[start : start + rows]
        if left < rows:
            place.copy_(_product(F.pad(part, (0, 0, 0, rows - left)), weight, bias)[:left])
        else:
            _product(part, weight, bias, out=place)
        start += rows
    return out


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
    large = x.numel() * weight.shape[0] >= ONEDNN_MULTIPLICATIONS
    if large and x.device.type == "cpu" and x.dtype == torch.float32 and (onednn := onednn_product()) is not None:
        given = onednn(x, weight, bias, "none", [], "")
        return given if out is None else out.copy_(given)
    if out is None or x.dtype != torch.float32:
        given = F.linear(x, weight, bias)
        return given if out is None else out.copy_(given)
    return torch.mm(x, weight.t(), out=out) if bias is None else torch.addmm(bias, x, weight.t(), out=out)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        ctx.lower = type_of_products(weight)
        return product(x, weight, bias, ctx.lower)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        x, weight = ctx.saved_tensors
        d_bias = d_out.sum(dim=0) if ctx.needs_input_grad[2] else None
        return product(d_out, weight.t(), None, ctx.lower), product(d_out.t(), x.t(), None, ctx.lower), d_bias


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias, (rows, in) -> (rows, out)."""
    return _Linear.apply(x, weight, bias)


def adds_up_in_products(x: Tensor, weight: Tensor) -> bool:
    """Whether gradients of x are added up by the products that give them. Not on CPUs: libraries there have other last digits for it."""
    return x.is_cuda and type_of_products(weight) is None


class _Linears(torch.autograd.Function):
    """Layers of one input: one product with their weights end to end, and as many for the gradients."""

    @staticmethod
    def forward(ctx, x, *parameters):
        weight, bias = torch.cat(parameters[::2]), torch.cat(parameters[1::2])
        ctx.save_for_backward(x, weight)
        ctx.widths = [len(bias) for bias in parameters[1::2]]
        ctx.set_materialize_grads(False)
        return product(x, weight, bias).split(ctx.widths, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx, *d_outs):
        x, weight = ctx.saved_tensors
        each = zip(d_outs, ctx.widths, strict=True)
        d_out = torch.cat([x.new_zeros(len(x), width) if d is None else d for d, width in each], dim=1)
        d_x = d_out @ weight if ctx.needs_input_grad[0] else None
        parts = [whole.split(ctx.widths) for whole in (product(d_out.t(), x.t(), None), d_out.sum(dim=0))]
        return d_x, *(None if d is None else part for d, *both in zip(d_outs, *parts, strict=True) for part in both)


def linears(x: Tensor | list[Tensor], layers: "Sequence[Linear]") -> list[Tensor]:
    """Each layer of x, (rows, in) -> (rows, out), or what `for_readers` made of them."""
    if isinstance(x, list):
        return x
    if adds_up_in_products(x, layers[0].weight):
        return list(_Linears.apply(x, *(parameter for layer in layers for parameter in (layer.weight, layer.bias))))
    return [layer(x) for layer in layers]


def for_readers(x: Tensor, readers: "Sequence[Sequence[Linear]]") -> Sequence[Tensor | list[Tensor]]:
    """What each reader, by its layers, gives to `linears` in place of x: x, or all readers' layers of it by one product."""
    if readers and adds_up_in_products(x, readers[0][0].weight):
        outputs = iter(linears(x, [layer for layers in readers for layer in layers]))
        return [[next(outputs) for _ in layers] for layers in readers]
    return fan_out(x, len(readers))


class Product(NamedTuple):
    """What an operation reads of a linear layer, so that another may take its bias."""

    weight: Tensor
    bias: Tensor | None


class Linear(nn.Linear):
    """nn.Linear of matrices through `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)

    def without_bias(self, without: bool = True) -> Product:
        """The layer, or its product alone."""
        return Product(self.weight, None if without else self.bias)
