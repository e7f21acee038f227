"""Corrects the configuration that fairseq 0.12 has read, where it would fail with today's torch or do something that nobody asked for.

Nothing of fairseq's is replaced: `call_main` has each process pass its configuration through `fix_config`. A function each says what
fairseq would do.
"""

import logging
import os
import sys

from fairseq.distributed import utils as distributed_utils
from omegaconf import DictConfig, OmegaConf, open_dict

from fairseq_plugins import console, output_paths, splits
from fairseq_plugins.given_numbers import check_numbers, flag
from fairseq_plugins.going_on import DEFAULT, RESETS, path_of_last
from fairseq_plugins.options import engine_options, on_cpu, optimizer_name
from fairseq_plugins.patches.starting_ranks import infer_world, use_cpu_backends
from moleblend_fs.checkpoint.weights_by_name import located
from moleblend_fs.errors import UserError
from moleblend_fs.runtime.stop_signals import exit_code_asked
from moleblend_fs.zero.engine import STAGES, engine_config, require_deepspeed

logger = logging.getLogger(__name__)

PINS = {
    "fairseq.options.parse_args_and_arch": "e7f96c62d047",
    "fairseq.checkpoint_utils.load_checkpoint": "bc7cc4344393",
    "fairseq.checkpoint_utils.get_maybe_sharded_checkpoint_filename": "5aa5ad9fc770",
    "fairseq.dataclass.utils.convert_namespace_to_omegaconf": "5e0c11c99aed",
    "fairseq_cli.train.main": "7b5c19d75199",
}


def fix_config(cfg: DictConfig) -> None:
    """All corrections, and what is refused before any process is started.

    Raises:
        UserError: options that do not go together, or a file or folder that cannot be read or written.
    """
    check_numbers(cfg)
    exit_code_asked()
    with open_dict(cfg):
        clear_tpu(cfg)
        refuse_fp16_on_cpu(cfg)
        refuse_amp(cfg)
        refuse_half_moments(cfg)
        old_adam_for_less_memory(cfg)
        refuse_unsafe_saving(cfg)
        refuse_with_deepspeed(cfg)
        warn_of_averages(cfg)
        refuse_with_pretrained(cfg)
        check_pretrained(cfg)
        check_restore_file(cfg)
        accept_pair_limit(cfg)
        tidy_subsets(cfg)
        console.check_save_interval(cfg, sys.argv)
        output_paths.check_output_paths(cfg)
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


def refuse_amp(cfg: DictConfig) -> None:
    """fairseq's automatic mixed precision scales losses by torch's scaler, which reads each update's gradients; ours are read late."""
    if cfg.common.amp:
        raise UserError(
            "--amp does not go with these models, whose layers choose their precision themselves; use --bf16, or --fp16 on a GPU"
        )


def refuse_half_moments(cfg: DictConfig) -> None:
    """fairseq ends in a traceback once the model is there: moments in half precision are of apex, which nothing here uses."""
    if OmegaConf.select(cfg, "optimizer.fp16_adam_stats"):
        raise UserError("--fp16-adam-stats is not offered: moments are kept in float32; leave it out")


def old_adam_for_less_memory(cfg: DictConfig) -> None:
    """fairseq's Adam for --memory-efficient-bf16 and -fp16, which is what it has them for; it ends in a traceback with torch's fused one,
    which takes gradients of the weights' type, on a GPU."""
    common = cfg.common
    if (common.memory_efficient_bf16 or common.memory_efficient_fp16) and optimizer_name(cfg) == "adam" and not on_cpu(cfg):
        cfg.optimizer.use_old_adam = True


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
        "--memory-efficient-fp16": cfg.common.memory_efficient_fp16,
        "--memory-efficient-bf16": cfg.common.memory_efficient_bf16,
        "--use-bmuf": cfg.optimization.use_bmuf,
        "--zero-sharding": str(cfg.distributed_training.zero_sharding) != "none",
        "--ddp-backend fully_sharded": str(cfg.distributed_training.ddp_backend) == "fully_sharded",
        "--ddp-backend slowmo": str(cfg.distributed_training.ddp_backend) == "slowmo",
        "--pipeline-model-parallel": cfg.distributed_training.pipeline_model_parallel,
        "--model-parallel-size": cfg.common.model_parallel_size > 1,
    }
    for option, given in refused.items():
        if given:
            raise UserError(f"{option} does not go with --optimizer deepspeed; leave it out, or choose --optimizer adam")
    if cfg.optimizer.zero_stage not in STAGES:
        raise UserError(f"--zero-stage {cfg.optimizer.zero_stage}: choose 1, 2 or 3 (without ZeRO: --optimizer adam)")
    if on_cpu(cfg):
        os.environ["DS_ACCELERATOR"] = "cpu"  # for processes that are started; this one has imported DeepSpeed already
    require_deepspeed()
    engine_config(engine_options(cfg))


