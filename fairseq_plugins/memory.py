"""The estimate of memory before training: from fairseq's options and the batches of the first epoch."""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairseq_plugins.compat import engine_options, optimizer_name
from moleblend_fs.distributed.engine import engine_config
from moleblend_fs.distributed.estimate import BUCKET, GIB, LIVE, Batch, Setup, estimate, judge
from moleblend_fs.ops.dispatch import uses_triton

logger = logging.getLogger(__name__)

VARIABLE = "MOLEBLEND_MEMORY_CHECK"
"""Environment variable; 0 leaves the check out."""


def check_memory(trainer: Any) -> None:
    """Log what training will take; UserError if that is more than there is.

    Only Adam is known, with fairseq or DeepSpeed. To be called when batches are planned and the optimizer is not yet built.
    """
    if os.environ.get(VARIABLE) == "0" or not trainer.adam:
        return
    sizes = [parameter.numel() for parameter in trainer.get_model().parameters()]
    setup = setup_of(trainer, sum(sizes))
    memory = estimate(sizes, trainer.get_model().model.config, largest_batch(trainer.epoch_iterator), setup)
    here = local_processes(trainer.cfg)
    if trainer.device.type == "cuda":
        # What torch has reserved is this process's own, the model among it.
        available = torch.cuda.mem_get_info(trainer.device)[0] + torch.cuda.memory_reserved(trainer.device)
        where = "the GPU"
    else:
        memory = memory._replace(peak=memory.peak + memory.host)
        available = available_on_host() // here + resident()
        where = "the host"
    if trainer.is_data_parallel_master:
        logger.info("memory of each process, estimated: %s; %s has %.2f GiB for it", memory, where, available / GIB)
    warning = judge(memory, available, setup, where)
    if warning is None and trainer.device.type == "cuda" and memory.host:
        warning = judge(memory._replace(peak=memory.host), available_on_host() // here, setup, "host memory")
    if warning is not None and trainer.is_data_parallel_master:
        logger.warning("%s: it may run out of memory", warning)


def setup_of(trainer: Any, parameters: int) -> Setup:
    """What fairseq's options say about memory."""
    cfg, zero = trainer.cfg, {}
    options = engine_options(cfg) if optimizer_name(cfg) == "deepspeed" else None
    if options is not None:
        zero = engine_config(options, parameters)["zero_optimization"]
    bucket = int(zero.get("reduce_bucket_size", BUCKET))
    return Setup(
        processes=trainer.data_parallel_world_size,
        stage=options.stage if options else 0,
        offload=options.offload if options else False,
        half=bool(cfg.common.bf16 or cfg.common.fp16),
        update_freq=max(cfg.optimization.update_freq),
        kernels=uses_triton("attention", trainer.device),
        masters=not (cfg.common.memory_efficient_bf16 or cfg.common.memory_efficient_fp16),
        reuse=min(int(zero.get("stage3_max_reuse_distance", LIVE)), 2 * int(zero.get("stage3_max_live_parameters", LIVE))),
        # On the CPU memory that is allocated but not written to does not count.
        bucket=bucket if trainer.device.type == "cuda" else min(bucket, parameters),
    )


def largest_batch(iterator: Any) -> Batch:
    """The batch of an epoch that has most pairs."""
    atoms = iterator.dataset.num_atoms
    found = Batch(0, 0, 0)
    for indices in iterator.frozen_batches:
        sizes = atoms[np.asarray(indices, dtype=np.int64)]
        found = max(found, Batch(len(sizes), int(sizes.sum()), int((sizes**2).sum())), key=lambda batch: batch.pairs)
    return found


def local_processes(cfg: Any) -> int:
    """Training processes that share this host's memory, as far as the launcher says."""
    environment, distributed = os.environ, cfg.distributed_training
    if "LOCAL_WORLD_SIZE" in environment:
        return int(environment["LOCAL_WORLD_SIZE"])
    if distributed.distributed_no_spawn and "SLURM_STEP_NUM_TASKS" in environment:
        return int(environment["SLURM_STEP_NUM_TASKS"]) // int(environment.get("SLURM_STEP_NUM_NODES", 1))
    return 1 if distributed.distributed_no_spawn else max(1, distributed.distributed_world_size)


def resident() -> int:
    """Bytes that this process has already: the model and, in a resumed run, the optimizer are there when memory is checked."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def available_on_host() -> int:
    """Bytes that processes can still get: of the machine, and within the limits of the control groups that they run in (Slurm's
    jobs, containers)."""
    if not Path("/proc/meminfo").exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    result = int(meminfo["MemAvailable"].split()[0]) * 1024
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            root = Path("/sys/fs/cgroup")
            group = root / line.removeprefix("0::/")
            for folder in (group, *group.parents):
                if folder.is_relative_to(root):
                    result = min(result, left_in(folder, result))
    return result


def left_in(folder: Path, unlimited: int) -> int:
    """What a control group (version 2) may still take; file caches that can be dropped do not count."""
    limit, current, stat = (folder / f"memory.{name}" for name in ("max", "current", "stat"))
    if not (limit.exists() and current.exists() and stat.exists()) or limit.read_text().strip() == "max":
        return unlimited
    cached = dict(line.split() for line in stat.read_text().splitlines()).get("inactive_file", 0)
    return int(limit.read_text()) - int(current.read_text()) + int(cached)
