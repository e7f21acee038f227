"""The two criterions: they turn a batch into a loss and logged sums. The losses themselves are in `moleblend_fs.objectives`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import meters, metrics
from omegaconf import II
from torch import Tensor

from fairseq_plugins.tasks import FinetuningTask, PretrainingTask
from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.model.shown import show_all, show_random_modality
from moleblend_fs.model.targets import PretrainingTargets
from moleblend_fs.objectives.config import LOSS_NAMES
from moleblend_fs.objectives.draw import draw_blend, draw_modality
from moleblend_fs.objectives.finetuning import property_loss
from moleblend_fs.objectives.information import information_bound
from moleblend_fs.objectives.metrics import average, scores
from moleblend_fs.objectives.pretraining import (
    bonds_out_of_range,
    class_counts,
    count_targets,
    targets_of,
)
from moleblend_fs.ops.layout import Layout

EVALUATION_EPOCH = 0
"""Epoch of the draws in evaluation: the same every time."""


@dataclass
class CriterionConfig(FairseqDataclass):
    seed: int = II("common.seed")


class BatchCriterion(FairseqCriterion):
    """What both criterions share: losses normalised by the counts of the whole update.

    An update is all micro-batches of all ranks. The trainer announces it with `begin_update`; every micro-batch then
    contributes sum / (count over the update), scaled by the update's molecules, which fairseq divides out again since
    `sample_size` is the micro-batch's molecules. So a global batch has one loss and one gradient, however it is split.
    """

    def __init__(self, task: Any, seed: int):
        super().__init__(task)
        self.seed = seed
        self.update: tuple[Tensor, Tensor] | None = None

    def counts(self, sample: dict[str, Any], device: torch.device) -> Tensor:
        """(losses,) float64, how many places each loss of a micro-batch is a sum over."""
        raise NotImplementedError

    def begin_update(self, samples: list[dict[str, Any]], device: torch.device) -> None:
        """Count an update's targets over its micro-batches and all ranks; empty samples (a rank that ran out) count nothing."""
        real = [sample for sample in samples if sample]
        molecules = sum(sample["nsentences"] for sample in real)
        totals = torch.stack([self.counts(sample, device) for sample in real]).sum(dim=0) if real else self.no_counts(device)
        totals = torch.cat([totals, totals.new_tensor([molecules])])
        if dist.is_initialized():
            dist.all_reduce(totals)
        self.update = totals[:-1], totals[-1]

    def end_update(self) -> None:
        """Forget the update."""
        self.update = None

    def no_counts(self, device: torch.device) -> Tensor:
        """Zeros in the shape of `counts`."""
        raise NotImplementedError

    def combine(self, sums: Tensor, counts: Tensor, weights: Tensor, molecules: int) -> Tensor:
        """The micro-batch's share of the loss: molecules * sum of weight * sum / count, over the update or itself alone."""
        counts, total = self.update or (counts, counts.new_tensor(molecules))
        return total.to(sums.dtype) * (weights * sums / counts.clamp(min=1).to(sums.dtype)).sum()

    @property
    def epoch(self) -> int:
        """The epoch that random draws depend on."""
        return self.task.epoch if self.training else EVALUATION_EPOCH

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


def log_throughput(logs: list[dict[str, Any]]) -> None:
    """molecules/s and atoms/s over the log interval."""
    metrics.log_speed("mols_per_second", sum(log["nsentences"] for log in logs), priority=90, round=1)
    metrics.log_speed("atoms_per_second", sum(log["atoms"] for log in logs), priority=91, round=0)


def average_in(m: dict[str, Any], key: str) -> float:
    """Average of a logged value; 0 where a whole log interval had no target of it (fairseq's meter then says None)."""
    return float(m[key].avg or 0.0) if key in m else 0.0


