"""The trainer of `--optimizer deepspeed`."""

import logging
from typing import Any

import torch.distributed as dist
from fairseq import utils
from fairseq.optim import lr_scheduler
from torch import Tensor

from fairseq_plugins.optimizer import DeepSpeedOptimizer
from fairseq_plugins.options import engine_options
from fairseq_plugins.trainer import MoleBlendTrainer
from moleblend_fs.checkpoint import zero_moments
from moleblend_fs.checkpoint.adam_state import AdamState
from moleblend_fs.checkpoint.zero_moments import StoredMoments
from moleblend_fs.errors import UserError
from moleblend_fs.zero import partitions
from moleblend_fs.zero.engine import EngineModel, build_engine, engine_config

logger = logging.getLogger(__name__)


class DeepSpeedTrainer(MoleBlendTrainer):
    """`MoleBlendTrainer` on DeepSpeed's engine.

    The engine is built at the first use of the optimizer: after weights are loaded, which go into the plain model.
    """

    def __init__(self, cfg: Any, task: Any, model: Any, criterion: Any, quantizer: Any = None):
        if utils.has_parameters(criterion):
            raise UserError("--optimizer deepspeed trains the model's parameters alone, and this criterion has its own")
        self.engine_model: EngineModel | None = None
        self.micro_batches = self.micro_batch = 0
        self.gathered_weights: dict[str, Tensor] | None = None
        self.named_moments: dict[str, Any] = {}
        super().__init__(cfg, task, model, criterion, quantizer)

    @property
    def use_distributed_wrapper(self) -> bool:
        return False

    @property
    def model(self) -> Any:
        return self.engine_model or self._model

    def _build_optimizer(self) -> None:
        """Build the engine, once, and fairseq's learning rate scheduler."""
        if self.engine_model is None:
            options = engine_options(self.cfg)
            optimizer = DeepSpeedOptimizer(self.cfg.optimizer, [p for p in self._model.parameters() if p.requires_grad])
            device_id = self.cfg.distributed_training.device_id
            config = engine_config(options, sum(parameter.numel() for parameter in self._model.parameters()))
            self.get_criterion().computes_parts = options.stage < 3
            engine = build_engine(self._model, optimizer.optimizer, config, local_rank=device_id)
            optimizer.engine, optimizer.restore = engine, self._restore
            self._optimizer, self.engine_model = optimizer, EngineModel(engine, self._model)
            logger.info(
                "DeepSpeed: ZeRO stage %d on %d processes, %s%s",
                options.stage,
                dist.get_world_size(),
                "bfloat16" if options.bf16 else "float16" if options.fp16 else "float32",
                ", optimizer in host memory" if options.offload else "",
            )
        self._lr_scheduler = lr_scheduler.build_lr_scheduler(self.cfg.lr_scheduler, self._optimizer)
        self._lr_scheduler.step_update(0)

    def train_step(self, samples: list[Any], raise_oom: bool = False) -> Any:
        """One update. A rank that runs out of memory ends the run: it cannot skip what the others take part in."""
        self.micro_batches, self.micro_batch = len(samples), 0
        try:
            return super().train_step(samples, raise_oom=True)
        finally:
            self.micro_batches = 0

    def _prepare_sample(self, sample: Any, is_dummy: bool = False) -> Any:
        """fairseq calls it before each micro-batch; the engine is told which is the update's last."""
        if self.micro_batches and not is_dummy:
            self.micro_batch += 1
            self.optimizer.engine.set_gradient_accumulation_boundary(self.micro_batch == self.micro_batches)
        return super()._prepare_sample(sample, is_dummy)

    def consolidate_optimizer(self) -> None:
        """The one call before a save that all ranks make: gather weights on rank 0, write each rank's optimizer state."""
        if self.micro_batches:
            return  # an update failed on this rank; the others are elsewhere
        super().consolidate_optimizer()
        zero = self.optimizer.zero
        self.gathered_weights = partitions.gather_weights(self._model, zero)
        if not self.cfg.checkpoint.no_save_optimizer_state:
            pieces = partitions.moments(self._model, zero)
            named = zero_moments.write(self.cfg.checkpoint.save_dir, self.get_num_updates(), pieces)
            options = {key: value for key, value in zero.optimizer.param_groups[0].items() if key != "params"}
            loss_scale = float(zero.loss_scale) if self.cfg.common.fp16 else None
            self.named_moments = {**named, "step": partitions.updates_done(zero), "options": options, "loss_scale": loss_scale}

    def save_checkpoint(self, filename: str, extra_state: dict[str, Any]) -> str | None:
        """Save what was gathered; nothing in the middle of an update that failed (fairseq's crash.pt)."""
        return None if self.micro_batches else super().save_checkpoint(filename, extra_state)

    def weights_to_save(self) -> dict[str, Tensor]:
        assert self.gathered_weights is not None
        return {**self._model.state_dict(), **self.gathered_weights}

    def optimizer_state_to_save(self) -> dict[str, Any]:
        return self.named_moments

    def _adam_for_this_run(self, stored: AdamState | StoredMoments) -> AdamState | StoredMoments:
        return stored

    def _restore(self, stored: AdamState | StoredMoments) -> None:
        """Take this process's part of a checkpoint's weights and optimizer state."""
        assert self.loaded_weights is not None
        partitions.set_state(self._model, self.optimizer.zero, self.loaded_weights, stored)
        self.optimizer.take_options(stored)
