"""Every deviation that fairseq 0.12 forces on us with today's torch, one function each.

Most are reached through one hook, `fairseq.distributed.utils.call_main`: it is called with the full configuration, after the
user directory is imported and before any process group or process exists. `install` puts it and the others in place.
"""

import contextlib
import functools
import logging
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
from fairseq import checkpoint_utils, utils
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.logging import meters
from omegaconf import DictConfig, open_dict
from torch.distributed.constants import default_pg_timeout

from fairseq_plugins import console, places, resuming, subsets
from fairseq_plugins.loading import allow_many_files, check_open_files, failed, is_of_loader
from fairseq_plugins.memory import check_states
from fairseq_plugins.options import engine_options, on_cpu, optimizer_name
from moleblend_fs.checkpoint import whole_files, zero_moments
from moleblend_fs.errors import UserError
from moleblend_fs.runtime import watchdog
from moleblend_fs.runtime.preemption import SIGNALS, passing_on, preemption
from moleblend_fs.zero.clipping import clip_grad_norm_
from moleblend_fs.zero.engine import STAGES, engine_config, require_deepspeed

logger = logging.getLogger(__name__)

RENDEZVOUS = "moleblend"
"""Our own way for ranks to find each other: torchrun's, see `meet`."""

_fairseq_call_main = distributed_utils.call_main
_fairseq_save_checkpoint = checkpoint_utils.save_checkpoint
_fairseq_load_checkpoint = checkpoint_utils.load_checkpoint


def install() -> None:
    """Put the hooks in place, once."""
    distributed_utils.call_main = call_main
    utils.clip_grad_norm_ = clip_grad_norm_
    checkpoint_utils.save_checkpoint = save_checkpoint
    checkpoint_utils.load_checkpoint = load_checkpoint
    checkpoint_utils.verify_checkpoint_directory = lambda folder: places.make_folder("--save-dir", folder)
    if os.path.basename(sys.argv[0]).startswith("fairseq-"):
        console.hold_warnings()
    with contextlib.suppress(RuntimeError):  # it is registered already
        dist.register_rendezvous_handler(RENDEZVOUS, meet)
    # fairseq copies a new checkpoint to its other names byte by byte: killed meanwhile, it leaves half a checkpoint_last.pt.
    PathManager.copy = staticmethod(lambda source, target, overwrite=False: whole_files.copy(source, target))


def call_main(cfg: DictConfig, main: Callable[..., Any], **kwargs: Any) -> Any:
    """fairseq's entry, with the configuration mended and users' mistakes told without a traceback (exit code 2)."""
    main = functools.partial(without_traceback, main)
    preemption.listen()
    try:
        mend(cfg)
    except UserError as error:
        tell(error)
    if needs_cpu_spawn(cfg):
        return spawn_on_cpu(cfg, main, kwargs)
    return _fairseq_call_main(cfg, main, **kwargs)


def without_traceback(main: Callable[..., Any], cfg: DictConfig, *args: Any, **kwargs: Any) -> None:
    """Run `main`, in each training process; a UserError becomes its message and exit code 2, a stop by a signal the exit code asked for."""
    preemption.listen()
    try:
        with open_dict(cfg):
            console.begin(cfg)
        allow_many_files()
        check_open_files(cfg.dataset.num_workers, held=cfg.dataset.data_buffer_size + 2 * max(cfg.optimization.update_freq))
        check_states(cfg)
        main(cfg, *args, **kwargs)
    except UserError as error:
        tell(error)
    except ConnectionError:
        raise  # of other ranks
    except OSError as error:
        tell(places.of_system(error))
    except RuntimeError as error:
        if is_of_loader(error):
            tell(failed(error))
        if watchdog.current is not None and (silent := watchdog.current.explain_failure()):
            print(f"moleblend: error: lost {silent}", file=sys.stderr, flush=True)
        raise
    finally:
        if watchdog.current is not None:
            watchdog.current.stop()
        console.end()
    if preemption.exit_code():
        logging.shutdown()
        sys.exit(preemption.exit_code())


def tell(error: UserError) -> None:
    """Print a user's mistake (once, where all ranks make it together) and end the process."""
    logging.shutdown()
    if not (isinstance(error, whole_files.SharedError) and dist.is_initialized() and dist.get_rank() > 0):
        print(f"moleblend: error: {error}", file=sys.stderr, flush=True)
    sys.exit(2)


