"""What fairseq's configuration says, in our terms."""

import torch
from omegaconf import DictConfig

from moleblend_fs.distributed.engine import EngineOptions


def on_cpu(cfg: DictConfig) -> bool:
    """Whether training runs on the CPU."""
    return bool(cfg.common.cpu) or not torch.cuda.is_available()


def optimizer_name(cfg: DictConfig) -> str | None:
    """What --optimizer names; fairseq's older optimizers are configured by a Namespace that does not say it."""
    return getattr(cfg.optimizer, "_name", None)


def engine_options(cfg: DictConfig) -> EngineOptions:
    """What fairseq's options say about DeepSpeed's engine."""
    return EngineOptions(
        stage=int(cfg.optimizer.zero_stage),
        offload=str(cfg.optimizer.zero_offload) == "cpu",
        update_freq=int(max(cfg.optimization.update_freq)),
        clip_norm=float(cfg.optimization.clip_norm),
        bf16=bool(cfg.common.bf16),
        fp16=bool(cfg.common.fp16),
        fp16_init_scale=int(cfg.common.fp16_init_scale),
        user_file=cfg.optimizer.deepspeed_config,
    )
