"""The time of an update on N processes, from measured steps of one process and measured collectives. docs/scaling.md derives it."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moleblend_fs.planning.estimate import PERSISTENT, Setup
from moleblend_fs.planning.estimate import traffic as predicted

PREFETCH = 50_000_000
"""Elements that ZeRO 3 gathers at once (stage3_prefetch_bucket_size)."""
DDP_BUCKET = 25 * 2**20
"""Bytes of gradients that torch's DDP reduces at once."""
PASSES = {"all_reduce": 2, "reduce_scatter": 1, "all_gather": 1}
"""How often a ring passes a tensor."""
COUNTS = {0: 3, 1: 4, 2: 4, 3: 4}
"""All-reduces of a few bytes in an update, by stage: counts of molecules, what is logged, signals, norms."""
DRAWS = 300


class Call(NamedTuple):
    """Collectives of an update that are alike: `times` of them, of a whole tensor of so many bytes; `late` ones follow the optimizer."""

    kind: str
    bytes: int
    times: int
    late: bool = False


@dataclass(frozen=True, kw_only=True)
class Links:
    """What collectives take.

    Attributes:
        processes: that were measured. backend: "nccl" or "gloo".
        points: kind of collective -> (bytes of the whole tensor, seconds), the smallest first.
        memory: bytes per second that a process moves (reads and writes) in copies while all do.
    """

    processes: int
    backend: str
    points: dict[str, list[tuple[int, float]]]
    memory: float

    @property
    def hides(self) -> bool:
        """Communication and computation happen at the same time: on GPUs. fairseq's DDP for CPUs reduces after the backward pass."""
        return self.backend == "nccl"

    @classmethod
    def read(cls, path: Path) -> "Links":
        """What `benchmarks.network_links` wrote."""
        return cls(**json.loads(path.read_text()))

    @classmethod
    def of_rates(cls, bandwidth: float, latency: float, memory: float = math.inf) -> "Links":
        """Links of two processes that send so many bytes a second, a message taking `latency` seconds more."""
        large = 10**12
        points = {kind: [(0, latency), (large, latency + passes * large / 2 / bandwidth)] for kind, passes in PASSES.items()}
        return cls(processes=2, backend="nccl", points=points, memory=memory)

    def seconds(self, call: Call, processes: int) -> float:
        """Of all these calls: a tree's messages, and a ring's bytes, each as they grow with the number of processes."""
        if processes == 1:
            return 0.0
        sizes, times = zip(*self.points[call.kind], strict=True)
        latency = min(times)  # of small messages; a disturbed one may have taken longer than one of more bytes
        if call.bytes <= sizes[-1]:
            transfer = float(np.interp(call.bytes, sizes, times)) - latency
        else:
            transfer = (times[-1] - latency) * call.bytes / sizes[-1]
        messages = math.ceil(math.log2(processes)) / math.ceil(math.log2(self.processes))
        share = (processes - 1) / processes / ((self.processes - 1) / self.processes)
        return call.times * (latency * messages + transfer * share)


class Times(NamedTuple):
    """Seconds of an update and of its parts; `network` is what is not hidden."""

    step: float
    compute: float
    network: float
    copies: float
    optimizer: float
    rest: float


def exchanges(sizes: Sequence[int], setup: Setup, *, whole: bool) -> list[Call]:
    """Collectives of an update but for a few bytes.

    Args:
        whole: DDP reduces all gradients at once (fairseq's legacy_ddp), not in buckets.
    """
    if setup.processes == 1:
        return []
    volume, total = predicted(sizes, setup), sum(sizes)
    if setup.stage == 0:
        calls = 1 if whole else math.ceil(volume["all_reduce"] / DDP_BUCKET)
        return [Call("all_reduce", volume["all_reduce"] // calls, calls)]
    buckets = math.ceil(total / setup.bucket)
    if setup.stage < 3:
        times = buckets * (setup.update_freq if setup.stage == 2 else 1)
        return [Call("all_reduce", volume["all_reduce"] // times, times), Call("all_gather", volume["all_gather"], 1, late=True)]
    kept = [size for size in sizes if size < PERSISTENT]
    times = buckets * setup.update_freq
    result = [Call("reduce_scatter", volume["reduce_scatter"] // times, times)]
    gathered = volume["all_gather"] - setup.width * sum(kept)
    if gathered:
        times = setup.update_freq * math.ceil(gathered / setup.update_freq / setup.width / PREFETCH)
        result.append(Call("all_gather", gathered // times, times))
    if kept:  # after the step, each by itself
        result.append(Call("all_gather", setup.width * sum(kept) // len(kept), len(kept), late=True))
    return result


def copied(sizes: Sequence[int], setup: Setup, *, whole: bool) -> int:
    """Bytes that a process reads and writes for the exchange, beyond what a step on one process does.

    legacy_ddp copies gradients into a buffer, divides it and copies it back. Each micro-batch after the first adds its
    gradients to those that are there.
    """
    gradients = setup.width * sum(sizes)
    added = 3 * gradients * (setup.update_freq - 1)
    return added + (6 * gradients if whole and setup.stage == 0 and setup.processes > 1 else 0)


def simulate(
    sizes: Sequence[int],
    setup: Setup,
    links: Links,
    micro: Sequence[float],
    *,
    optimizer: float = 0.0,
    rest: float = 0.0,
) -> Times:
    """Median time of an update.

    Args:
        micro: seconds that forward and backward pass of a micro-batch took, each of several. Processes draw theirs from these, and
            wait for the slowest where gradients are exchanged.
        optimizer: seconds on one process, of all parameters. ZeRO divides it.
        rest: seconds of an update for all else.
    """
    n = setup.processes
    drawn = np.random.default_rng(0).choice(np.asarray(micro), (DRAWS, n, setup.update_freq))
    waiting = drawn.sum(2).max(1) if setup.stage < 2 else drawn.max(1).sum(1)
    compute = float(np.median(waiting))
    calls = exchanges(sizes, setup, whole=not links.hides)
    early, late = (sum(links.seconds(call, n) for call in calls if call.late == after) for after in (False, True))
    hidden = 2 / 3 * compute if links.hides and setup.stage in (0, 3) else 0.0
    small = links.seconds(Call("all_reduce", 0, COUNTS[setup.stage]), n)
    network = max(0.0, early - hidden) + late + small
    copies = copied(sizes, setup, whole=not links.hides) / links.memory
    updated = optimizer / (n if setup.stage else 1)
    return Times(compute + network + copies + updated + rest, compute, network, copies, updated, rest)