def mend(cfg: DictConfig) -> None:
    """All mends of the configuration."""
    with open_dict(cfg):
        clear_tpu(cfg)
        refuse_fp16_on_cpu(cfg)
        refuse_unsafe_saving(cfg)
        refuse_with_deepspeed(cfg)
        check_pretrained(cfg)
        check_restore_file(cfg)
        accept_pair_limit(cfg)
        tidy_subsets(cfg)
        console.check_save_interval(cfg, sys.argv)
        places.check_places(cfg)
        load_on_all_ranks(cfg)
        infer_world(cfg)
        use_cpu_backends(cfg)


def clear_tpu(cfg: DictConfig) -> None:
    """options.py of fairseq 0.12 sets tpu for every --bf16; without XLA that ends in an AttributeError."""
    if cfg.common.bf16 and distributed_utils.xm is None:
        for section in (cfg.common, cfg.distributed_training, cfg.optimizer):
            if section is not None and "tpu" in section:
                section.tpu = False


def refuse_fp16_on_cpu(cfg: DictConfig) -> None:
    """fairseq's fp16 path asserts on CUDA deep inside; say so at the start."""
    if cfg.common.fp16 and on_cpu(cfg):
        raise UserError("--fp16 needs a GPU and none is in use; leave it out, or train with --bf16, which also runs on the CPU")


def refuse_unsafe_saving(cfg: DictConfig) -> None:
    """fairseq's asynchronous writes end up under final names before they are complete."""
    if cfg.checkpoint.write_checkpoints_asynchronously:
        raise UserError("--write-checkpoints-asynchronously could leave half-written checkpoints; leave it out")


def refuse_with_deepspeed(cfg: DictConfig) -> None:
    """Name what does not go with --optimizer deepspeed before any process is started."""
    if optimizer_name(cfg) != "deepspeed":
        return
    refused = {
        "--store-ema": cfg.ema.store_ema,
        "--quantization-config-path": cfg.common.quantization_config_path,
        "--amp": cfg.common.amp,
        "--memory-efficient-fp16": cfg.common.memory_efficient_fp16,
        "--memory-efficient-bf16": cfg.common.memory_efficient_bf16,
        "--use-bmuf": cfg.optimization.use_bmuf,
        "--zero-sharding": str(cfg.distributed_training.zero_sharding) != "none",
        "--ddp-backend fully_sharded": str(cfg.distributed_training.ddp_backend) == "fully_sharded",
        "--ddp-backend slowmo": str(cfg.distributed_training.ddp_backend) == "slowmo",
        "--pipeline-model-parallel": cfg.distributed_training.pipeline_model_parallel,
        "--model-parallel-size": cfg.common.model_parallel_size > 1,
    }
    for flag, given in refused.items():
        if given:
            raise UserError(f"{flag} does not go with --optimizer deepspeed; leave it out, or choose --optimizer adam")
    if cfg.optimizer.zero_stage not in STAGES:
        raise UserError(f"--zero-stage {cfg.optimizer.zero_stage}: choose 1, 2 or 3 (without ZeRO: --optimizer adam)")
    if on_cpu(cfg):
        os.environ["DS_ACCELERATOR"] = "cpu"  # for processes that are started; this one has imported DeepSpeed already
    require_deepspeed()
    engine_config(engine_options(cfg))


def check_pretrained(cfg: DictConfig) -> None:
    """fairseq ends in a traceback where the pretrained weights are not there, after the data are loaded."""
    pretrained = cfg.checkpoint.finetune_from_model
    if pretrained is not None and not os.path.exists(pretrained):
        raise UserError(f"--finetune-from-model {pretrained}: no such checkpoint")


def check_restore_file(cfg: DictConfig) -> None:
    """fairseq begins from scratch where the file asked for does not exist; only the default one may be absent."""
    asked = cfg.checkpoint.restore_file
    if asked != "checkpoint_last.pt" and not os.path.exists(asked):
        raise UserError(f"--restore-file {asked}: no such checkpoint; leave it out to resume from checkpoint_last.pt in --save-dir")


def accept_pair_limit(cfg: DictConfig) -> None:
    """fairseq asserts that --max-tokens or --batch-size is given; --max-pairs is a limit too."""
    if cfg.dataset.max_tokens is None and cfg.dataset.batch_size is None:
        if not cfg.task.get("max_pairs"):
            raise UserError("a batch needs a limit: give --batch-size, --max-tokens or --max-pairs")
        cfg.dataset.batch_size = cfg.dataset.batch_size_valid = sys.maxsize


def tidy_subsets(cfg: DictConfig) -> None:
    """fairseq takes " b" of "a, b" for a name. It also looks for files of unused validation sets beside the data, whose path it splits
    at each colon; a store has none."""
    cfg.dataset.train_subset = subsets.tidy(cfg.dataset.train_subset)
    cfg.dataset.valid_subset = subsets.tidy(cfg.dataset.valid_subset)
    cfg.dataset.ignore_unused_valid_subsets = True


