"""Kernels read and write inside the tensors that they are given, and no two programs of a launch use a place that one of them writes."""

import importlib

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
import triton
import triton.language as tl
from triton.runtime import interpreter

from benchmarks.kernel_resources import kernel_modules

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="compute-sanitizer looks at kernels that are compiled")
CPU = torch.device("cpu")
OTHER_KERNELS_IN_HALF_PRECISION = {"relation_bias": (2, 16)}


class Watch:
    """Addresses that the programs of a launch use, and what is wrong with them."""

    def __init__(self):
        self.launches = 0
        self.found: set[str] = set()
        self.spans: list[tuple[int, int]] = []

    def begin(self, name: str, tensors: list[torch.Tensor]) -> None:
        self.launches += 1
        self.name, self.program, self.number = name, -1, {}
        self.used: dict[str, list[tuple[int, np.ndarray]]] = {"load": [], "store": []}
        self.spans = []
        for x in tensors:
            if x.numel():
                places = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
                self.spans.append((x.data_ptr(), x.data_ptr() + places * x.element_size()))

    def enter(self, *program: int) -> None:
        self.program = self.number.setdefault(program, len(self.number))

    def access(self, kind: str, pointers: np.ndarray, mask: np.ndarray) -> None:
        addresses = np.unique(pointers[np.broadcast_to(mask, pointers.shape).astype(bool)].astype(np.int64))
        inside = np.zeros(len(addresses), dtype=bool)
        for first, end in self.spans:
            inside |= (addresses >= first) & (addresses < end)
        if not inside.all():
            self.found.add(f"{self.name}: {kind} outside of all tensors")
        self.used[kind].append((self.program, addresses))

    def end(self) -> None:
        """Places that one program writes and another reads or writes."""

        def of(kind: str) -> np.ndarray:
            pairs = [np.stack([addresses, np.full_like(addresses, program)]) for program, addresses in self.used[kind]]
            return np.unique(np.concatenate(pairs, axis=1), axis=1) if pairs else np.zeros((2, 0), dtype=np.int64)

        written, read = of("store"), of("load")
        if len(np.unique(written[0])) < written.shape[1]:
            self.found.add(f"{self.name}: two programs write one place")
        writer = dict(zip(*written.tolist(), strict=True))
        both = read[:, np.isin(read[0], written[0])]
        if any(writer[address] != program for address, program in zip(*both.tolist(), strict=True)):
            self.found.add(f"{self.name}: a program reads what another writes")


@pytest.fixture
def watch(monkeypatch):
    """Every launch in the interpreter is looked at."""
    watch, builder, executor = Watch(), interpreter.interpreter_builder, interpreter.GridExecutor
    init, call, enter = executor._init_args_hst, executor.__call__, builder.set_grid_idx
    load, store = builder.create_masked_load, builder.create_masked_store

    def begin(self, *given):
        arguments, options = init(self, *given)
        watch.begin(self.fn.__name__, [x for x in (*arguments, *options.values()) if isinstance(x, torch.Tensor)])
        return arguments, options

    def launch(self, *arguments, **options):
        call(self, *arguments, **options)
        watch.end()

    def looked_at(kind, operation):
        def access(pointers, *rest):
            mask = rest[0] if kind == "load" else rest[1]
            watch.access(kind, np.asarray(pointers.data), np.asarray(mask.data))
            return operation(pointers, *rest)

        return access

    monkeypatch.setattr(executor, "_init_args_hst", begin)
    monkeypatch.setattr(executor, "__call__", launch)
    monkeypatch.setattr(builder, "set_grid_idx", lambda *program: (watch.enter(*program), enter(*program))[1], raising=False)
    monkeypatch.setattr(builder, "create_masked_load", looked_at("load", load), raising=False)
    monkeypatch.setattr(builder, "create_masked_store", looked_at("store", store), raising=False)
    return watch


@pytest.mark.parametrize("op", kernel_modules())
def test_kernels_use_their_own_places(op, watch):
    self_test = importlib.import_module(f"moleblend_fs.ops.{op}.selftest").self_test
    self_test(CPU)
    if op in OTHER_KERNELS_IN_HALF_PRECISION:
        self_test(CPU, torch.bfloat16, OTHER_KERNELS_IN_HALF_PRECISION[op])
    assert watch.launches
    assert not watch.found


@triton.jit
def _copy(source, target, count, BLOCK: tl.constexpr, STEP: tl.constexpr):
    i = tl.program_id(0) * STEP + tl.arange(0, BLOCK)
    tl.store(target + i, tl.load(source + i, i < count, 0), i < count)


@pytest.mark.parametrize(
    ("same", "count", "step", "found"),
    [
        (False, 8, 4, set()),
        (True, 8, 4, set()),
        (False, 9, 4, set()),
        (False, 12, 8, {"_copy: load outside of all tensors", "_copy: store outside of all tensors"}),
        (False, 8, 3, {"_copy: two programs write one place"}),
        (True, 8, 3, {"_copy: two programs write one place", "_copy: a program reads what another writes"}),
    ],
)
def test_what_is_wrong_is_seen(same, count, step, found, watch):
    room = torch.zeros(2, 100, dtype=torch.int32)
    source = room[0, 20:28]
    _copy[(2,)](source, source if same else room[1, 20:28], count, BLOCK=4, STEP=step)
    assert watch.found == found
