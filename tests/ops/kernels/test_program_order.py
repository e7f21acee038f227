"""Kernels give the right numbers whatever order their programs run in, and whatever lies in memory that nobody has written yet."""

import importlib
import sys

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
import triton
import triton.language as tl
from triton.runtime import interpreter

from benchmarks.kernel_resources import kernel_modules

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU the order is anything already")
CPU = torch.device("cpu")
OTHER_KERNELS_IN_HALF_PRECISION = {"relation_bias": (2, 16)}
ORDERS = {"reversed": lambda number: -number, "shuffled": lambda number: number * 2654435761 % 2**32}


@pytest.fixture
def run_in(monkeypatch):
    """Programs of the interpreter's grids in another order."""

    def change(order):
        def ordered(*bounds):
            numbers = range(*bounds)
            of_grid = sys._getframe(1).f_code.co_name == "__call__" and len(bounds) == 1
            return sorted(numbers, key=ORDERS[order]) if of_grid else numbers

        monkeypatch.setattr(interpreter, "range", ordered, raising=False)

    return change


@pytest.fixture
def poisoned_memory():
    """What `torch.empty` and its kin give is NaN, or the largest integer."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation")
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("op", kernel_modules())
def test_numbers_are_right_in_any_order(op, order, run_in, poisoned_memory):
    run_in(order)
    self_test = importlib.import_module(f"moleblend_fs.ops.{op}.selftest").self_test
    self_test(CPU)
    if op in OTHER_KERNELS_IN_HALF_PRECISION:
        self_test(CPU, torch.bfloat16, OTHER_KERNELS_IN_HALF_PRECISION[op])


@triton.jit
def _last_wins(out):
    tl.store(out, tl.program_id(0))


@pytest.mark.parametrize(("order", "last"), [("reversed", 0), ("shuffled", max(range(7), key=ORDERS["shuffled"]))])
def test_another_order_is_seen(order, last, run_in):
    out = torch.zeros(1, dtype=torch.int32)
    _last_wins[(7,)](out)
    assert out.item() == 6
    run_in(order)
    _last_wins[(7,)](out)
    assert out.item() == last != 6