def load_on_all_ranks(cfg: DictConfig) -> None:
    """Resuming broadcasts a pickled configuration, which today's torch refuses to unpickle; every rank reads the file instead."""
    cfg.checkpoint.load_checkpoint_on_all_dp_ranks = True


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
        method = f"{RENDEZVOUS}://"
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


def meet(url: str, timeout: timedelta = default_pg_timeout, **kwargs: Any) -> Iterator[tuple[dist.Store, int, int]]:
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


def slurm_port(asked: int) -> int:
    """The port asked for, or one that all tasks of this step agree on."""
    step = f"{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_STEP_ID', '0')}"
    return asked if asked > 0 else 20_000 + zlib.crc32(step.encode()) % 20_000


def use_cpu_backends(cfg: DictConfig) -> None:
    """On the CPU gloo replaces nccl; torch's DDP is given device ids by fairseq, which it refuses there."""
    distributed = cfg.distributed_training
    if distributed.distributed_world_size > 1 and on_cpu(cfg):
        if distributed.distributed_backend == "nccl":
            distributed.distributed_backend = "gloo"
        if distributed.ddp_backend in ("c10d", "pytorch_ddp"):
            distributed.ddp_backend = "legacy_ddp"


def needs_cpu_spawn(cfg: DictConfig) -> bool:
    """Whether several processes are wanted on the CPU and nobody has started them."""
    distributed = cfg.distributed_training
    return on_cpu(cfg) and distributed.distributed_world_size > 1 and not distributed.distributed_no_spawn


def spawn_on_cpu(cfg: DictConfig, main: Callable[..., Any], kwargs: dict[str, Any]) -> None:
    """Start the processes of `--distributed-world-size N` on the CPU; fairseq counts GPUs and starts none."""
    distributed = cfg.distributed_training
    if distributed.distributed_init_method is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            distributed.distributed_init_method = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    kwargs["start_rank"] = distributed.distributed_rank
    distributed.distributed_rank = None
    context = torch.multiprocessing.spawn(
        distributed_utils.distributed_main, args=(main, cfg, kwargs), nprocs=distributed.distributed_world_size, join=False
    )
    for number in SIGNALS:
        signal.signal(number, passing_on(lambda: context.processes))
    try:
        while not context.join():
            pass
    except torch.multiprocessing.ProcessExitedException as error:
        if error.signal_name is not None:
            print(f"moleblend: error: rank {error.error_index} was ended by {error.signal_name}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


def save_checkpoint(cfg: DictConfig, trainer: Any, epoch_itr: Any, val_loss: Any) -> str | None:
    """fairseq's, called by all ranks, of which only the first one writes the file.

    Raises:
        UserError: (on all ranks) it did not.
    """
    path, failure = None, None
    trainer.validation_due = val_loss is None and resuming.validates_here(trainer, epoch_itr)
    try:
        path = _fairseq_save_checkpoint(cfg, trainer, epoch_itr, val_loss)
    except UserError as error:
        failure = str(error)
    whole_files.raise_on_all(failure)
    if trainer.is_data_parallel_master:
        zero_moments.remove_unnamed(cfg.save_dir)
    return path


def load_checkpoint(cfg: DictConfig, trainer: Any, **options: Any) -> tuple[Any, Any]:
    """fairseq's; then the validation that a signal cut short is done, and a run that is complete is not trained on (see `resuming`)."""
    extra_state, epoch_itr = _fairseq_load_checkpoint(cfg, trainer, **options)
    if extra_state is not None and not cfg.reset_optimizer and not cfg.reset_meters:
        resuming.take_up(trainer, extra_state)
    return extra_state, epoch_itr


def without_unknown_meters(saved: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Saved metrics without those that fairseq does not know: it makes meters again by the names of its own classes (0.12), and
    our first checkpoints hold another."""
    return {name: [entry for entry in entries if hasattr(meters, entry[2])] for name, entries in saved.items()}


@contextlib.contextmanager
def loaded_state_through(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[None]:
    """Change what fairseq's trainer reads from a checkpoint before it uses it; it has no hook for that."""
    original = checkpoint_utils.load_checkpoint_to_cpu

    def changed(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return change(original(*args, **kwargs))

    checkpoint_utils.load_checkpoint_to_cpu = changed
    try:
        yield
    finally:
        checkpoint_utils.load_checkpoint_to_cpu = original


def empty_batches_first(samples: list[Any]) -> list[Any]:
    """Micro-batches of one update with a rank's fill-ins (empty) first.

    fairseq takes the last micro-batch of a rank for all of them: with [real, empty] it would not count the real one.
    """
    return sorted(samples, key=bool)
