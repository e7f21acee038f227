"""Estimates of memory before training: of the model's states before it is built, of all when the first epoch is planned."""

import logging
import os
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from fairseq_plugins.options import engine_options, on_cpu, optimizer_name, our_options
from fairseq_plugins.pretraining_task import objective_of
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.heads import HEADS
from moleblend_fs.ops.dispatch import wants_triton
from moleblend_fs.planning.estimate import BUCKET, GIB, LIVE, Batch, Memory, Setup, estimate, judge, parameter_sizes
from moleblend_fs.runtime import host_memory
from moleblend_fs.zero.engine import engine_config

logger = logging.getLogger(__name__)

VARIABLE = "MOLEBLEND_MEMORY_CHECK"
"""Environment variable; 0 leaves the checks out."""
GPU = "the GPU"
_before_model = 0  # state: fairseq builds the model between the two checks
"""Memory that this process had before its model was built."""


def check_states(cfg: Any) -> None:
    """Before the model is built: UserError if it, and what the optimizer keeps for it, are more than there is.

    To be called in each training process.
    """
    global _before_model
    _before_model = host_memory.resident()
    if os.environ.get(VARIABLE) == "0" or optimizer_name(cfg) not in ("adam", "deepspeed") or not cfg.model._name.startswith("moleblend"):
        return
    config = our_options(ModelConfig, cfg.model, heads=heads_of(cfg.task))
    sizes = parameter_sizes(config)
    build = 4 * sum(sizes)
    if build > (left := left_on_host(cfg)):
        raise UserError(
            f"each process builds the model in float32, which takes {build / GIB:.2f} GiB, and the host has {left / GIB:.2f} GiB for it; "
            f"choose a smaller --arch, or fewer processes on this host. {VARIABLE}=0 starts all the same"
        )
    setup = setup_of(cfg, sum(sizes))
    judge_all(cfg, estimate(sizes, config, None, setup), setup, built=0)


def passes_of(task: Any) -> float:
    """Passes of the encoder that a micro-batch takes; one where no objective is named."""
    return objective_of(task).passes if hasattr(task, "objective") else 1.0


def heads_of(task: Any) -> tuple[str, ...]:
    """Heads that a task's options ask for; all of the model's own where they name no objective."""
    return objective_of(task).heads() if hasattr(task, "objective") else HEADS


def check_memory(trainer: Any) -> None:
    """Log what training will take; UserError if that is more than there is.

    Only Adam is known, with fairseq or DeepSpeed. To be called when batches are planned; the model is built by then, and in a resumed
    run the optimizer.
    """
    if os.environ.get(VARIABLE) == "0" or not trainer.adam:
        return
    sizes = [parameter.numel() for parameter in trainer.get_model().parameters()]
    setup = replace(setup_of(trainer.cfg, sum(sizes)), kernels=wants_triton("attention", trainer.device))
    memory = estimate(sizes, trainer.get_model().model.config, largest_batch(trainer.epoch_iterator), setup)
    said = judge_all(trainer.cfg, memory, setup, built=host_memory.resident() - _before_model)
    if trainer.is_data_parallel_master and trainer.forecast.first is None:  # once, not for every epoch
        logger.info("memory of each process, estimated: %s; %s", memory, said)


class Place(NamedTuple):
    """Somewhere that memory is needed: what is needed there, and the bytes that there are."""

    where: str
    needed: Memory
    available: int


def judge_all(cfg: Any, memory: Memory, setup: Setup, built: int) -> str:
    """What there is for the memory, with a warning if it is scarce.

    Args:
        built: bytes of it that this process has on the host already.

    Raises:
        UserError: it cannot fit on the host.
    """
    left = left_on_host(cfg)
    if on_cpu(cfg):
        places = [Place("the host", memory._replace(peak=memory.peak + memory.host), left + max(0, built))]
    else:
        # What torch has reserved is this process's own, the model among it.
        device = torch.cuda.current_device()
        available = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        places = [Place(GPU, memory, available)]
        if memory.host:
            places.append(Place("host memory", memory._replace(peak=memory.host), left))
    for where, needed, available in places:
        try:
            warning = judge(needed, available, setup, where)
        except UserError as error:
            # The formula's factors were fitted on the CPU: what it says of a GPU is no reason to refuse.
            if where != GPU:
                raise
            warning = str(error)
        if warning is not None:
            logger.warning("%s: it may run out of memory", warning)
    where, _, available = places[0]
    return f"{where} has {available / GIB:.2f} GiB for it"


def left_on_host(cfg: Any) -> int:
    """Bytes that this process can still get, its share of what all training processes of this host can."""
    share = host_memory.of_machine() // local_processes(cfg)
    limit = host_memory.of_process()
    return share if limit is None else min(share, limit)


def setup_of(cfg: Any, parameters: int) -> Setup:
    """What fairseq's options say about memory; not whether kernels run, which the task decides."""
    zero: dict[str, Any] = {}
    options = engine_options(cfg) if optimizer_name(cfg) == "deepspeed" else None
    if options is not None:
        zero = engine_config(options, parameters)["zero_optimization"]
    bucket = int(zero.get("reduce_bucket_size", BUCKET))
    return Setup(
        processes=max(1, cfg.distributed_training.distributed_world_size),
        stage=options.stage if options else 0,
        offload=options.offload if options else False,
        half=bool(cfg.common.bf16 or cfg.common.fp16),
        update_freq=int(max(cfg.optimization.update_freq)),
        masters=not (cfg.common.memory_efficient_bf16 or cfg.common.memory_efficient_fp16),
        reuse=min(int(zero.get("stage3_max_reuse_distance", LIVE)), 2 * int(zero.get("stage3_max_live_parameters", LIVE))),
        # On the CPU memory that is allocated but not written to does not count.
        bucket=min(bucket, parameters) if on_cpu(cfg) else bucket,
        passes=passes_of(cfg.task),
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
