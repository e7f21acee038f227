"""Triton's interpreter, hastened (`tests/support/interpreter.py`), is the interpreter."""

import pytest
import torch

pytest.importorskip("triton")
import triton
import triton.language as tl
from triton.runtime import interpreter as of_triton

from tests.support import interpreter

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled here")


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
    assert run(values) == ours[0] == ours[1] == [3, 2, 34, 34, 29, 29]


def test_a_kernel_that_fails_leaves_nothing_replaced():
    before = tl.load
    with pytest.raises(of_triton.InterpreterError):
        _outer[(2,)](torch.zeros(3), None, 3, BLOCK=4)
    assert tl.load is before
    assert run(torch.ones(1, dtype=torch.int32)) == [3]
