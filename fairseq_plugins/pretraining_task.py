"""The task of pretraining: any objective, or several, on the splits of a store."""

from dataclasses import dataclass, field, fields
from typing import Any, List  # noqa: UP035

from fairseq.tasks import register_task
from omegaconf import II

from fairseq_plugins import splits
from fairseq_plugins.options import fairseq_dataclass, our_options
from fairseq_plugins.task import StoreTask, StoreTaskConfig
from moleblend_fs.data.mixture import open_sidecar
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.objectives.combined_objectives import Combined
from moleblend_fs.objectives.objective import Label, Objective
from moleblend_fs.objectives.registry import DEFAULT_OBJECTIVE, chosen, objectives


@dataclass
class ObjectiveConfig(StoreTaskConfig):
    objective: str = field(
        default=DEFAULT_OBJECTIVE,
        metadata={
            "help": "what is learned from the molecules, or several objectives separated by commas, whose losses are added: "
            f"{', '.join(objectives())}. The options of each begin with its name below"
        },
    )
    objective_weights: List[float] = field(  # noqa: UP006  fairseq reads the annotation as text
        default_factory=list, metadata={"help": "what the losses of each objective are multiplied by, e.g. 1,0.5; all 1 by default"}
    )
    best_checkpoint_metric: str = II("checkpoint.best_checkpoint_metric")
    maximize_best_checkpoint_metric: bool = II("checkpoint.maximize_best_checkpoint_metric")


PretrainingConfig = fairseq_dataclass(
    "PretrainingConfig", __name__, {name: found.Options for name, found in objectives().items()}, ObjectiveConfig
)


def objective_of(cfg: Any) -> Objective:
    """The objective, or the sum of objectives, that a task's options ask for."""
    learned = chosen(str(cfg.objective))
    check_owners(cfg, learned)
    parts = [found(our_options(found.Options, cfg)) for found in learned]
    weights = [float(weight) for weight in cfg.objective_weights]
    return parts[0] if len(parts) == 1 and weights in ([], [1.0]) else Combined(parts, weights)


def check_owners(cfg: Any, learned: list[type[Objective]]) -> None:
    """UserError names an option that was given and that only other objectives have: it would change nothing."""
    own = {option.name for found in learned for option in fields(found.Options)}
    owners: dict[str, list[str]] = {}
    for name, found in objectives().items():
        given: Any = our_options(found.Options, cfg)
        for option in fields(found.Options):
            if option.name not in own and getattr(given, option.name) != option.default:
                owners.setdefault(option.name, []).append(name)
    for foreign, names in owners.items():
        raise UserError(
            f"--{foreign.replace('_', '-')} is an option of {', '.join(names)}, and --objective {cfg.objective} would not heed it; "
            "leave it out, or learn that objective (--objective)"
        )


def check_metric(objective: Objective, metric: str, maximize: bool) -> None:
    """UserError where --best-checkpoint-metric is nothing that the objective logs, or would keep the worst checkpoint."""
    losses = ["loss", "weighted_loss", *(f"{term.name}_loss" for term in objective.terms())]
    every = [*losses, *objective.logged()]
    if metric not in every:
        raise UserError(f"--best-checkpoint-metric {metric}: this objective has {', '.join(every)}")
    if metric in losses and maximize:
        raise UserError(
            f"--best-checkpoint-metric {metric} goes without --maximize-best-checkpoint-metric: the worst checkpoint would be kept"
        )


@register_task("moleblend", dataclass=PretrainingConfig)
class PretrainingTask(StoreTask):
    """An objective on the training split; what is drawn at random is the same every time on the validation split."""

    cfg: Any

    def __init__(self, cfg: Any):
        super().__init__(cfg)
        self.objective: Objective = objective_of(cfg)
        self.objective.check(self.store.manifest, str(self.store.path))
        if not cfg.disable_validation:
            check_metric(self.objective, cfg.best_checkpoint_metric, cfg.maximize_best_checkpoint_metric)
        self.labels = self.objective.labels(self.store.manifest)
        self.objective.take_labels({name: self._label(place, name) for place, name in enumerate(self.labels)})
        self.sidecars = {name: open_sidecar(self.store, name) for name in self.objective.sidecars()}
        self.objective.take_sidecars({name: sidecar.manifest for name, sidecar in self.sidecars.items()})

    def _label(self, place: int, name: str) -> Label:
        column = self.store.manifest.label_index(name)
        mean, std = splits.scale(self.store, self.cfg.train_subset, column)
        return Label(place, mean, std, self.store.manifest.labels[column].unit)

    def label_columns(self) -> list[int]:
        return [self.store.manifest.label_index(name) for name in self.labels]

    @property
    def group(self) -> int | None:
        return self.objective.group

    @property
    def pretraining(self) -> dict[str, Any]:
        """See `Objective.facts`; and the hash of each sidecar's values."""
        sidecars = {name: sidecar.manifest.values_sha256 for name, sidecar in self.sidecars.items()}
        return self.objective.facts() | ({"sidecars": sidecars} if sidecars else {})

    @property
    def conformers(self) -> int:
        return self.objective.conformers

    def begin_model(self, model: MoleBlend) -> None:
        self.objective.begin(model)

    def model_config(self, cfg: Any) -> ModelConfig:
        return our_options(ModelConfig, cfg, heads=self.objective.heads(), **self.objective.config_fields())
