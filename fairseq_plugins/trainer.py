"""fairseq's trainer with four additions: updates are counted before they run, checkpoints say what they hold, pretrained
weights of any kind are read safely, and predictions of any size are gathered."""

import logging
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from fairseq.trainer import Trainer
from omegaconf import open_dict

from fairseq_plugins.compat import empty_batches_first
from moleblend_fs.errors import UserError
from moleblend_fs.inference import checkpoint
from moleblend_fs.model.config import ModelConfig

logger = logging.getLogger(__name__)


def install() -> None:
    """Let fairseq-train build our trainer; the name is looked up in whichever module runs `main`."""
    for name in ("fairseq_cli.train", "__main__", "__mp_main__"):
        module = sys.modules.get(name)
        if module is not None and getattr(module, "Trainer", None) is Trainer:
            module.Trainer = MoleBlendTrainer  # type: ignore[attr-defined]


class MoleBlendTrainer(Trainer):
    """See the module."""

    def __init__(self, cfg: Any, task: Any, model: Any, criterion: Any, quantizer: Any = None):
        if hasattr(task, "selection_metric") and cfg.checkpoint.best_checkpoint_metric == "loss":
            with open_dict(cfg):
                cfg.checkpoint.best_checkpoint_metric, cfg.checkpoint.maximize_best_checkpoint_metric = task.selection_metric
        super().__init__(cfg, task, model, criterion, quantizer)

    def train_step(self, samples: list[Any], raise_oom: bool = False) -> Any:
        """One update, its losses normalised by what all its micro-batches on all ranks hold."""
        samples = empty_batches_first(samples)
        criterion = self.get_criterion()
        if not hasattr(criterion, "begin_update"):
            return super().train_step(samples, raise_oom)
        criterion.train()
        criterion.begin_update(samples, self.device)
        try:
            return super().train_step(samples, raise_oom)
        finally:
            criterion.end_update()

    def state_dict(self) -> dict[str, Any]:
        """fairseq's state, and what is needed to rebuild the model without fairseq."""
        state = super().state_dict()
        state["extra_state"]["moleblend"] = checkpoint.describe(self._model_config, getattr(self.task, "finetuned", None))
        return state

    @property
    def _model_config(self) -> ModelConfig:
        return self.get_model().model.config

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> Any:
        """Resume, or begin from pretrained weights: `--finetune-from-model` takes all that `checkpoint.load` reads."""
        if filename == self.cfg.checkpoint.finetune_from_model:
            self._load_pretrained(filename)
            return None
        if Path(filename).is_file():
            found = checkpoint.load(filename)
            if found.config.heads != self._model_config.heads or found.config.tasks != self._model_config.tasks:
                raise UserError(
                    f"{filename}: a checkpoint with heads {found.config.heads}, but this run has {self._model_config.heads}; "
                    "choose another --save-dir, or give it as --finetune-from-model"
                )
            checkpoint.check_shapes(self.get_model().model, found.weights, filename)
        # fairseq's older optimizers (sgd, adagrad, ...) leave a Namespace in the checkpoint.
        with torch.serialization.safe_globals(checkpoint.ADMITTED):
            return super().load_checkpoint(filename, *args, **kwargs)

    def _load_pretrained(self, filename: str) -> None:
        found = checkpoint.load(filename)
        missing = checkpoint.load_weights(self.get_model().model, found.weights, where=filename, strict=False)
        body = sorted(name for name in missing if not name.startswith("heads."))
        logger.info("pretrained weights from %s (%s)", filename, found.about.get("format", "checkpoint folder"))
        if body:
            logger.warning("not in the checkpoint, left at their initial values: %s", ", ".join(body))

    def _all_gather_list_sync(self, logging_outputs: list[Any], *extra_stats_to_sum: Any, ignore: bool = False) -> Any:
        """fairseq's buffers hold 16 kB per rank; a batch's predictions may be larger."""
        mine = ([] if ignore else logging_outputs, extra_stats_to_sum)
        everyone: list[Any] = [None] * self.data_parallel_world_size
        dist.all_gather_object(everyone, mine, group=self.data_parallel_process_group)
        logs = list(chain.from_iterable(logs for logs, _ in everyone))
        return logs, [sum(values) for values in zip(*(extra for _, extra in everyone), strict=True)]
