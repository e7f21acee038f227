"""Updates without waiting for the device: what fairseq reads after every update is read when the log is written.

fairseq 0.12 reads the gradient norm of each update (is it finite? is it the same on all ranks?), the logged values, and with
several processes the sample size; on a GPU each of these waits until all work is done.
"""

from collections.abc import Sequence
from typing import Any

import torch
from fairseq.logging import metrics
from torch import Tensor


class DeferredStats:
    """Mix-in for fairseq's Trainer.

    A gradient that is not finite is found at the next log interval, and before anything is saved, at the latest: the weights
    since then are lost, those on disk are sound.
    """

    cfg: Any
    task: Any
    _norms: Tensor | None = None

    def clip_grad_norm(self, clip_norm: float) -> Tensor:
        """Clip; the norm is kept for `check_gradients` and the log, and fairseq is given one that it need not wait for."""
        norm = super().clip_grad_norm(clip_norm)  # type: ignore[misc]
        self._norm = norm
        if not self.defers:
            return norm
        self._norms = norm.detach() if self._norms is None else self._norms + norm.detach()
        return torch.zeros(())

    @property
    def defers(self) -> bool:
        """Whether norms are read late: on GPUs. Training in float16 must know of overflows at once."""
        return self.cuda and not self.cfg.common.fp16  # type: ignore[attr-defined]

    def check_gradients(self) -> None:
        """Read the norms since the last time.

        Raises:
            FloatingPointError: one of them was not finite.
        """
        norms, self._norms = self._norms, None
        if norms is not None and not bool(torch.isfinite(norms)):
            raise FloatingPointError(
                f"a gradient since the last log interval, before update {self.get_num_updates()}, was infinite or not a number: "  # type: ignore[attr-defined]
                "the run ends here; the checkpoints on disk are from before. A smaller --lr or --clip-norm may help."
            )

    def _aggregate_logging_outputs(self, logging_outputs: Sequence[Any], *extra_stats_to_sum: Any, ignore: bool = False) -> Any:
        """The sample size (the first of the extra values) of an update is 1 by construction: see `BatchCriterion`."""
        logs, (_, *rest) = super()._aggregate_logging_outputs(logging_outputs, *extra_stats_to_sum, ignore=ignore)  # type: ignore[misc]
        return logs, (1.0, *rest)

    def _reduce_and_log_stats(self, logging_outputs: Any, sample_size: float, grad_norm: Tensor | None = None) -> dict[str, Any]:
        """Log an update (or a validation batch) without reading anything but at log intervals."""
        if grad_norm is not None:
            metrics.log_speed("ups", 1.0, priority=100, round=2)
            metrics.log_scalar("gnorm", self._norm, priority=400, round=3)
            clip_norm = self.cfg.optimization.clip_norm
            if clip_norm > 0:
                metrics.log_scalar("clip", 100.0 * (self._norm > clip_norm), priority=500, round=1)
            if self.get_num_updates() % self.cfg.common.log_interval == 0:  # type: ignore[attr-defined]
                self.check_gradients()
        if logging_outputs is not None:
            self.task.reduce_metrics(logging_outputs, self.get_criterion())  # type: ignore[attr-defined]
        return {}

    def _check_grad_norms(self, grad_norm: Tensor) -> None:
        """fairseq compares the ranks' norms after every update, to find a wrapper at fault; the one in use is tested."""
