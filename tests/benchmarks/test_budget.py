"""The counted update: what is counted is right where it can be told by hand, and the committed table is that of this code."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch

from benchmarks.budget import count_update, lines, read_table
from benchmarks.op_costs import BANDWIDTH, LAUNCH_ON_DEVICE, RATES, Count
from moleblend_fs.model.config import PRESETS, ModelConfig


@pytest.fixture(scope="module")
def apart():
    """A function that gives what another gives in a process of its own: constants without content would stay in this one."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def attention_launches(arch, batches):
    """(forward, backward) of each batch of sizes."""
    costs = [count_update(arch, np.array(sizes)).costs for sizes in batches]
    return [tuple(each[phase, "attention"].launches for phase in ("forward", "backward")) for each in costs]


def test_a_product_and_a_sum_by_hand():
    count = Count(np.array([3]))
    count.phase = "forward"
    a, b = torch.zeros(64, 32), torch.zeros(32, 16)
    with count:
        product = a @ b
        product.t().contiguous()
        product[:, :8] + product[:, 8:]
    cost = count.costs["forward", "products"]
    assert (cost.launches, cost.gflop * 1e9) == (1, 2 * 64 * 32 * 16)
    assert cost.gbytes * 1e9 == pytest.approx(4 * (64 * 32 + 32 * 16 + 64 * 16))
    assert cost.device_ms == pytest.approx(1e3 * LAUNCH_ON_DEVICE), "the smallest kernel's time, where bytes and operations take less"
    cost = count.costs["forward", "elementwise"]
    assert cost.launches == 2
    assert cost.gbytes * 1e9 == pytest.approx(4 * (2 * 64 * 16 + 3 * 64 * 8))


def test_time_is_the_largest_of_three():
    count = Count(np.array([3]))
    with count:
        torch.empty(4096, 4096, device="meta", dtype=torch.bfloat16) @ torch.empty(4096, 4096, device="meta", dtype=torch.bfloat16)
        torch.empty(1 << 28, device="meta").add(1)
    assert count.costs["", "products"].device_ms == pytest.approx(2e3 * 4096**3 / RATES[torch.bfloat16])
    assert count.costs["", "elementwise"].device_ms == pytest.approx(1e3 * 8 * (1 << 28) / BANDWIDTH)


@pytest.mark.parametrize(
    ("sizes", "copying", "multiplying"),
    [([10] * 64, 1, 1), ([10] * 65, 2, 1), ([65536 * 320], 1, 1), ([65536 * 320 + 1], 2, 2), ([65536 * 319, 65536, 1], 2, 2)],
)
def test_operations_on_lists_are_cut_as_on_a_gpu(sizes, copying, multiplying):
    """At most 64 pairs or 110 tensors, and 320 blocks of 65,536 numbers a launch; a copy reads one list and writes the other."""
    count = Count(np.array([3]))
    sources, targets = ([torch.empty(size, device="meta", dtype=dtype) for size in sizes] for dtype in (torch.bfloat16, torch.float32))
    with count:
        torch._foreach_copy_(targets, sources)
        torch._foreach_mul_(targets, 2.0)
    cost = count.costs["", "elementwise"]
    assert cost.launches == copying + multiplying
    assert cost.gbytes * 1e9 == pytest.approx(sum(sizes) * (2 + 4 + 2 * 4))


def test_fused_adam_reads_four_lists_and_writes_three():
    weights = [torch.nn.Parameter(torch.ones(7)) for _ in range(40)]
    for weight in weights:
        weight.grad = torch.ones(7)
    adam = torch.optim.AdamW(weights, fused=True)
    adam.step()
    count = Count(np.array([3]))
    with count:
        adam.step()
    cost = count.costs["", "elementwise"]
    assert cost.launches == 2 + 1, "36 weights a launch, and one that counts steps"
    assert cost.gbytes * 1e9 == pytest.approx(40 * (7 * 4 * 7 + 4 + 2 * 4))


def test_kernels_are_counted_by_size_class(apart):
    """An attention kernel for each size class and layer, and two in the backward pass of long molecules."""
    layers = ModelConfig(**PRESETS["tiny"]).layers
    found = apart(attention_launches, "tiny", [[9] * 4, [9, 20], [9, 20, 100]])
    assert found == [(layers, layers), (2 * layers, 2 * layers), (3 * layers, 4 * layers)]


@pytest.mark.slow
def test_the_committed_table_is_this_codes(apart):
    committed = read_table()
    first = committed[0]
    found = {(line.phase, line.stage): line for line in apart(lines, first.arch, first.set, first.molecules)}
    assert found == {(line.phase, line.stage): line for line in committed}, "write it again: python -m benchmarks budget --write"
