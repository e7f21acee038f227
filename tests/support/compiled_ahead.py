"""The pass that compiles kernels ahead, for a GPU that is not there.

For a process without Triton's interpreter (`without_interpreter`) and with a cache of its own. "ahead" compiles by two threads what the
self-tests of a model launch; "after" makes the self-tests' launches one after the other, each compiling as a real one would; "broken" has
a self-test with a kernel that is none.
"""

import logging
import sys
import threading
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from moleblend_fs.model.config import PRESETS, ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.objectives.blend_then_predict import BlendConfig
from moleblend_fs.ops import compile_ahead
from moleblend_fs.ops.compile_ahead import Kernels
from tests.support.recorded_launches import WithoutGPU

CPU = torch.device("cpu")


def kernels_of(arch: str, dtype: str, op: str = "") -> list[Kernels]:
    with torch.device("meta"):
        model = MoleBlend(ModelConfig(**PRESETS[arch], heads=BlendConfig().predict)).to(getattr(torch, dtype))
    return [kernels for kernels in model.kernels() if op in ("", kernels.op)]


def ahead(*model: str) -> dict[str, Any]:
    said: list[str] = []
    threads: set[int] = set()
    launched: list[Any] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    compile_ahead.logger.addHandler(handler)
    compile_ahead.logger.setLevel(logging.INFO)
    triton.knobs.compilation.listener = lambda **told: threads.add(threading.get_ident())
    triton.knobs.runtime.launch_enter_hook = launched.append
    done = compile_ahead.compile_ahead(kernels_of(*model), CPU, threads=2)
    return {"kernels": done.kernels, "compiled": list(done), "threads": len(threads), "launched": len(launched), "said": said}


def after(*model: str) -> dict[str, int]:
    """Each launch in turn, in the thread that makes it."""
    hits: list[bool] = []
    triton.knobs.compilation.listener = lambda **told: hits.append(told["cache_hit"])
    with compile_ahead._launches_compile():
        for kernels in kernels_of(*model):
            compile_ahead._walk(kernels)
    return {"kernels": len(hits), "new": hits.count(False)}


@triton.jit
def good(x_ptr, SIZE: tl.constexpr):
    tl.store(x_ptr + tl.arange(0, SIZE), 1.0)


@triton.jit
def bad(x_ptr, SIZE: tl.constexpr):
    tl.store(x_ptr + tl.arange(0, SIZE), no_such_thing)  # noqa: F821


def broken() -> dict[str, Any]:
    def self_test(device: torch.device, dtype: torch.dtype, shape: tuple[int, ...] | None) -> None:
        x = torch.zeros(64, device=device, dtype=dtype)
        for kernel, size in ((good, 16), (bad, 16), (good, 32)):
            kernel[(1,)](x, SIZE=size)

    wanted = Kernels("toy", torch.float32, None)
    with mock.patch.dict(sys.modules, {"moleblend_fs.ops.toy.selftest": SimpleNamespace(self_test=self_test)}):
        done = compile_ahead.compile_ahead([wanted], CPU, threads=2)
    try:
        bad.warmup(torch.zeros(64), SIZE=16, grid=(1,))
    except triton.CompilationError as error:
        return {"compiled": list(done), "again": type(error).__name__}
    return {"compiled": list(done)}


def call(what: str, architecture: int, *words: str) -> dict[str, Any]:
    """What `ahead`, `after` or `broken` gives for a compute capability times 10."""
    target = GPUTarget("cuda", architecture, 32)
    with mock.patch.object(WithoutGPU, "get_current_target", staticmethod(lambda: target)):
        driver.set_active(WithoutGPU())
        return {"ahead": ahead, "after": after, "broken": broken}[what](*words)
