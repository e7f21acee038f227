"""fairseq's trainer with additions: updates are counted before they run, checkpoints say what they hold and are read by any
number of processes and any Adam, pretrained weights of any kind are read safely, predictions of any size are gathered, and a
signal ends training after a checkpoint."""

import logging
import math
import sys
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from fairseq import checkpoint_utils, utils
from fairseq.logging import metrics
from fairseq.optim import FP16Optimizer
from fairseq.trainer import Trainer
from omegaconf import open_dict
from torch import Tensor

from fairseq_plugins import resuming
from fairseq_plugins.compat import empty_batches_first, loaded_state_through, without_unknown_meters
from fairseq_plugins.console import Forecast
from fairseq_plugins.memory import check_memory
from fairseq_plugins.options import optimizer_name
from fairseq_plugins.stats import DeferredStats
from moleblend_fs.checkpoint import read as checkpoint
from moleblend_fs.checkpoint import whole_files, zero_moments
from moleblend_fs.checkpoint.adam_state import AdamState, from_table, join_flat, shapes_of, to_table
from moleblend_fs.checkpoint.zero_moments import Shards
from moleblend_fs.data.torch_file import ADMITTED
from moleblend_fs.errors import UserError
from moleblend_fs.inference.comparison import Purpose, compare, shortened
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.runtime import watchdog
from moleblend_fs.runtime.epoch_position import slots
from moleblend_fs.runtime.molecules_seen import Ledger
from moleblend_fs.runtime.preemption import mark, preemption, unmark

logger = logging.getLogger(__name__)

ADAMS = ("FairseqAdam", "FP16Optimizer", "MemoryEfficientFP16Optimizer", "DeepSpeedOptimizer")
"""Optimizers whose state is Adam's: a run of one goes on from a checkpoint of another."""


def install() -> None:
    """Let fairseq-train build our trainer; the name is looked up in whichever module runs `main`."""
    for name in ("fairseq_cli.train", "__main__", "__mp_main__"):
        module = sys.modules.get(name)
        if module is not None and getattr(module, "Trainer", None) is Trainer:
            module.Trainer = build_trainer  # type: ignore[attr-defined]


def build_trainer(cfg: Any, *args: Any) -> "MoleBlendTrainer":
    """The trainer that the optimizer needs."""
    if optimizer_name(cfg) == "deepspeed":
        from fairseq_plugins.deepspeed_trainer import DeepSpeedTrainer

        return DeepSpeedTrainer(cfg, *args)
    return MoleBlendTrainer(cfg, *args)


