"""One update of training: counted before it runs, read after it without waiting for the device, and the last one after a signal.

How an update flows through the files: `docs/architecture.md`. Saving and loading: `checkpoint_trainer.py`.
"""

import json
import logging
import math
import sys
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from fairseq import checkpoint_utils
from fairseq.logging import metrics
from omegaconf import open_dict
from torch import Tensor

from fairseq_plugins import nonfinite
from fairseq_plugins.checkpoint_trainer import CheckpointTrainer
from fairseq_plugins.console import FACTS, Forecast
from fairseq_plugins.memory import check_memory
from moleblend_fs.checkpoint.write import SharedError
from moleblend_fs.errors import UserError
from moleblend_fs.ops.precision import bfloat16_instructions
from moleblend_fs.runtime import watchdog
from moleblend_fs.runtime.molecules_seen import Recorder
from moleblend_fs.runtime.stop_signals import mark, preemption

logger = logging.getLogger(__name__)

MOST_UNREAD = 1000
"""Updates whose numbers are kept unread, however long a log interval is."""


class UnreadUpdate(NamedTuple):
    """An update whose numbers were not read yet: its number, its gradient norm, its logged sums over all ranks, and the ids of this
    rank's molecules."""

    update: int
    norm: Tensor
    sums: Tensor
    molecules: list[Tensor]


