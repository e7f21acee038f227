"""The card of published weights: what they were pretrained on and how, and what they are not for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moleblend_fs.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainedOn:
    """A store of the pretraining.

    Attributes:
        source: of its molecules. molecules: in its splits that were trained on. records_sha256: of all its molecules.
        inputs: input file -> its hash. options: that it was made with, among them the sets whose molecules were excluded.
        left_out: why rows of the inputs are not in it -> how many.
    """

    source: str
    molecules: int
    records_sha256: str
    inputs: dict[str, str]
    options: dict[str, Any]
    left_out: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What `config.json` of published weights says besides sizes, featurisation and hashes.

    Attributes:
        objectives: name, weight and options of each, as the run's facts have them.
        updates, seconds: of the pretraining. molecules_per_update: the most in one; 0 where batches were made by size.
        learning_rate: the largest. settings: name -> value of other options that shape the result.
        stores: trained on.
        licence: of the weights. limits, notes: for people, a sentence each.
        dropped: heads of pretraining that are not among the weights.
        precision: of the numbers on disk.
        version: of moleblend_fs that wrote the card.
    """

    objectives: tuple[dict[str, Any], ...]
    updates: int
    molecules_per_update: int
    seconds: float
    learning_rate: float
    settings: dict[str, Any]
    stores: tuple[PretrainedOn, ...]
    licence: str
    limits: tuple[str, ...]
    notes: tuple[str, ...]
    dropped: tuple[str, ...]
    precision: str
    version: str


class Facts:
    """What a checkpoint of fairseq-train knows of its run.

    Args:
        content: of the file. where: its path, for messages.

    Raises:
        UserError: it is no checkpoint of pretraining.
    """

    def __init__(self, content: Mapping[str, Any], where: str):
        try:
            extra, cfg = content["extra_state"], content["cfg"]
            facts = extra["moleblend"]["pretraining"]
            self.objectives: tuple[dict[str, Any], ...] = tuple(facts["objectives"])
            self.updates = int(content["optimizer_history"][-1]["num_updates"])
            self.seconds = round(float(extra["previous_training_time"]), 1)
            self.data = str(cfg["task"]["data"])
            optimization, dataset = cfg["optimization"], cfg["dataset"]
            self.learning_rate = float(max(optimization["lr"]))
            processes = int(cfg["distributed_training"]["distributed_world_size"])
            accumulated = max(optimization["update_freq"])
            self.molecules_per_update = int(dataset["batch_size"] or 0) * accumulated * processes
            self.settings: dict[str, Any] = {
                "start": _start(cfg["checkpoint"]["finetune_from_model"]),
                "seed": cfg["common"]["seed"],
                "max_update": optimization["max_update"],
                "clip_norm": optimization["clip_norm"],
                "optimizer": _plain(cfg["optimizer"]),
                "lr_scheduler": _plain(cfg["lr_scheduler"]),
                "bf16": cfg["common"]["bf16"],
                "processes": processes,
            }
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
            raise UserError(
                f"{where}: not a checkpoint of pretraining by `moleblend train`, whose facts a card is made of (no {error}); "
                "leave --half out"
            ) from error


def _start(path: str | None) -> str:
    """What the run began with, without the machine's folders."""
    return "random weights" if not path else "/".join(Path(path).parts[-2:])


def _plain(group: Any) -> dict[str, Any]:
    """Options of a part of fairseq's configuration, without those that stand elsewhere."""
    return {name: value for name, value in dict(group).items() if name not in ("lr", "tpu", "max_update") and value is not None}
