"""The two criterions: they turn a batch into a loss and logged sums. The losses themselves are in `moleblend_fs.objectives`."""

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from omegaconf import II
from torch import Tensor

from fairseq_plugins import nonfinite
from fairseq_plugins.finetuning_task import FinetuningTask
from fairseq_plugins.patches.prediction_meter import PredictionMeter
from fairseq_plugins.pretraining_task import PretrainingTask
from fairseq_plugins.splits import SCORE_NAMES
from moleblend_fs.model.shown import show_all, show_random_modality
from moleblend_fs.objectives.common.hashed_draws import draw_modality
from moleblend_fs.objectives.common.loss import weighted_loss
from moleblend_fs.objectives.common.metrics import average, scores
from moleblend_fs.objectives.common.to_device import to_device
from moleblend_fs.objectives.finetuning import property_loss
from moleblend_fs.objectives.objective import Objective, Prepared, Read
from moleblend_fs.objectives.registry import DEFAULT_OBJECTIVE
from moleblend_fs.ops.layout import Layout

logger = logging.getLogger(__name__)

SUMS = "_sums"
"""Where fairseq keeps the vector of logged sums; what begins with an underscore it does not show."""
LOSSES, COUNTS = "losses", "counts"
"""Parts of that vector, before those that an objective adds."""
EVALUATION_EPOCH = 0
"""Epoch of the draws in evaluation: the same every time."""


@dataclass
class CriterionConfig(FairseqDataclass):
    seed: int = II("common.seed")


