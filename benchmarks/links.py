"""Bandwidth and latency between processes, as `python -m benchmarks scaling` wants them: to be started by torchrun on all of them.

torchrun --nproc-per-node 8 -m benchmarks.links
"""

import math
import os
import statistics

import torch
import torch.distributed as dist

from benchmarks.harness import timed

LARGE, SMALL, REPEATS = 1 << 24, 2, 15
"""Float32 numbers of the two all-reduces that are timed (64 MB and 8 bytes), and how often each."""


def main() -> None:
    """Time all-reduces with nccl on GPUs, else gloo; rank 0 prints options for the scaling benchmark."""
    cuda = torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    n = dist.get_world_size()
    small, large = (seconds(torch.ones(numbers, device=device)) for numbers in (SMALL, LARGE))
    latency = small / math.ceil(math.log2(n))
    bandwidth = 2 * (n - 1) / n * 4 * LARGE / (large - small)
    if dist.get_rank() == 0:
        print(f"{n} processes, {dist.get_backend()}: --{'node' if cuda else 'network'} {bandwidth / 1e9:.3g} --latency {latency * 1e6:.3g}")
    dist.destroy_process_group()


def seconds(tensor: torch.Tensor) -> float:
    """Median time of an all-reduce, waited for."""

    def once() -> None:
        dist.all_reduce(tensor)
        if tensor.is_cuda:
            torch.cuda.synchronize()

    return statistics.median(timed(once, REPEATS, warm_up=3))


if __name__ == "__main__":
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        raise SystemExit("start at least two processes: torchrun --nproc-per-node 2 -m benchmarks.links")
    main()
