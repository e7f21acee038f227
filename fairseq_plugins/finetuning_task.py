"""The task of finetuning: labels of a store, predicted from its molecules in 2D, 3D or both."""

import logging
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Optional

from fairseq.dataclass import ChoiceEnum
from fairseq.tasks import register_task
from omegaconf import II

from fairseq_plugins import splits
from fairseq_plugins.options import our_options
from fairseq_plugins.task import StoreTask, StoreTaskConfig
from moleblend_fs.checkpoint.read import FinetunedFor
from moleblend_fs.data.model_description import INPUTS, PREDICTED, reads_structures
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.objectives.finetuning import shared_kind
from moleblend_fs.shared_options import HEAD_STARTS, RANDOM
from moleblend_fs.wording import counted, verb

logger = logging.getLogger(__name__)


@dataclass
class FinetuningConfig(StoreTaskConfig):
    targets: Optional[str] = field(  # noqa: UP045  fairseq cannot read "str | None"
        default=None, metadata={"help": "labels to learn, separated by commas; all labels of the store by default"}
    )
    inputs: ChoiceEnum(list(INPUTS)) = field(  # type: ignore[valid-type]
        default="2d",
        metadata={
            "help": "what of a molecule is shown; 2d+predicted3d: 2D, and the distances that --finetune-from-model predicts from 2D, which "
            "must have been pretrained with --geometry-target distance"
        },
    )
    regression_loss: ChoiceEnum(["mae", "mse"]) = field(  # type: ignore[valid-type]
        default="mse", metadata={"help": "regression loss, on targets scaled to mean 0 and standard deviation 1 over the training split"}
    )
    random_modality: bool = field(
        default=False, metadata={"help": "with --inputs 2d+3d: train each molecule in 2D+3D, 2D or 3D at random (0.2, 0.2, 0.6)"}
    )
    head_start: ChoiceEnum(list(HEAD_STARTS)) = field(  # type: ignore[valid-type]
        default=RANDOM,
        metadata={
            "help": "where the property head's last layer begins with --finetune-from-model: at random, or (ridge) as a linear model "
            "that is fitted to the training molecules; one that the checkpoint has goes on as it is"
        },
    )
    select_by: ChoiceEnum(["score", "loss"]) = field(  # type: ignore[valid-type]
        default="score",
        metadata={
            "help": "what on the validation split chooses checkpoint_best.pt: the score (ROC-AUC, RMSE or MAE; the loss for several "
            "regression targets), or the loss"
        },
    )
    best_checkpoint_metric: str = II("checkpoint.best_checkpoint_metric")
    maximize_best_checkpoint_metric: bool = II("checkpoint.maximize_best_checkpoint_metric")
    finetune_from_model: Optional[str] = II("checkpoint.finetune_from_model")  # noqa: UP045


class Selection(NamedTuple):
    """A score of the validation split that chooses the best checkpoint: its name in the log, and whether more is better."""

    metric: str
    maximize: bool


@register_task("moleblend_finetune", dataclass=FinetuningConfig)
class FinetuningTask(StoreTask):
    """Property prediction from the graph token."""

    cfg: FinetuningConfig
    finetuned: FinetunedFor
    UNSCALED: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __init__(self, cfg: FinetuningConfig):
        super().__init__(cfg)
        self.columns = self._columns(cfg.targets)
        manifest = self.store.manifest
        labels = [manifest.labels[column] for column in self.columns]
        self.kind = shared_kind(tuple(label.kind for label in labels), tuple(label.name for label in labels))
        self._check_modality(str(cfg.inputs))
        if str(cfg.head_start) != RANDOM and not cfg.finetune_from_model:
            raise UserError(f"--head-start {cfg.head_start} needs --finetune-from-model: on random weights there is nothing to fit to")
        self._check_selection()
        scales = [self._scale(column) for column in self.columns]
        self.finetuned = FinetunedFor(
            inputs=str(cfg.inputs),
            targets=tuple(label.name for label in labels),
            kinds=tuple(label.kind for label in labels),
            units=tuple(label.unit for label in labels),
            mean=tuple(mean for mean, _ in scales),
            std=tuple(std for _, std in scales),
        )

    def _columns(self, targets: str | None) -> list[int]:
        labels = [label.name for label in self.store.manifest.labels]
        if not labels:
            raise UserError(f"{self.store.path} has no labels to learn; preprocess a source with label columns")
        if targets is None:
            return list(range(len(labels)))
        names = [targets] if targets in labels else [name.strip() for name in targets.split(",")]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"--targets {targets} names {twice[0]!r} twice")
        return [self.store.manifest.label_index(name) for name in names]

    def _check_modality(self, inputs: str) -> None:
        manifest = self.store.manifest
        if inputs == PREDICTED and not self.cfg.finetune_from_model:
            raise UserError(
                f"--inputs {PREDICTED} needs --finetune-from-model, pretrained with --geometry-target distance: that model predicts the "
                "distances"
            )
        if self.cfg.random_modality and inputs != "2d+3d":  # it would train on structures that validation does not see
            raise UserError(f"--random-modality goes with --inputs 2d+3d, not with {inputs}; leave one of them out")
        if not reads_structures(inputs):
            return
        if manifest.molecules_with_3d == 0:
            raise UserError(
                f"--inputs {inputs} on {self.store.path}, which has no 3D structures; use --inputs 2d, or preprocess with structures"
            )
        lacking = manifest.molecules - manifest.molecules_with_3d
        if lacking and inputs == "3d":
            raise UserError(
                f"--inputs 3d, but {lacking} of {counted(manifest.molecules, 'molecule')} of {self.store.path} "
                f"{verb(lacking, 'has', 'have')} "
                "no 3D structure; use 2d+3d or 2d"
            )
        if lacking:
            total = counted(manifest.molecules, "molecule")
            logger.warning("%d of %s %s no 3D structure: shown in 2D", lacking, total, verb(lacking, "has", "have"))

    def _check_selection(self) -> None:
        """The first validation split, as fairseq takes it, must be able to choose a checkpoint."""
        cfg = self.cfg
        splits.check_metric(cfg.best_checkpoint_metric, cfg.maximize_best_checkpoint_metric, self.kind)
        metric = self.selection.metric if cfg.best_checkpoint_metric == "loss" else cfg.best_checkpoint_metric
        split = cfg.valid_subset.split(",")[0]
        if not cfg.disable_validation and split in self.store.splits:
            splits.check_validation(self.store, split, self.columns, metric)

    def _scale(self, column: int) -> tuple[float, float]:
        """Training mean and standard deviation of a regression target."""
        if self.kind == "classification":
            return self.UNSCALED
        mean, std = splits.scale(self.store, self.cfg.train_subset, column)
        if not self.cfg.disable_validation:
            splits.check_range(self.store, self.cfg.valid_subset, column, mean, std)
        return mean, std

    def label_columns(self) -> list[int]:
        return self.columns

    def model_config(self, cfg: Any) -> ModelConfig:
        return our_options(ModelConfig, cfg, heads=("property",), tasks=len(self.columns), predicted_3d=self.finetuned.inputs == PREDICTED)

    @property
    def selection(self) -> Selection:
        """By what checkpoint_best.pt is chosen.

        Several regression targets have no common unit; their scaled loss is the score then.
        """
        if str(self.cfg.select_by) == "loss":
            return Selection("loss", maximize=False)
        if self.kind == "classification":
            return Selection("roc_auc", maximize=True)
        if len(self.columns) > 1:
            return Selection("loss", maximize=False)
        return Selection({"mse": "rmse", "mae": "mae"}[str(self.cfg.regression_loss)], maximize=False)
