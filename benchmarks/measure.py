"""Time and memory of an op on CPU or GPU, and what a device can do at most."""

import itertools
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

from benchmarks.harness import timed

LONG = 0.5
"""Seconds on a GPU: alternatives that take a second a call are told apart by three."""


class Peak(NamedTuple):
    """A device's limits: floating-point operations per second by type (dense), and bytes per second to memory."""

    bf16: float
    tf32: float
    fp32: float
    memory: float


PEAKS = {
    "H200": Peak(989e12, 495e12, 67e12, 4.8e12),
    "H100 PCIe": Peak(756e12, 378e12, 51e12, 2.0e12),
    "H100": Peak(989e12, 495e12, 67e12, 3.35e12),
    "A100-SXM4-40GB": Peak(312e12, 156e12, 19.5e12, 1.555e12),
    "A100": Peak(312e12, 156e12, 19.5e12, 2.0e12),
}
"""Part of a device's name -> NVIDIA's data sheet; the first that fits."""


def peak_of(device: str) -> Peak | None:
    """The limits of a device; None where they are not known (CPUs)."""
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def roofline_share(flops: float, moved: float, seconds: Iterable[float], device: str, dtype: torch.dtype) -> list[float] | None:
    """Percent: the least time that so many operations and bytes can take, over the times that they took."""
    peak = peak_of(device)
    if peak is None:
        return None
    rate = peak.fp32 if dtype == torch.float32 else peak.bf16
    return [100 * max(flops / rate, moved / peak.memory) / s for s in seconds]


def seconds_of(function: Callable[[], object], repeats: int, device: str) -> list[float]:
    """Seconds of each call after some that do not count: device time on a GPU, CPU seconds on a CPU. On a GPU a call that takes long is
    timed three times."""
    if device != "cuda":
        return timed(function, repeats, clock=time.process_time)
    function()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    function()
    torch.cuda.synchronize()
    if time.perf_counter() - begin > LONG:
        repeats = min(repeats, 3)
    else:
        function()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    marks[0].record()
    for mark in marks[1:]:
        function()
        mark.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1000 for a, b in itertools.pairwise(marks)]


def peak_bytes(function: Callable[[], object], device: str) -> int:
    """Most bytes of tensors that a call holds at a time, beyond those that were there before."""
    function()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held, most = 0, 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
