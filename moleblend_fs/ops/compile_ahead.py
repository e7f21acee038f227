"""Kernels are compiled side by side before they are run and checked one after the other.

The self-tests are gone through once on the CPU, where each launch is looked at as on the GPU and nothing is launched: Triton chooses
what it would compile and hands that to threads (`triton.AsyncCompileMode`). The self-tests that follow find it compiled. What fails here
fails there, too, where it is told.
"""

import contextlib
import importlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch

from moleblend_fs.wording import counted

logger = logging.getLogger(__name__)

_compiling: ContextVar[bool] = ContextVar("launches only compile", default=False)


class Kernels(NamedTuple):
    """What a self-test compiles: an op's kernels for a type, and for sizes as its `selftest` knows them (None: those of the base model)."""

    op: str
    dtype: torch.dtype
    shape: tuple[int, ...] | None


class Compiled(NamedTuple):
    """What was done.

    Attributes:
        kernels: that the self-tests launch. new: of these, how many had to be compiled. failed: how many could not be.
    """

    kernels: int
    new: int
    failed: int


def compile_ahead(wanted: Sequence[Kernels], device: torch.device, threads: int | None = None) -> Compiled:
    """Compile what some self-tests launch on a GPU, and say so.

    Processes of one host begin at different ops, and take from Triton's cache what another has compiled meanwhile.

    Args:
        threads: that compile; by default the processors that there are for this process.
    """
    import triton

    if not hasattr(triton, "AsyncCompileMode"):  # of another version
        return Compiled(0, 0, 0)
    begin, hits = time.perf_counter(), list[bool]()
    threads = threads or processors()
    first = int(os.environ.get("LOCAL_RANK", 0)) % max(1, len(wanted))
    with (
        _reported(hits),
        ThreadPoolExecutor(threads, "compiling") as pool,
        torch.cuda.device(device if device.type == "cuda" else -1),
        _launches_compile(),
        triton.AsyncCompileMode(pool, ignore_errors=True) as mode,
    ):
        for kernels in [*wanted[first:], *wanted[:first]]:
            _walk(kernels)
        count, where = len(mode.future_kernels), triton.knobs.cache.dir
        what = f"{counted(count, 'kernel')} ({', '.join(dict.fromkeys(kernels.op for kernels in wanted))})"
        logger.info("compiling %s for %s on %s, unless in %s from before", what, device, counted(threads, "core"), where)
    done = Compiled(count, hits.count(False), sum(future.exception() is not None for future in mode.raw_futures))
    if done.new or done.failed:
        failed = f", {done.failed} failed" if done.failed else ""
        logger.info("compiled %d of them in %.0f s%s; they are kept there", done.new, time.perf_counter() - begin, failed)
    return done


def only_compiling() -> bool:
    """Whether a self-test's kernels are compiled and not run, so that its tensors hold anything."""
    return _compiling.get()


def interpreted() -> bool:
    """Whether kernels are interpreted, and not compiled."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def processors() -> int:
    """A process's share of the host's."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def _walk(kernels: Kernels) -> None:
    """Go through a self-test."""
    self_test = importlib.import_module(f"moleblend_fs.ops.{kernels.op}.selftest").self_test
    try:
        self_test(torch.device("cpu"), kernels.dtype, kernels.shape)
    except Exception:  # the self-test proper fails as well, and is heard
        logger.debug("%s: not all kernels are compiled ahead", kernels.op, exc_info=True)


@contextlib.contextmanager
def _launches_compile() -> Iterator[None]:
    """Launches do as they do for `warmup=True`: they compile and go no further."""
    from triton.runtime.jit import JITFunction

    run = JITFunction.run

    def compiles(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        return run(kernel, *arguments, grid=grid, warmup=True, **options)

    token = _compiling.set(True)
    JITFunction.run = compiles  # type: ignore[method-assign]
    try:
        yield
    finally:
        JITFunction.run = run  # type: ignore[method-assign]
        _compiling.reset(token)


@contextlib.contextmanager
def _reported(hits: list[bool]) -> Iterator[None]:
    """Whether each kernel was in Triton's cache; who listened before hears it, too."""
    from triton import knobs

    before = knobs.compilation.listener

    def listener(**told: Any) -> None:
        hits.append(told["cache_hit"])
        if before is not None:
            before(**told)

    knobs.compilation.listener = listener
    try:
        yield
    finally:
        knobs.compilation.listener = before
