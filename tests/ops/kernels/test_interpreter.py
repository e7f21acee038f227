"""Triton's interpreter, hastened (`tests/support/interpreter.py`), is the interpreter."""

import pytest
import torch

pytest.importorskip("triton")
import triton
import triton.language as tl
from triton.runtime import interpreter as of_triton

from tests.support import interpreter

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled here")


QUICK = [
    *((tl.block_type, "__init__"), (tl.tensor, "__init__"), (tl.core.tuple, "__init__"), (tl.core, "_unwrap_if_constexpr")),
    *((of_triton, "_get_np_dtype"), (of_triton, "_patch_attr"), (of_triton.TritonSemantic, "broadcast_impl_value")),
]


@triton.jit
def _inner(x):
    return tl.where(x > 2, tl.sum(x * x, axis=0), -x) + tl.cdiv(7, 2)


@triton.jit
def _outer(source, target, count, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(source + i, i < count, 0)
    tl.store(target + i, _inner(values), i < count)


def run(values: torch.Tensor) -> list[int]:
    target = torch.zeros_like(values)
    _outer[(2,)](values, target, len(values), BLOCK=4)
    return target.tolist()


def test_results_are_the_same_and_what_was_replaced_comes_back(monkeypatch):
    values = torch.tensor([1, 2, 3, 4, 5, 2**30], dtype=torch.int32)  # its square is over 32 bits
    before = (tl.load, tl.tensor.__add__, tl.math.exp)
    ours = [run(values), run(values)]
    assert (tl.load, tl.tensor.__add__, tl.math.exp) == before
    once, options = of_triton._patch_lang, of_triton.interpreter_builder.options
    assert once.__module__ == interpreter.__name__, "tests run on the hastened one"
    assert not options.sanitize_overflow
    monkeypatch.setattr(of_triton, "_patch_lang", once.__wrapped__)
    monkeypatch.setattr(of_triton.interpreter_builder, "options", of_triton.InterpreterOptions())
    for owner, name in QUICK:
        monkeypatch.setattr(owner, name, getattr(owner, name).__wrapped__)
    monkeypatch.delattr(tl.core.tuple, "type")
    assert run(values) == ours[0] == ours[1] == [3, 2, 34, 34, 29, 29]


ELEMENTS = [
    tl.float32,
    tl.bfloat16,
    tl.int1,
    tl.pointer_type(tl.float32),
    tl.pointer_type(tl.float32, const=True),
    tl.pointer_type(tl.int8, 3),
]


@pytest.mark.parametrize("shape", [[4], [8, 2], [tl.constexpr(4)], tl.core.tuple([2, 2, 2])], ids=str)
@pytest.mark.parametrize("element", ELEMENTS, ids=str)
def test_types_are_those_of_the_interpreter(element, shape, monkeypatch):
    """Every attribute, of types that are made for the first time and again."""

    def described():
        block = tl.block_type(element, shape)
        made, scalar = tl.tensor("a handle", block), tl.tensor("a handle", element)
        mixed = tl.core.tuple([made, tl.constexpr(2)])
        parts = [block.element_ty is element, block.shape.type.name, made.shape.type.name, mixed.type.name, tl.core.tuple([]).type.name]
        found = [{name: repr(part) for name, part in vars(each).items() if name != "of_tensors"} for each in (block, made, scalar)]
        return parts, found, [of_triton._get_np_dtype(type) for type in (block, element)]

    ours = [described(), described()]
    for owner, name in QUICK:
        monkeypatch.setattr(owner, name, getattr(owner, name).__wrapped__)
    monkeypatch.delattr(tl.core.tuple, "type")
    assert ours == [described()] * 2


@pytest.mark.parametrize(
    ("shape", "error"), [([3], ValueError), ([2.0], TypeError), ([], TypeError), ([2**21], ValueError), ((2,), AssertionError)], ids=str
)
def test_types_that_are_refused(shape, error):
    tl.block_type(tl.float32, [2])
    for _ in range(2):
        with pytest.raises(error):
            tl.block_type(tl.float32, shape)


@triton.jit
def _of_shapes(target):
    row, column = tl.arange(0, 4)[:, None], tl.arange(0, 2)[None, :]
    whole = row * 10 + column
    tl.store(target + row * 2 + column, whole + row + (whole + whole) * tl.arange(0, 2))


@triton.jit
def _of_other_shapes(target):
    tl.store(target + tl.arange(0, 4), tl.arange(0, 4)[:, None] + tl.arange(0, 2)[:, None])


def test_shapes_that_fit_and_that_do_not():
    target = torch.zeros(4, 2, dtype=torch.int32)
    _of_shapes[(1,)](target)
    whole = 10 * torch.arange(4)[:, None] + torch.arange(2)
    assert target.tolist() == (whole + torch.arange(4)[:, None] + 2 * whole * torch.arange(2)).tolist()
    with pytest.raises(of_triton.InterpreterError, match="incompatible dimensions"):
        _of_other_shapes[(1,)](target)


def test_a_kernel_that_fails_leaves_nothing_replaced():
    before = tl.load
    with pytest.raises(of_triton.InterpreterError):
        _outer[(2,)](torch.zeros(3), None, 3, BLOCK=4)
    assert tl.load is before
    assert run(torch.ones(1, dtype=torch.int32)) == [3]
