"""Seconds of collectives of several sizes between processes, as `python -m benchmarks scaling --links` takes them.

torchrun --nproc-per-node 8 -m benchmarks.network_links node.json [--cpu-seconds]

With --cpu-seconds (gloo) of the work of a process, without its waiting, which other programs disturb less.
To be started on all processes that shall be measured; several nodes make the file for runs that go beyond one.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.harness import timed
from benchmarks.simulate import Links

BYTES = (2**7, 2**16, 2**20, 2**24, 2**27)
"""Whole tensors; each rank has its part of those that are gathered or scattered."""
REPEATS = {"cpu": 9, "cuda": 30}


def main(target: Path | None, clock: Callable[[], float]) -> None:
    """Time collectives with nccl on GPUs, else gloo; rank 0 prints them and writes the file."""
    cuda = torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    links = measured(device, clock)
    if dist.get_rank() == 0:
        print(f"{links.processes} processes, {links.backend}; {links.memory / 1e9:.3g} GB/s to memory")
        for kind, points in links.points.items():
            print(f"{kind:15}" + "".join(f"{size / 1e6:10.4g} MB {seconds * 1e6:9.0f} us" for size, seconds in points))
        if target is not None:
            target.write_text(json.dumps(asdict(links)) + "\n")
    dist.destroy_process_group()


def measured(device: torch.device, clock: Callable[[], float]) -> Links:
    """What the processes of the default group take, all busy at a time."""
    n = dist.get_world_size()
    points: dict[str, list[tuple[int, float]]] = {"all_reduce": [], "reduce_scatter": [], "all_gather": []}
    for size in BYTES:
        numbers = size // 4 // n * n
        whole, part = torch.ones(numbers, device=device), torch.ones(numbers // n, device=device)
        calls: dict[str, Callable[[], object]] = {
            "all_reduce": partial(dist.all_reduce, whole),
            "reduce_scatter": partial(dist.reduce_scatter_tensor, part, whole),
            "all_gather": partial(dist.all_gather_into_tensor, whole, part),
        }
        for kind, call in calls.items():
            points[kind].append((4 * numbers, seconds(call, device, clock)))
    source, copy = torch.ones(BYTES[-1] // 4, device=device), torch.ones(BYTES[-1] // 4, device=device)
    return Links(
        processes=n,
        backend=dist.get_backend(),
        points=points,
        memory=2 * source.nbytes / seconds(partial(copy.copy_, source), device, clock),
    )


def seconds(call: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    """Of a call that all ranks begin together, waited for: the lower quartile (others only add), of the slowest rank."""

    def once() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()

    dist.barrier()
    slowest = torch.tensor(np.quantile(timed(once, REPEATS[device.type], warm_up=3, clock=clock), 0.25), device=device)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return float(slowest)


if __name__ == "__main__":
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        raise SystemExit("start at least two processes: torchrun --nproc-per-node 2 -m benchmarks.network_links")
    names = [word for word in sys.argv[1:] if not word.startswith("--")]
    main(Path(names[0]) if names else None, time.process_time if "--cpu-seconds" in sys.argv else time.perf_counter)