class MoleBlendTrainer(DeferredStats, Trainer):
    """See the module.

    Attributes:
        update_batches: batches of an update over all processes, by epoch as --update-freq is; kept when the number of
            processes changes.
        differing: what a checkpoint that is gone on from was trained on and this run is not, as it is meant to.
        validation_due: whether the checkpoint being saved lacks the score of a validation that a signal cut short or left out.
    """

    def __init__(self, cfg: Any, task: Any, model: Any, criterion: Any, quantizer: Any = None):
        if hasattr(task, "selection_metric") and cfg.checkpoint.best_checkpoint_metric == "loss":
            with open_dict(cfg):
                cfg.checkpoint.best_checkpoint_metric, cfg.checkpoint.maximize_best_checkpoint_metric = task.selection_metric
        super().__init__(cfg, task, model, criterion, quantizer)
        with open_dict(cfg):  # fairseq's own watch over this would end the process without saying which rank it was
            timeout, cfg.distributed_training.heartbeat_timeout = cfg.distributed_training.heartbeat_timeout, -1
        watchdog.begin(timeout)
        self.update_freq = [int(n) for n in cfg.optimization.update_freq]
        self.update_batches = [n * self.data_parallel_world_size for n in self.update_freq]
        self.asked = (cfg.optimization.max_update, cfg.dataset.disable_validation)
        self.loaded_weights: dict[str, Tensor] | None = None
        self.asked_ranks: tuple[Tensor, torch.cuda.Event] | None = None
        self.epoch_iterator: Any = None
        self.forecast = Forecast()
        self.validation_due = False
        self.differing: frozenset[str] = frozenset()
        self.ledger = Ledger.from_environment(self.data_parallel_rank)
        if self.is_data_parallel_master:
            unmark(cfg.checkpoint.save_dir)
            whole_files.remove_unfinished(cfg.checkpoint.save_dir)
            zero_moments.remove_unnamed(cfg.checkpoint.save_dir)

    # Updates

    def train_step(self, samples: list[Any], raise_oom: bool = False) -> Any:
        """One update, its losses normalised by what all its micro-batches on all ranks hold; the last one after a signal."""
        watchdog.step(f"update {self.get_num_updates() + 1}")
        samples = empty_batches_first(samples)
        criterion = self.get_criterion()
        if not hasattr(criterion, "begin_update"):
            raise UserError(f"criterion {type(criterion).__name__} is not one of this package's")
        criterion.train()
        criterion.begin_update(samples, self.device)
        self.samples = samples
        try:
            output = super().train_step(samples, raise_oom)
            if output is None:
                self.check_left_out()
        finally:
            criterion.end_update()
        self._forecast()
        if self.ledger is not None:
            self.ledger.write(self.get_num_updates(), self.epoch_iterator.epoch, samples)
        if self.get_num_updates() != self.asked[0] and self.told_to_stop():
            logger.warning("signal %d: saving and stopping after update %d", preemption.received, self.get_num_updates())
            with open_dict(self.cfg):  # fairseq's own way to stop here: it saves, and validates unless told not to
                self.cfg.optimization.max_update = self.get_num_updates()
                self.cfg.dataset.disable_validation = True
        return output

    def _forecast(self) -> None:
        """Say how long it will take, on the first rank."""
        if not self.is_data_parallel_master or self.epoch_iterator is None:
            return
        iterator, updates, (epochs, limit) = self.epoch_iterator, self.get_num_updates(), (self.cfg.optimization.max_epoch, self.asked[0])
        of_epoch = math.ceil(len(iterator.frozen_batches) / iterator.update_batches)
        last = limit or math.inf
        if epochs:
            done = math.ceil(iterator.iterations_in_epoch / slots(iterator.update_batches, iterator.num_shards))
            last = min(last, updates + (epochs - iterator.epoch) * of_epoch + max(0, of_epoch - done))
        named = f"{iterator.epoch} of {epochs}" if epochs else str(iterator.epoch)
        self.forecast.after(updates, last, named, due=updates % self.cfg.common.log_interval == 0)

    def begin_valid_epoch(self, epoch: int) -> None:
        """Forget earlier validations: fairseq would keep their predictions for as long as the run lasts."""
        super().begin_valid_epoch(epoch)
        for name in metrics.get_meters("valid") or ():
            metrics.reset_meter("valid", name)

    def valid_step(self, sample: Any, raise_oom: bool = False) -> Any:
        """One validation batch. After a signal the rest of validation is left out: a checkpoint without a score is saved."""
        watchdog.step(f"validation after update {self.get_num_updates()}")
        if self.told_to_stop():
            logger.warning("signal %d: saving after update %d, validation is not finished", preemption.received, self.get_num_updates())
            checkpoint_utils.save_checkpoint(self.cfg.checkpoint, self, self.epoch_iterator, None)
            if dist.is_initialized():
                dist.barrier()
            sys.exit(preemption.exit_code())
        return super().valid_step(sample, raise_oom)

    def told_to_stop(self) -> bool:
        """Whether any rank had a signal; all ranks ask together."""
        told = self._of_any_rank(preemption.received) if self.data_parallel_world_size > 1 else preemption.received
        if told:
            preemption.received, preemption.acted = told, True
            if self.is_data_parallel_master:
                mark(self.cfg.checkpoint.save_dir, self.get_num_updates())
        return bool(told)

    def _of_any_rank(self, told: int) -> int:
        """The largest of all ranks' numbers. On GPUs that of the last time it was asked: this time's would have to be waited for."""
        everyone = torch.tensor([told])
        if not self.cuda:
            dist.all_reduce(everyone, dist.ReduceOp.MAX)
            return int(everyone)
        on_device = everyone.pin_memory().to(self.device, non_blocking=True)
        dist.all_reduce(on_device, dist.ReduceOp.MAX)
        asked, self.asked_ranks = self.asked_ranks, (torch.empty(1, dtype=torch.int64, pin_memory=True), torch.cuda.Event())
        self.asked_ranks[0].copy_(on_device, non_blocking=True)
        self.asked_ranks[1].record()
        if asked is None:
            return 0
        asked[1].synchronize()
        return int(asked[0])

    def get_train_iterator(self, epoch: int, *args: Any, **kwargs: Any) -> Any:
        """fairseq's, told how many batches an update has over all processes; UserError if they need more memory than there is."""
        self.epoch_iterator = super().get_train_iterator(epoch, *args, **kwargs)
        self.epoch_iterator.update_batches = self.update_batches[min(epoch, len(self.update_batches)) - 1]
        check_memory(self)
        return self.epoch_iterator

    def get_valid_iterator(self, subset: str, disable_iterator_cache: bool = False) -> Any:
        """fairseq's, on a dataset that training does not use."""
        datasets = self.task.datasets
        trained_on = datasets.get(subset)
        datasets[subset] = self.task.validation_dataset(subset)
        try:
            return super().get_valid_iterator(subset, disable_iterator_cache)
        finally:
            datasets[subset] = trained_on

    # Saving

    def save_checkpoint(self, filename: str, extra_state: dict[str, Any]) -> str | None:
        """fairseq's content under a temporary name, renamed when it is all on the disk."""
        if not self.should_save_checkpoint_on_current_rank:
            return None
        watchdog.step(f"saving after update {self.get_num_updates()}")
        state = utils.move_to_cpu(self.state_dict())
        state["extra_state"].update(extra_state)
        whole_files.save(state, filename)
        logger.info("saved checkpoint %s", filename)
        return filename

    def consolidate_optimizer(self) -> None:
        """The one call before a save that all ranks make."""
        self.check_updates()
        super().consolidate_optimizer()

    def state_dict(self) -> dict[str, Any]:
        """fairseq's state with float32 weights and Adam's state by parameter, and what rebuilds the model without fairseq."""
        state = super().state_dict()
        state["model"] = self.weights_to_save()
        if self.adam and "last_optimizer_state" in state:
            state["last_optimizer_state"] = self.optimizer_state_to_save()
            state["optimizer_history"][-1]["optimizer_name"] = ADAMS[0]
        state["cfg"]["optimization"]["max_update"], state["cfg"]["dataset"]["disable_validation"] = self.asked
        state["cfg"]["optimization"]["update_freq"] = self.update_freq
        state["extra_state"]["moleblend"] = checkpoint.describe(self._model_config, self.task.finetuned, self.task.trained_on)
        state["extra_state"]["update"] = {"update_freq": self.update_freq, "batches": self.update_batches}
        state["extra_state"].update(resuming.to_save(self))
        return state

    @property
    def adam(self) -> bool:
        """Whether the optimizer is an Adam."""
        return optimizer_name(self.cfg) in ("adam", "deepspeed")

    @property
    def _model_config(self) -> ModelConfig:
        return self.get_model().model.config

    def weights_to_save(self) -> dict[str, Tensor]:
        """The model's state in float32."""
        return {**self.get_model().state_dict(), **self._masters()}

    def optimizer_state_to_save(self) -> dict[str, Any]:
        """Adam's state, see `adam_state`."""
        shapes = shapes_of(self.get_model().named_parameters())
        return to_table(from_table(self.optimizer.state_dict(), shapes, "this run"), list(shapes))

    def _masters(self) -> dict[str, Tensor]:
        """The float32 weights that training in bf16 or fp16 goes by; fairseq keeps them as a list, or as one flat buffer."""
        if not isinstance(self._optimizer, FP16Optimizer):
            return {}
        names = {id(parameter): name for name, parameter in self.get_model().named_parameters()}
        parameters, masters = self._optimizer.fp16_params, self._optimizer.fp32_params
        if isinstance(masters, dict):
            (flat,) = masters.values()
            masters = flat.data.split([parameter.numel() for parameter in parameters])
        return {names[id(p)]: master.data.view_as(p) for p, master in zip(parameters, masters, strict=True)}

    # Loading

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> Any:
        """Resume, or begin from pretrained weights: `--finetune-from-model` takes all that `checkpoint.load` reads."""
        if filename == self.cfg.checkpoint.finetune_from_model:
            self._load_pretrained(filename)
            return None
        if Path(filename).is_file():
            self._check_model(filename)
        # fairseq's older optimizers (sgd, adagrad, ...) leave a Namespace in the checkpoint.
        with torch.serialization.safe_globals(ADMITTED), loaded_state_through(partial(self._take_over, filename)):
            extra_state = super().load_checkpoint(filename, *args, **kwargs)
        for name, master in self._masters().items():
            if self.loaded_weights is not None:
                master.copy_(self.loaded_weights[name])
        self.loaded_weights = None
        return extra_state

    def _check_model(self, filename: str) -> None:
        """UserError if a checkpoint is of another model, or was trained on something else, so that this run cannot go on from it."""
        found = checkpoint.load(filename)
        if found.config.heads != self._model_config.heads:
            raise UserError(
                f"{filename}: a checkpoint with heads {found.config.heads}, but this run has {self._model_config.heads}; "
                "choose another --save-dir, or give it as --finetune-from-model"
            )
        checkpoint.check_architecture(self._model_config, found)
        self.differing = self._compare(found, "resume")
        checkpoint.check_shapes(self.get_model().model, found.weights, filename)

    def _compare(self, found: checkpoint.Checkpoint, purpose: Purpose) -> frozenset[str]:
        """Tell how a checkpoint fits this run; what differs as it is meant to. UserError if anything else does."""
        comparison = compare(found, self.task.use(purpose))
        if self.is_data_parallel_master:
            for line in comparison.lines:
                logger.warning(line)
        return comparison.differing

    def _take_over(self, filename: str, state: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint as this run's optimizer and number of processes need it."""
        self.loaded_weights = dict(state["model"])
        resuming.forget(state["extra_state"], self.differing)
        state["extra_state"]["metrics"] = without_unknown_meters(state["extra_state"].get("metrics", {}))
        history, content = state["optimizer_history"][-1], state.get("last_optimizer_state")
        if content is not None and not self.cfg.checkpoint.reset_optimizer:
            if (history["optimizer_name"] in ADAMS) != self.adam:
                raise UserError(
                    f"the checkpoint was written with {history['optimizer_name']}, this run has another optimizer; "
                    "choose that one, or start with --reset-optimizer"
                )
            if self.adam:
                history["optimizer_name"] = self._optimizer_name()
                shapes = shapes_of(self.get_model().named_parameters())
                stored = zero_moments.read(filename, content, shapes) if "shards" in content else from_table(content, shapes, filename)
                state["last_optimizer_state"] = self._adam_for_this_run(stored)
        stored = state["extra_state"].get("update")
        if stored is not None and not self.cfg.checkpoint.reset_dataloader and stored["update_freq"] == self.update_freq:
            self._keep_update(stored["batches"])
        return state

    def _optimizer_name(self) -> str:
        """The name that fairseq will look for in the checkpoint."""
        common = self.cfg.common
        if optimizer_name(self.cfg) == "deepspeed":
            return ADAMS[3]
        if common.memory_efficient_fp16 or common.memory_efficient_bf16:
            return ADAMS[2]
        return ADAMS[1] if common.fp16 or common.bf16 else ADAMS[0]

    def _adam_for_this_run(self, stored: AdamState | Shards) -> Any:
        """Adam's state in this model's order; flat where fairseq keeps it so (fp16)."""
        shapes = shapes_of(self.get_model().named_parameters())
        table = to_table(stored.whole(shapes) if isinstance(stored, Shards) else stored, list(shapes))
        if self._optimizer_name() == ADAMS[1] and self.cfg.common.fp16 and not self.cfg.common.fp16_no_flatten_grads:
            table["state"] = join_flat(table["state"], list(shapes.values()))
            table["param_groups"][0]["params"] = [0]
        return table

    def _keep_update(self, batches: list[int]) -> None:
        """Go on with as many batches in an update as before, whatever the number of processes now."""
        if batches == self.update_batches:
            return
        processes = self.data_parallel_world_size
        self.update_batches = list(batches)
        with open_dict(self.cfg):
            self.cfg.optimization.update_freq = [math.ceil(n / processes) for n in batches]
        logger.info("an update stays at %s batches: %s on each of %d processes", batches, self.cfg.optimization.update_freq, processes)
        if min(batches) < processes:
            logger.warning(
                "%d of %d processes have no batch in an update; a smaller --batch-size and a changed --update-freq would use them",
                processes - min(batches),
                processes,
            )

    def _load_pretrained(self, filename: str) -> None:
        found = checkpoint.load(filename)
        checkpoint.check_architecture(self._model_config, found)
        self._compare(found, "finetune")
        weights = self._with_fitting_head(found)
        missing = checkpoint.load_weights(self.get_model().model, weights, where=filename, strict=False)
        body = sorted(name for name in missing if not name.startswith("heads."))
        logger.info("pretrained weights from %s (%s)", filename, found.about.get("format", "checkpoint folder"))
        if body:
            logger.warning("not in the checkpoint, left at their initial values: %s", ", ".join(body))

    def _with_fitting_head(self, found: checkpoint.Checkpoint) -> dict[str, Tensor]:
        """Weights without a property head of another size, which begins at random instead."""
        here, there = self._model_config, found.config
        if "property" not in here.heads or "property" not in there.heads:
            return found.weights
        was = "" if found.finetuned is None else f" for {shortened(found.finetuned.targets)}"
        if here.tasks == there.tasks:
            logger.info("the property head goes on from the checkpoint's%s", was)
            return found.weights
        logger.info("the property head begins at random: it has %d outputs, the checkpoint's has %d%s", here.tasks, there.tasks, was)
        return {name: value for name, value in found.weights.items() if not name.startswith("heads.property.")}

    def _all_gather_list_sync(self, logging_outputs: list[Any], *extra_stats_to_sum: Any, ignore: bool = False) -> Any:
        """fairseq's buffers hold 16 kB per rank; a batch's predictions may be larger."""
        mine = ([] if ignore else logging_outputs, extra_stats_to_sum)
        everyone: list[Any] = [None] * self.data_parallel_world_size
        dist.all_gather_object(everyone, mine, group=self.data_parallel_process_group)
        logs = list(chain.from_iterable(logs for logs, _ in everyone))
        return logs, [sum(values) for values in zip(*(extra for _, extra in everyone), strict=True)]