class MoleBlendTrainer(CheckpointTrainer):
    """fairseq's trainer with our updates.

    fairseq 0.12 reads the gradient norm of each update, the logged values, and with several processes the sample size; on a GPU each of
    these waits until all work is done. Here they are read when the log is written. A loss or gradient that is not finite is found before
    the step on CPUs and under ZeRO; elsewhere at the next log interval, and before anything is saved, at the latest: the weights since
    then are lost, those on disk are sound.
    """

    def __init__(self, cfg: Any, task: Any, model: Any, criterion: Any, quantizer: Any = None):
        if hasattr(task, "selection") and cfg.checkpoint.best_checkpoint_metric == "loss":
            with open_dict(cfg):
                cfg.checkpoint.best_checkpoint_metric, cfg.checkpoint.maximize_best_checkpoint_metric = task.selection
                if "maximize_best_checkpoint_metric" in cfg.lr_scheduler:  # reduce_lr_on_plateau, which has a copy
                    cfg.lr_scheduler.maximize_best_checkpoint_metric = task.selection.maximize
        self.unread: list[UnreadUpdate] = []
        self.samples: list[Any] = []
        self.norm = torch.zeros(())
        super().__init__(cfg, task, model, criterion, quantizer)
        with open_dict(cfg):  # fairseq's own watch over this would end the process without saying which rank it was
            timeout, cfg.distributed_training.heartbeat_timeout = cfg.distributed_training.heartbeat_timeout, -1
        watchdog.begin(timeout)
        if cfg.common.bf16 and not self.cuda and self.is_data_parallel_master:
            found = bfloat16_instructions()
            instead = "which this processor does not have: float32 would be faster"
            logger.info("bfloat16, with float32 master weights: %s", f"by {', '.join(found)} of this processor" if found else instead)
        self.signal_of_any_rank: tuple[Tensor, torch.cuda.Event] | None = None
        self.epoch_iterator: Any = None
        self.forecast = Forecast()
        self.recorder = Recorder.from_environment(self.data_parallel_rank)

    # An update

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
        if self.recorder is not None:
            self.recorder.write(self.get_num_updates(), self.epoch_iterator.epoch, samples)
        if self.get_num_updates() != self.requested.max_update and self.stop_requested():
            logger.warning("signal %d: saving and stopping after update %d", preemption.received, self.get_num_updates())
            with open_dict(self.cfg):  # fairseq's own way to stop here: it saves, and validates unless told not to
                self.cfg.optimization.max_update = self.get_num_updates()
                self.cfg.dataset.disable_validation = True
        return output

    def clip_grad_norm(self, clip_norm: float) -> Tensor:
        """Clip; the norm is kept for `check_updates` and the log, and fairseq is given one that it need not wait for."""
        try:
            self.norm = super().clip_grad_norm(clip_norm)
        except FloatingPointError as error:  # ZeRO's, or fp16's where the loss scale cannot be lowered any more
            raise self._not_finite(self.get_num_updates() + 1) from error
        if self.defers:
            return torch.zeros(())
        if not bool(self.norm.isfinite()):
            raise self._not_finite(self.get_num_updates() + 1)
        return self.norm

    @property
    def defers(self) -> bool:
        """Whether norms are read late: on GPUs. Training in float16 must know of overflows at once."""
        return self.cuda and not self.cfg.common.fp16

    def _forecast(self) -> None:
        """Say how long it will take, on the first rank."""
        if not self.is_data_parallel_master or self.epoch_iterator is None:
            return
        iterator, updates, epochs = self.epoch_iterator, self.get_num_updates(), self.cfg.optimization.max_epoch
        last = self.requested.max_update or math.inf
        if epochs:
            left_in_epoch = max(0, iterator.updates_of_epoch - iterator.updates_done)
            last = min(last, updates + (epochs - iterator.epoch) * iterator.updates_of_epoch + left_in_epoch)
        named = f"{iterator.epoch} of {epochs}" if epochs else str(iterator.epoch)
        self.forecast.after(updates, last, named, due=updates % self.cfg.common.log_interval == 0)

    # What an update gave

    def _reduce_and_log_stats(self, logging_outputs: Any, sample_size: float, grad_norm: Tensor | None = None) -> dict[str, Any]:
        """Log an update (or a validation batch) without reading anything but at log intervals."""
        if grad_norm is None:
            if unsound := [log["unsound"] for log in logging_outputs if log and "unsound" in log]:
                where = f"validation after update {self.get_num_updates()}"
                raise SharedError(nonfinite.message(nonfinite.join(unsound), where=where, store=self.task.store, other="a prediction"))
        else:
            metrics.log_speed("ups", 1.0, priority=100, round=2)
            metrics.log_scalar("gnorm", self.norm, priority=400, round=3)
            clip_norm = self.cfg.optimization.clip_norm
            if clip_norm > 0:
                metrics.log_scalar("clip", 100.0 * (self.norm > clip_norm), priority=500, round=1)
            self._note(logging_outputs)
            due = self.get_num_updates() % self.cfg.common.log_interval == 0
            if due or not self.defers or len(self.unread) >= MOST_UNREAD:
                self.check_updates()
        if logging_outputs is not None:
            self.task.reduce_metrics(logging_outputs, self.get_criterion())
        return {}

    def _note(self, logging_outputs: Any) -> None:
        """Keep what `check_updates` needs of an update."""
        sums = torch.stack([log["sums"] for log in logging_outputs if log]).sum(dim=0)
        molecules = [sample["id"] for sample in self.samples if sample]
        self.unread.append(UnreadUpdate(self.get_num_updates(), self.norm.detach(), sums, molecules))

    def check_updates(self) -> None:
        """Read the numbers of all updates since the last time; to be called by all ranks.

        Raises:
            SharedError: one of them was not finite.
        """
        unread, self.unread = self.unread, []
        if not unread:
            return
        sound = torch.stack([update.norm.isfinite() & update.sums.isfinite().all() for update in unread]).tolist()
        if not all(sound):
            first = unread[sound.index(False)]
            if not self.defers:
                raise self._not_finite(first.update)
            ids = torch.cat(first.molecules).tolist() if first.molecules else []
            samples = [{"batch": self.task.batch_of(ids)}] if ids else []
            found = nonfinite.find(self.get_criterion(), None, samples, first.sums)
            raise nonfinite.error_of_update(found, update=first.update, store=self.task.store)

    def check_left_out(self) -> None:
        """After a step that was left out for its gradient (fp16): SharedError (on all ranks) if a loss was not finite either, which no
        smaller loss scale helps."""
        sums = self.get_criterion().update_sums
        unsound = torch.tensor([not all(bool(each.isfinite().all()) for each in sums)], dtype=torch.int32, device=self.device)
        if self.data_parallel_world_size > 1:
            dist.all_reduce(unsound, dist.ReduceOp.MAX)
        if bool(unsound):
            raise self._not_finite(self.get_num_updates() + 1)

    def _not_finite(self, update: int) -> SharedError:
        """The error for the current update, while or after it is done; to be called by all ranks."""
        criterion = self.get_criterion()
        sums = torch.stack(criterion.update_sums).sum(dim=0) if criterion.update_sums else None
        model = self.get_model() if criterion.computes_parts else None
        found = nonfinite.find(criterion, model, self.samples, sums)
        return nonfinite.error_of_update(found, update=update, store=self.task.store)

    def consolidate_optimizer(self) -> None:
        """The one call before a save that all ranks make."""
        self.check_updates()
        super().consolidate_optimizer()

    def _check_grad_norms(self, grad_norm: Tensor) -> None:
        """fairseq compares the ranks' norms after every update, to find a wrapper at fault; the one in use is tested."""

    def _aggregate_logging_outputs(self, logging_outputs: Sequence[Any], *extra_stats_to_sum: Any, ignore: bool = False) -> Any:
        """The sample size (the first of the extra values) of an update is 1 by construction: see `BatchCriterion`."""
        logs, (_, *rest) = super()._aggregate_logging_outputs(logging_outputs, *extra_stats_to_sum, ignore=ignore)
        return logs, (1.0, *rest)

    def _all_gather_list_sync(self, logging_outputs: list[Any], *extra_stats_to_sum: Any, ignore: bool = False) -> Any:
        """fairseq's buffers hold 16 kB per rank; a batch's predictions may be larger."""
        mine = ([] if ignore else logging_outputs, extra_stats_to_sum)
        everyone: list[Any] = [None] * self.data_parallel_world_size
        dist.all_gather_object(everyone, mine, group=self.data_parallel_process_group)
        logs = list(chain.from_iterable(logs for logs, _ in everyone))
        return logs, [sum(values) for values in zip(*(extra for _, extra in everyone), strict=True)]

    # Validation and signals

    def begin_valid_epoch(self, epoch: int) -> None:
        """Forget earlier validations: fairseq would keep their predictions for as long as the run lasts."""
        super().begin_valid_epoch(epoch)
        for name in metrics.get_meters("valid") or ():
            metrics.reset_meter("valid", name)

    def valid_step(self, sample: Any, raise_oom: bool = False) -> Any:
        """One validation batch. After a signal the rest of validation is left out: a checkpoint without a score is saved."""
        watchdog.step(f"validation after update {self.get_num_updates()}")
        if self.stop_requested():
            logger.warning("signal %d: saving after update %d, validation is not finished", preemption.received, self.get_num_updates())
            checkpoint_utils.save_checkpoint(self.cfg.checkpoint, self, self.epoch_iterator, None)
            if dist.is_initialized():
                dist.barrier()
            sys.exit(preemption.exit_code())
        return super().valid_step(sample, raise_oom)

    def stop_requested(self) -> bool:
        """Whether any rank had a signal; all ranks ask together."""
        received = self._largest_of_ranks(preemption.received) if self.data_parallel_world_size > 1 else preemption.received
        if received:
            preemption.received, preemption.stopping = received, True
            if self.is_data_parallel_master:
                mark(self.cfg.checkpoint.save_dir, self.get_num_updates())
        return bool(received)

    def _largest_of_ranks(self, number: int) -> int:
        """The largest of all ranks' numbers. On GPUs that of the call before: this one's would have to be waited for."""
        everyone = torch.tensor([number])
        if not self.cuda:
            dist.all_reduce(everyone, dist.ReduceOp.MAX)
            return int(everyone)
        on_device = everyone.pin_memory().to(self.device, non_blocking=True)
        dist.all_reduce(on_device, dist.ReduceOp.MAX)
        before = self.signal_of_any_rank
        host, copied = torch.empty(1, dtype=torch.int64, pin_memory=True), torch.cuda.Event()
        host.copy_(on_device, non_blocking=True)
        copied.record()
        self.signal_of_any_rank = host, copied
        if before is None:
            return 0
        host, copied = before
        copied.synchronize()
        return int(host)

    # Batches

    def get_train_iterator(self, epoch: int, *args: Any, **kwargs: Any) -> Any:
        """fairseq's, told how many batches an update has over all processes; UserError if they need more memory than there is."""
        self.epoch_iterator = super().get_train_iterator(epoch, *args, **kwargs)
        self.epoch_iterator.update_batches = self.update_batches[min(epoch, len(self.update_batches)) - 1]
        check_memory(self)
        if self.is_data_parallel_master and self.forecast.first is None and self.task.pretraining is not None:
            logging.getLogger(FACTS).info("pretraining: %s", json.dumps(self.task.pretraining))
        return self.epoch_iterator

    def get_valid_iterator(self, subset: str, disable_iterator_cache: bool = False) -> Any:
        """fairseq's, on a dataset that training does not use, of as many batches as are validated: it leaves its loop over all of them
        after --max-valid-steps and one more, and the thread that reads ahead would wait for ever, one more after each validation."""
        datasets = self.task.datasets
        trained_on = datasets.get(subset)
        datasets[subset] = self.task.validation_dataset(subset)
        try:
            iterator = super().get_valid_iterator(subset, disable_iterator_cache)
            if (most := self.cfg.dataset.max_valid_steps) is not None:
                iterator.most = most + 1
            return iterator
        finally:
            datasets[subset] = trained_on


def empty_batches_first(samples: list[Any]) -> list[Any]:
    """Micro-batches of one update with a rank's fill-ins (empty) first.

    fairseq takes the last micro-batch of a rank for all of them: with [real, empty] it would not count the real one.
    """
    return sorted(samples, key=bool)
