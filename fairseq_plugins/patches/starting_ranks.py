"""Where fairseq 0.12 starts ranks wrongly, or none: torchrun and Slurm without several GPUs, and the processes of a host.

`configuration.fix_config` lets it find rank and world size filled in (`infer_world`), so that its own inference is not reached; `call_main`
has `spawn` start processes. Ranks of torchrun meet by `rendezvous`, which is registered with torch.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from fairseq.distributed import utils as distributed_utils
from omegaconf import DictConfig
from torch.distributed.constants import default_pg_timeout

from fairseq_plugins.options import on_cpu
from moleblend_fs.runtime.stop_signals import SIGNALS, pass_signals_to, preemption

PINS = {
    "fairseq.distributed.utils.infer_init_method": "dc3a9f23530d",
    "fairseq.distributed.utils.distributed_init": "9cc0c90ef9c8",
    "fairseq.distributed.utils.distributed_main": "54b6cc59b7d5",
    "fairseq.models.distributed_fairseq_model.DistributedFairseqModel": "9050d9fbaa02",
    "torch.distributed.rendezvous._env_rendezvous_handler": "b5cc8d114683",
    "torch.distributed.rendezvous._create_c10d_store": "aa6e1404d895",
}
SCHEME = "moleblend"
"""Our own way for ranks to find each other: torchrun's, see `rendezvous`."""
ENDING = 30.0
"""Seconds that a process has to end after Ctrl-C."""


def install() -> None:
    """Register `rendezvous` with torch."""
    with contextlib.suppress(RuntimeError):  # it is registered already
        dist.register_rendezvous_handler(SCHEME, rendezvous)


def infer_world(cfg: DictConfig) -> None:
    """Rank and world size from torchrun's or Slurm's environment.

    fairseq looks at the environment only where it sees several devices: without one, every process of torchrun would
    train alone, into the same folder, and Slurm's tasks nothing at all.
    """
    distributed, environment = cfg.distributed_training, os.environ
    if distributed.distributed_init_method is not None:
        return
    if all(name in environment for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")):
        rank, world, local = (int(environment.get(name, 0)) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        method = f"{SCHEME}://"
    elif int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "SLURM_PROCID" in environment:
        rank, world, local = (int(environment[f"SLURM_{name}"]) for name in ("PROCID", "STEP_NUM_TASKS", "LOCALID"))
        method = f"tcp://{environment.get('MASTER_ADDR') or first_slurm_host()}:{slurm_port(distributed.distributed_port)}"
    else:
        return
    if world == 1:
        return
    distributed.distributed_world_size = world
    distributed.distributed_rank = rank
    distributed.distributed_init_method = method
    distributed.distributed_no_spawn = True
    distributed.device_id = 0 if on_cpu(cfg) else local
    if not on_cpu(cfg):
        torch.cuda.set_device(local)


def rendezvous(url: str, timeout: timedelta = default_pg_timeout, **kwargs: Any) -> Iterator[tuple[dist.Store, int, int]]:
    """torchrun's "env://", but with names of its own for each restart.

    torch 2.13 starts ranks again on the store of those that died: a new rank can find the address of a dead one there, and
    its connection is refused.
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    for store, rank, world in dist.rendezvous("env://", timeout=timeout):
        yield dist.PrefixStore(f"attempt-{attempt}", store), rank, world


def first_slurm_host() -> str:
    """The first host of this Slurm step."""
    hosts = os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_JOB_NODELIST"]
    return subprocess.run(["scontrol", "show", "hostnames", hosts], capture_output=True, text=True, check=True).stdout.split()[0]


def slurm_port(requested: int) -> int:
    """The port that was requested, or one that all tasks of this step agree on."""
    step = f"{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_STEP_ID', '0')}"
    return requested if requested > 0 else 20_000 + zlib.crc32(step.encode()) % 20_000


def use_cpu_backends(cfg: DictConfig) -> None:
    """On the CPU gloo replaces nccl; torch's DDP is given device ids by fairseq, which it refuses there."""
    distributed = cfg.distributed_training
    if distributed.distributed_world_size > 1 and on_cpu(cfg):
        if distributed.distributed_backend == "nccl":
            distributed.distributed_backend = "gloo"
        if distributed.ddp_backend in ("c10d", "pytorch_ddp"):
            distributed.ddp_backend = "legacy_ddp"


def spawns(cfg: DictConfig) -> bool:
    """Whether several processes are wanted on this host and nobody has started them; on GPUs as fairseq finds that out."""
    distributed = cfg.distributed_training
    if distributed.distributed_world_size == 1 or distributed.distributed_no_spawn or cfg.common.tpu:
        return False
    if on_cpu(cfg):
        return True
    distributed_utils.infer_init_method(distributed)
    return distributed.distributed_init_method is not None and not distributed.distributed_no_spawn


def spawn(cfg: DictConfig, main: Callable[..., Any], kwargs: dict[str, Any]) -> None:
    """Start the processes of `--distributed-world-size N`, pass signals on to them, and end as they do.

    fairseq counts GPUs and starts none on a CPU; a signal ends its parent process, or is lost there, and any exit code becomes 1.
    """
    distributed = cfg.distributed_training
    processes = distributed.distributed_world_size
    if not on_cpu(cfg):
        processes = min(torch.cuda.device_count(), processes)
    elif distributed.distributed_init_method is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            distributed.distributed_init_method = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    kwargs["start_rank"] = distributed.distributed_rank
    distributed.distributed_rank = None
    context = torch.multiprocessing.spawn(run_rank, args=(main, cfg, kwargs), nprocs=processes, join=False)
    pass_on = pass_signals_to(lambda: context.processes)
    for number in SIGNALS:
        signal.signal(number, pass_on)
    if preemption.received:  # meanwhile
        pass_on(preemption.received, None)
    wait_for(context, pass_on)


def run_rank(place: int, main: Callable[..., Any], cfg: DictConfig, kwargs: dict[str, Any]) -> None:
    """What a process that was started does, the `place`-th on this host: fairseq's, but that it heeds signals from its beginning on."""
    preemption.listen()
    distributed_utils.distributed_main(place, main, cfg, kwargs)


def wait_for(context: Any, pass_on: Callable[[int, Any], None]) -> None:
    """Wait for processes that were started; end with the exit code of the first that failed, or as a signal ends a process (128 + its
    number)."""
    try:
        while not context.join():
            pass
    except torch.multiprocessing.ProcessExitedException as error:
        if error.signal_name is not None:
            print(f"moleblend: error: rank {error.error_index} was ended by {error.signal_name}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code if error.exit_code >= 0 else 128 - error.exit_code)
    except KeyboardInterrupt:
        pass_on(signal.SIGINT, None)
        for process in context.processes:
            process.join(ENDING)
            process.kill()
        raise