def warn_of_averages(cfg: DictConfig) -> None:
    """fairseq keeps them in each checkpoint; the weights that everything else takes are those of the last update."""
    if cfg.ema.store_ema:
        logger.warning("--store-ema: checkpoints keep the averaged weights, but validation, evaluate, predict and finetuning take the last")


def refuse_with_pretrained(cfg: DictConfig) -> None:
    """fairseq ends in a traceback for each, once the data are loaded."""
    checkpoint = cfg.checkpoint
    if checkpoint.finetune_from_model is None:
        return
    for name in RESETS:
        if checkpoint[name]:
            raise UserError(f"{flag(name)} does not go with --finetune-from-model, which takes weights alone; leave it out")
    if checkpoint.restore_file != DEFAULT:
        raise UserError("--restore-file, to go on from, does not go with --finetune-from-model, to begin with; leave one of them out")


def check_pretrained(cfg: DictConfig) -> None:
    """fairseq ends in a traceback where the pretrained weights are not there, after the data are loaded. Of a name it gets the path."""
    pretrained = cfg.checkpoint.finetune_from_model
    if pretrained is None or os.path.exists(pretrained):
        return
    try:
        place = located(pretrained)
    except UserError as error:
        raise UserError(f"--finetune-from-model {error}") from error
    if not place.exists():
        raise UserError(f"--finetune-from-model {pretrained}: no such checkpoint")
    cfg.checkpoint.finetune_from_model = str(place)


def check_restore_file(cfg: DictConfig) -> None:
    """fairseq begins from scratch where what it was asked to go on from is no file; only the default one may be absent."""
    checkpoint = cfg.checkpoint
    if checkpoint.restore_file != DEFAULT:
        check_resumed("--restore-file", checkpoint.restore_file)
    elif checkpoint.continue_once is not None and not path_of_last(checkpoint).exists():
        check_resumed("--continue-once", checkpoint.continue_once)


def check_resumed(option: str, path: str) -> None:
    """UserError where an option names no file."""
    if os.path.isdir(path):
        raise UserError(f"{option} {path}: a folder; name a checkpoint in it, such as {os.path.join(path, 'checkpoint_last.pt')}")
    if not os.path.isfile(path):
        raise UserError(f"{option} {path}: no such checkpoint; leave it out to resume from checkpoint_last.pt in --save-dir")


def accept_pair_limit(cfg: DictConfig) -> None:
    """fairseq asserts that --max-tokens or --batch-size is given; --max-pairs is a limit too."""
    if cfg.dataset.max_tokens is None and cfg.dataset.batch_size is None:
        if not cfg.task.get("max_pairs"):
            raise UserError("a batch needs a limit: give --batch-size, --max-tokens or --max-pairs")
        cfg.dataset.batch_size = cfg.dataset.batch_size_valid = sys.maxsize


def tidy_subsets(cfg: DictConfig) -> None:
    """fairseq takes " b" of "a, b" for a name; the task has copies of both options. It also looks for files of unused validation sets
    beside the data, whose path it splits at each colon; a store has none."""
    for section in (cfg.dataset, cfg.task):
        section.train_subset, section.valid_subset = splits.tidy(section.train_subset), splits.tidy(section.valid_subset)
    cfg.dataset.ignore_unused_valid_subsets = True


def load_on_all_ranks(cfg: DictConfig) -> None:
    """Resuming broadcasts a pickled configuration, which today's torch refuses to unpickle; every rank reads the file instead."""
    cfg.checkpoint.load_checkpoint_on_all_dp_ranks = True
