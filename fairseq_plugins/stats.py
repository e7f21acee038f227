"""Updates without waiting for the device: what fairseq reads after every update is read when the log is written.

fairseq 0.12 reads the gradient norm of each update (is it finite? is it the same on all ranks?), the logged values, and with
several processes the sample size; on a GPU each of these waits until all work is done.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from fairseq.logging import metrics
from torch import Tensor

from fairseq_plugins import nonfinite
from moleblend_fs.checkpoint.whole_files import SharedError

MOST_UNREAD = 1000
"""Updates whose numbers are kept unread, however long a log interval is."""


class Done(NamedTuple):
    """An update whose numbers were not read yet: its number, its gradient norm, its logged sums over all ranks, and the ids of this
    rank's molecules."""

    update: int
    norm: Tensor
    sums: Tensor
    molecules: list[Tensor]


class DeferredStats:
    """Mix-in for fairseq's Trainer.

    A loss or gradient that is not finite is found before the step on CPUs and under ZeRO; elsewhere at the next log interval, and
    before anything is saved, at the latest: the weights since then are lost, those on disk are sound.
    """

    cfg: Any
    task: Any
    _norm: Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        self._done: list[Done] = []
        self.samples: list[Any] = []
        super().__init__(*args, **kwargs)

    def clip_grad_norm(self, clip_norm: float) -> Tensor:
        """Clip; the norm is kept for `check_updates` and the log, and fairseq is given one that it need not wait for."""
        try:
            self._norm = super().clip_grad_norm(clip_norm)  # type: ignore[misc]
        except FloatingPointError as error:  # ZeRO's, or fp16's where the loss scale cannot be lowered any more
            raise self._not_finite(self.get_num_updates() + 1) from error  # type: ignore[attr-defined]
        if self.defers:
            return torch.zeros(())
        if not self.cfg.common.amp and not bool(self._norm.isfinite()):
            raise self._not_finite(self.get_num_updates() + 1)  # type: ignore[attr-defined]
        return self._norm

    @property
    def defers(self) -> bool:
        """Whether norms are read late: on GPUs. Training in float16 must know of overflows at once."""
        return self.cuda and not self.cfg.common.fp16  # type: ignore[attr-defined]

    def _not_finite(self, update: int) -> SharedError:
        """The error for the update in hand, while or after it is done; to be called by all ranks."""
        criterion = self.get_criterion()  # type: ignore[attr-defined]
        sums = torch.stack(criterion.update_sums).sum(dim=0) if criterion.update_sums else None
        model = self.get_model() if criterion.computes_parts else None  # type: ignore[attr-defined]
        found = nonfinite.find(criterion, model, self.samples, sums)
        return nonfinite.error_of_update(found, update=update, store=self.task.store)

    def check_left_out(self) -> None:
        """After a step that was left out for its gradient (fp16): SharedError (on all ranks) if a loss was not finite either, which no
        smaller loss scale mends."""
        sums = self.get_criterion().update_sums  # type: ignore[attr-defined]
        unsound = torch.tensor([not all(bool(each.isfinite().all()) for each in sums)], dtype=torch.int32, device=self.device)  # type: ignore[attr-defined]
        if self.data_parallel_world_size > 1:  # type: ignore[attr-defined]
            dist.all_reduce(unsound, dist.ReduceOp.MAX)
        if bool(unsound):
            raise self._not_finite(self.get_num_updates() + 1)  # type: ignore[attr-defined]

    def check_updates(self) -> None:
        """Read the numbers of all updates since the last time; to be called by all ranks.

        Raises:
            SharedError: one of them was not finite.
        """
        done, self._done = self._done, []
        if not done:
            return
        sound = torch.stack([update.norm.isfinite() & update.sums.isfinite().all() for update in done]).tolist()
        if not all(sound):
            first = done[sound.index(False)]
            if not self.defers:
                raise self._not_finite(first.update)
            ids = torch.cat(first.molecules).tolist() if first.molecules else []
            samples = [{"batch": self.task.batch_of(ids)}] if ids else []
            found = nonfinite.find(self.get_criterion(), None, samples, first.sums)  # type: ignore[attr-defined]
            raise nonfinite.error_of_update(found, update=first.update, store=self.task.store)

    def _aggregate_logging_outputs(self, logging_outputs: Sequence[Any], *extra_stats_to_sum: Any, ignore: bool = False) -> Any:
        """The sample size (the first of the extra values) of an update is 1 by construction: see `BatchCriterion`."""
        logs, (_, *rest) = super()._aggregate_logging_outputs(logging_outputs, *extra_stats_to_sum, ignore=ignore)  # type: ignore[misc]
        return logs, (1.0, *rest)

    def _reduce_and_log_stats(self, logging_outputs: Any, sample_size: float, grad_norm: Tensor | None = None) -> dict[str, Any]:
        """Log an update (or a validation batch) without reading anything but at log intervals."""
        if grad_norm is None:
            if unsound := [log["unsound"] for log in logging_outputs if log and "unsound" in log]:
                where = f"validation after update {self.get_num_updates()}"  # type: ignore[attr-defined]
                raise SharedError(nonfinite.message(nonfinite.join(unsound), where=where, store=self.task.store, other="a prediction"))
        else:
            metrics.log_speed("ups", 1.0, priority=100, round=2)
            metrics.log_scalar("gnorm", self._norm, priority=400, round=3)
            clip_norm = self.cfg.optimization.clip_norm
            if clip_norm > 0:
                metrics.log_scalar("clip", 100.0 * (self._norm > clip_norm), priority=500, round=1)
            self._note(logging_outputs)
            due = self.get_num_updates() % self.cfg.common.log_interval == 0  # type: ignore[attr-defined]
            if due or not self.defers or len(self._done) >= MOST_UNREAD:
                self.check_updates()
        if logging_outputs is not None:
            self.task.reduce_metrics(logging_outputs, self.get_criterion())  # type: ignore[attr-defined]
        return {}

    def _note(self, logging_outputs: Any) -> None:
        """Keep what `check_updates` needs of an update."""
        sums = torch.stack([log["sums"] for log in logging_outputs if log]).sum(dim=0)
        molecules = [sample["id"] for sample in self.samples if sample]
        self._done.append(Done(self.get_num_updates(), self._norm.detach(), sums, molecules))  # type: ignore[attr-defined]

    def _check_grad_norms(self, grad_norm: Tensor) -> None:
        """fairseq compares the ranks' norms after every update, to find a wrapper at fault; the one in use is tested."""