class BatchCriterion(FairseqCriterion):
    """What both criterions share: losses normalised by the counts of the whole update, and sums that stay on the device.

    An update is all micro-batches of all ranks. The trainer announces it with `begin_update`; every micro-batch then
    contributes sum / (count over the update). So a global batch has one loss and one gradient, however it is split, and
    there is nothing left for fairseq to divide by: the `sample_size` of an update is 1, on every rank.

    Attributes:
        update_sums: what was logged of each micro-batch of the update so far.
        sizes: of the parts of a vector of logged sums, in their order.
        computes_parts: whether this rank can run the model alone, to find out which molecule is at fault (not under ZeRO 3).
    """

    def __init__(self, task: Any, seed: int):
        super().__init__(task)
        self.seed = seed
        self.update: Tensor | None = None
        self.sample_size = 1.0
        self.prepared: dict[int, Prepared] = {}
        self.update_sums: list[Tensor] = []
        self.computes_parts = True
        self.sizes: dict[str, int] = {}

    def prepare(self, sample: dict[str, Any], device: torch.device) -> Prepared:
        """Everything of a micro-batch that needs no model."""
        raise NotImplementedError

    def begin_update(self, samples: list[dict[str, Any]], device: torch.device) -> None:
        """Count an update's targets over its micro-batches and all ranks; empty samples (a rank that ran out) count nothing."""
        self.sample_size = 1.0
        self.update_sums = []
        self.prepared = {id(sample["batch"]): self.prepare(sample, device) for sample in samples if sample}
        counts = [prepared.counts for prepared in self.prepared.values()]
        self.update = torch.stack(counts).sum(dim=0) if counts else torch.zeros(len(self.loss_names), dtype=torch.float64, device=device)
        if dist.is_initialized():
            dist.all_reduce(self.update)

    def end_update(self) -> None:
        """Forget the update."""
        self.update = None
        self.prepared = {}

    @property
    def loss_names(self) -> list[str]:
        """What the losses are called in messages."""
        raise NotImplementedError

    def compute(self, model: Any, sample: dict[str, Any]) -> tuple[Tensor, float, dict[str, Any]]:
        """(loss, its sample size, logged sums; in evaluation also predictions) of one micro-batch."""
        raise NotImplementedError

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, float, dict[str, Any]]:
        """`compute`; what is not finite in a batch of validation goes along with what is logged, so that all ranks hear of it."""
        loss, sample_size, log = self.compute(model, sample)
        if self.training:
            self.update_sums.append(log["sums"])
        elif not bool(log["sums"].isfinite().all()) or not np.isfinite(log.get("prediction", 0.0)).all():
            log["unsound"] = nonfinite.find(self, model if self.computes_parts else None, [sample], log["sums"])
        return loss, sample_size, log

    def ready(self, sample: dict[str, Any], device: torch.device) -> Prepared:
        """The micro-batch as `begin_update` prepared it, or prepared now."""
        return self.prepared.pop(id(sample["batch"]), None) or self.prepare(sample, device)

    def take_sample_size(self) -> float:
        """1 for the first micro-batch of an update, 0 for the others; 1 outside of updates."""
        mine, self.sample_size = self.sample_size, 1.0 if self.update is None else 0.0
        return mine

    def logged(self, prepared: Prepared, losses: Tensor, statistics: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """What is logged of a micro-batch: sums, as one vector (see `part`); in evaluation they are sent to other processes as objects."""
        parts = {LOSSES: losses, COUNTS: prepared.counts, **(statistics or {})}
        self.sizes = {name: len(sums) for name, sums in parts.items()}
        vector = torch.cat([sums.detach().double() for sums in parts.values()])
        return {
            "nsentences": len(prepared.batch),
            "atoms": prepared.layout.num_total_atoms,
            "sums": vector if self.training else vector.cpu(),
        }

    def part(self, vector: Tensor, name: str) -> Tensor:
        """The losses, the counts or a statistic in a vector of logged sums."""
        return dict(zip(self.sizes, vector.split(list(self.sizes.values())), strict=True))[name]

    def combine(self, sums: Tensor, counts: Tensor, weights: list[float]) -> Tensor:
        """The micro-batch's share of the loss, counted over the update or itself alone."""
        return weighted_loss(sums, counts if self.update is None else self.update, weights)

    @property
    def epoch(self) -> int:
        """The epoch that random draws depend on."""
        return self.task.epoch if self.training else EVALUATION_EPOCH

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


def log_sums(logs: list[dict[str, Any]]) -> None:
    """Add up the logged vectors where they are; they are read when the log is written."""
    metrics.log_scalar_sum(SUMS, torch.stack([log["sums"] for log in logs]).sum(dim=0))
    metrics.log_scalar_sum("molecules", sum(log["nsentences"] for log in logs), round=0)


def log_throughput(logs: list[dict[str, Any]]) -> None:
    """molecules/s and atoms/s over the log interval."""
    metrics.log_speed("mols_per_second", sum(log["nsentences"] for log in logs), priority=90, round=1)
    metrics.log_speed("atoms_per_second", sum(log["atoms"] for log in logs), priority=91, round=0)


def mean_of(total: float, count: float) -> float:
    """total / count, rounded as it is logged; 0 where a whole log interval had no target."""
    return round(total / count, 4) if count > 0 else 0.0


@register_criterion("pretrain", dataclass=CriterionConfig)
class Pretraining(BatchCriterion):
    """The objective that the task was given."""

    task: PretrainingTask

    def __init__(self, task: Any, seed: int):
        super().__init__(task, seed)
        self.told: set[str] = set()

    @property
    def objective(self) -> Objective:
        return self.task.objective

    @property
    def loss_names(self) -> list[str]:
        return [f"{term.name} loss" for term in self.objective.terms()]

    def prepare(self, sample: dict[str, Any], device: torch.device) -> Prepared:
        there = device if self.objective.prepares_on_device else torch.device("cpu")
        batch = sample["batch"].to(there)
        ready = self.objective.prepare(batch, Layout(batch.num_atoms, there, merged=self.training), seed=self.seed, epoch=self.epoch)
        return ready if there == device else to_device(ready, device)

    def compute(self, model: Any, sample: dict[str, Any]) -> tuple[Tensor, float, dict[str, Any]]:
        objective = self.objective
        ready = self.ready(sample, next(model.parameters()).device)
        sums = model(functools.partial(objective.loss_sums, prepared=ready))
        loss = self.combine(sums, ready.counts, [term.weight for term in objective.terms()])
        return loss, self.take_sample_size(), self.logged(ready, sums, objective.statistics(ready))

    def log_metrics(self, logging_outputs: list[dict[str, Any]]) -> None:
        """Log the losses of the global batch, and what the objective makes of its statistics, from sums that are read only when they
        are shown."""
        logs = [log for log in logging_outputs if log]
        log_sums(logs)
        terms, split = self.objective.terms(), "training" if self.training else "validation"
        number = {term.name: index for index, term in enumerate(terms)}

        def mean(m: dict[str, Any], name: str) -> float:
            sums, counts = (self.part(m[SUMS].sum, part)[number[name]] for part in (LOSSES, COUNTS))
            return mean_of(float(sums), float(counts))

        def read(m: dict[str, Any]) -> Read:
            return Read(functools.partial(mean, m), lambda name: self.part(m[SUMS].sum, name).cpu().numpy())

        def total(m: dict[str, Any]) -> float:
            if not bool(self.part(m[SUMS].sum, COUNTS).any()):
                self._warn_of_nothing(split)
            return sum(mean(m, term.name) for term in terms)

        metrics.log_derived("loss", total, priority=0)
        metrics.log_derived("weighted_loss", lambda m: sum(term.weight * mean(m, term.name) for term in terms), priority=1)
        for term in terms:
            metrics.log_derived(f"{term.name}_loss", lambda m, name=term.name: mean(m, name))
        for name, value in self.objective.logged().items():
            metrics.log_derived(name, lambda m, value=value: value(read(m)))
        log_throughput(logs)

    def _warn_of_nothing(self, split: str) -> None:
        """Say once that a loss of 0 is none."""
        if split not in self.told:
            self.told.add(split)
            logger.warning(
                "no molecule of %s so far has anything that %s learns from: the loss is 0 whatever the model%s",
                split,
                " or ".join(each["name"] for each in self.objective.facts()["objectives"]),
                ", and chooses no checkpoint; another --valid-subset would, or --disable-validation" if split == "validation" else "",
            )


@register_criterion(DEFAULT_OBJECTIVE, dataclass=CriterionConfig)
class DefaultPretraining(Pretraining):
    """The same, by the name of the objective that is learned where none is named."""


@register_criterion("property_prediction", dataclass=CriterionConfig)
class PropertyPrediction(BatchCriterion):
    """Binary cross-entropy over the labels that are present, or squared or absolute error of scaled targets."""

    task: FinetuningTask

    @property
    def loss_names(self) -> list[str]:
        return ["cross-entropy" if self.task.kind == "classification" else f"{self.task.cfg.regression_loss} loss"]

    def prepare(self, sample: dict[str, Any], device: torch.device) -> Prepared:
        batch = sample["batch"].to(device)
        layout = Layout(batch.num_atoms, device, merged=self.training)
        if self.task.cfg.random_modality and self.training:
            shown = show_random_modality(batch, layout, draw_modality(batch, seed=self.seed, epoch=self.epoch))
        else:
            shown = show_all(batch, layout, self.task.finetuned.inputs)
        return Prepared(batch, layout, batch.has_label.sum().double().reshape(1), shown)

    def compute(self, model: Any, sample: dict[str, Any]) -> tuple[Tensor, float, dict[str, Any]]:
        device = next(model.parameters()).device
        task, about = self.task, self.task.finetuned
        ready = self.ready(sample, device)
        batch = ready.batch
        prediction = model(lambda whole: whole(batch, ready.parts, ready.layout).properties)
        mean, std = (torch.tensor(values, dtype=torch.float64).to(device, non_blocking=True) for values in (about.mean, about.std))
        scaled = (batch.labels - mean) / std
        total = property_loss(prediction, scaled, batch.has_label, task.kind, str(task.cfg.regression_loss)).reshape(1)
        loss = self.combine(total, ready.counts, [1.0])
        log = self.logged(ready, total)
        if not self.training:
            labels = torch.where(batch.has_label, batch.labels, float("nan"))
            log["prediction"] = (prediction.double() * std + mean).cpu().numpy()
            log["label"] = labels.cpu().numpy()
        return loss, self.take_sample_size(), log

    def log_metrics(self, logging_outputs: list[dict[str, Any]]) -> None:
        """Log the loss, and in evaluation the scores over the whole split."""
        logs = [log for log in logging_outputs if log]
        log_sums(logs)
        metrics.log_derived("loss", lambda m: mean_of(*(float(self.part(m[SUMS].sum, name)) for name in (LOSSES, COUNTS))), priority=0)
        log_throughput(logs)
        if "prediction" in logs[0]:
            for log in logs:
                metrics.log_custom(PredictionMeter, "_predictions", log["prediction"], log["label"])
            for name in SCORE_NAMES[self.task.kind]:
                metrics.log_derived(name, lambda m, name=name: self._score(m["_predictions"], name))

    def _score(self, meter: PredictionMeter, name: str) -> float:
        prediction, label = np.concatenate(meter.predictions), np.concatenate(meter.labels)
        per_target = scores(prediction, label, self.task.finetuned.targets, self.task.kind, only=(name,))
        value = average(per_target, name)
        return float("nan") if value is None else value