@register_criterion("blend_then_predict", dataclass=CriterionConfig)
class BlendThenPredict(BatchCriterion):
    """Show a blend of the relations, predict all of them, and the noise on the coordinates (paper, section 3)."""

    task: PretrainingTask

    def counts(self, sample: dict[str, Any], device: torch.device) -> Tensor:
        batch, layout = self._batch(sample, device)
        return count_targets(self._draw(batch, layout)[1], layout, self.task.blend)

    def no_counts(self, device: torch.device) -> Tensor:
        return torch.zeros(len(self.task.blend.predict), dtype=torch.float64, device=device)

    def _batch(self, sample: dict[str, Any], device: torch.device) -> tuple[MoleculeBatch, Layout]:
        batch = sample["batch"].to(device)
        return batch, Layout(batch.num_atoms, device)

    def _draw(self, batch: MoleculeBatch, layout: Layout) -> tuple[Any, PretrainingTargets]:
        shown, noise = draw_blend(batch, layout, self.task.blend, seed=self.seed, epoch=self.epoch)
        return shown, targets_of(batch, layout, shown, noise, self.task.blend)

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        """(loss, molecules, logged sums) of one micro-batch."""
        config = self.task.blend
        batch, layout = self._batch(sample, next(model.parameters()).device)
        shown, targets = self._draw(batch, layout)
        counts = count_targets(targets, layout, config)
        losses = model(batch, shown, layout, targets).losses
        sums = torch.stack([losses[name] for name in config.predict])
        weights = sums.new_tensor(list(config.weights.values()))
        loss = self.combine(sums, counts, weights, len(batch))
        log: dict[str, Any] = {"nsentences": len(batch), "atoms": layout.num_total_atoms, "out_of_range": bonds_out_of_range(targets)}
        for index, name in enumerate(config.predict):
            log[f"{name}_sum"] = sums[index].detach()
            log[f"{name}_count"] = counts[index]
        for name, histogram in class_counts(targets, config).items():
            log[f"{name}_classes"] = histogram
        return loss, len(batch), log

    def log_metrics(self, logging_outputs: list[dict[str, Any]]) -> None:
        """Log the losses of the global batch."""
        logs = [log for log in logging_outputs if log]
        names = [name for name in LOSS_NAMES if f"{name}_sum" in logs[0]]
        for name in names:
            count = float(sum(log[f"{name}_count"] for log in logs))
            total = float(sum(log[f"{name}_sum"] for log in logs))
            if count > 0:
                metrics.log_scalar(f"{LOSS_NAMES[name]}_loss", total / count, count, round=4)
        keys = [f"{LOSS_NAMES[name]}_loss" for name in names]
        metrics.log_derived("loss", lambda m: sum(average_in(m, key) for key in keys), priority=0)
        weights = {f"{LOSS_NAMES[name]}_loss": self.task.blend.weights[name] for name in names}
        metrics.log_derived("weighted_loss", lambda m: sum(w * average_in(m, key) for key, w in weights.items()), priority=1)
        for name in ("spd", "edge"):
            if name in names:
                self._log_information(name, logs)
        metrics.log_scalar_sum("bonds_out_of_range", float(sum(log["out_of_range"] for log in logs)), round=0)
        metrics.log_scalar_sum("molecules", float(sum(log["nsentences"] for log in logs)), round=0)
        log_throughput(logs)

    @staticmethod
    def _log_information(name: str, logs: list[dict[str, Any]]) -> None:
        """H(target) - cross-entropy in nats, with the entropy of all targets since the meters were reset."""
        histogram = torch.stack([log[f"{name}_classes"] for log in logs]).sum(dim=0).tolist()
        for index, count in enumerate(histogram):
            metrics.log_scalar_sum(f"_{name}_class_{index}", count)
        keys = [f"_{name}_class_{index}" for index in range(len(histogram))]
        loss = f"{LOSS_NAMES[name]}_loss"

        def bound(m: dict[str, Any]) -> float:
            return round(information_bound(np.array([m[key].sum for key in keys]), average_in(m, loss)), 4)

        metrics.log_derived(f"{name}_information", bound)


class PredictionMeter(meters.Meter):
    """Collects predictions and labels, for scores that are no means over batches."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.predictions: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []

    def update(self, prediction: np.ndarray, label: np.ndarray) -> None:
        self.predictions.append(prediction)
        self.labels.append(label)

    @property
    def smoothed_value(self) -> float:
        return float(sum(len(p) for p in self.predictions))


@register_criterion("property_prediction", dataclass=CriterionConfig)
class PropertyPrediction(BatchCriterion):
    """Binary cross-entropy over the labels that are present, or squared or absolute error of scaled targets."""

    task: FinetuningTask

    def counts(self, sample: dict[str, Any], device: torch.device) -> Tensor:
        return sample["batch"].has_label.sum().double().reshape(1).to(device)

    def no_counts(self, device: torch.device) -> Tensor:
        return torch.zeros(1, dtype=torch.float64, device=device)

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        """(loss, molecules, logged sums; in evaluation also predictions) of one micro-batch."""
        device = next(model.parameters()).device
        batch = sample["batch"].to(device)
        layout = Layout(batch.num_atoms, device)
        task, about = self.task, self.task.finetuned
        if task.cfg.random_modality and self.training:
            shown = show_random_modality(batch, layout, draw_modality(batch, seed=self.seed, epoch=self.epoch))
        else:
            shown = show_all(batch, layout, about.inputs)
        prediction = model(batch, shown, layout).properties
        mean, std = (torch.tensor(values, device=device) for values in (about.mean, about.std))
        scaled = (batch.labels - mean) / std
        total = property_loss(prediction, scaled, batch.has_label, task.kind, str(task.cfg.regression_loss))
        count = self.counts(sample, device)
        loss = self.combine(total.reshape(1), count, torch.ones_like(total).reshape(1), len(batch))
        log: dict[str, Any] = {
            "nsentences": len(batch),
            "atoms": layout.num_total_atoms,
            "loss_sum": total.detach(),
            "loss_count": count[0],
        }
        if not self.training:
            labels = torch.where(batch.has_label, batch.labels, float("nan"))
            log["prediction"] = (prediction.float() * std + mean).cpu().numpy()
            log["label"] = labels.cpu().numpy()
        return loss, len(batch), log

    def log_metrics(self, logging_outputs: list[dict[str, Any]]) -> None:
        """Log the loss, and in evaluation the scores over the whole split."""
        logs = [log for log in logging_outputs if log]
        count = float(sum(log["loss_count"] for log in logs))
        if count > 0:
            metrics.log_scalar("loss", float(sum(log["loss_sum"] for log in logs)) / count, count, round=4)
        metrics.log_scalar_sum("molecules", float(sum(log["nsentences"] for log in logs)), round=0)
        log_throughput(logs)
        if "prediction" in logs[0]:
            for log in logs:
                metrics.log_custom(PredictionMeter, "_predictions", log["prediction"], log["label"])
            for name in SCORE_NAMES[self.task.kind]:
                metrics.log_derived(name, lambda m, name=name: self._score(m["_predictions"], name))

    def _score(self, meter: PredictionMeter, name: str) -> float:
        per_target = scores(np.concatenate(meter.predictions), np.concatenate(meter.labels), self.task.finetuned.targets, self.task.kind)
        value = average(per_target, name)
        return float("nan") if value is None else value


SCORE_NAMES = {"classification": ("roc_auc",), "regression": ("mae", "rmse")}
"""Scores that training logs for the validation split; several targets are averaged."""
