"""What the models of a run begin with, where nothing is said of it too, and what is said of that."""

from pathlib import Path
from typing import NamedTuple

from moleblend_fs.checkpoint.read import Checkpoint
from moleblend_fs.checkpoint.weights_by_name import NONE, WITH_HYDROGENS
from moleblend_fs.data.model_description import PREDICTED
from moleblend_fs.data.store import Store
from moleblend_fs.data.trained_on import TrainedOn
from moleblend_fs.errors import UserError
from moleblend_fs.finetune.data import is_store
from moleblend_fs.finetune.members import starting_checkpoint
from moleblend_fs.finetune.settings import Settings
from moleblend_fs.model.predicted_distances import DISTANCE_HEAD
from moleblend_fs.wording import counted


class StartingPoint(NamedTuple):
    """What models begin with.

    Attributes:
        settings: with the weights that were chosen. hydrogens: that are asked for, or of the weights, or none.
        name: in a word or two. told: in a sentence.
    """

    settings: Settings
    hydrogens: str
    name: str
    told: str


def starting_point(given: Path, settings: Settings) -> StartingPoint:
    """Of a run of DATA; UserError for weights that cannot be read, or do not fit what is asked for."""
    stored = TrainedOn.of(Store(given).manifest).hydrogens if is_store(given) and not settings.weights else ""
    chosen = settings.with_weights(stored)
    start = starting_checkpoint(chosen)
    if start is None:
        why = "" if settings.weights else settings.default_weights(stored)[1]
        return StartingPoint(chosen, settings.hydrogens or "none", "random weights", f"began with random weights{why and ': '}{why}")
    of_weights = None if start.trained_on is None else start.trained_on.hydrogens
    if settings.hydrogens and of_weights in WITH_HYDROGENS and of_weights != settings.hydrogens:
        raise UserError(
            f"--hydrogens {settings.hydrogens}, but --weights {chosen.weights} were trained {WITH_HYDROGENS[of_weights]}; "
            f"leave --hydrogens out, or give --weights {NONE}"
        )
    if settings.inputs == PREDICTED and not (start.config.predicted_3d or DISTANCE_HEAD in start.config.heads):
        raise UserError(
            f"--inputs {PREDICTED}, but --weights {chosen.weights} have no head that predicts distances; choose a checkpoint pretrained "
            "with --geometry-target distance, or other inputs"
        )
    hydrogens = settings.hydrogens or ("explicit" if of_weights == "explicit" else "none")
    return StartingPoint(chosen, hydrogens, Path(chosen.weights).name, _told(chosen.weights, start))


def _told(weights: str, start: Checkpoint) -> str:
    """Of pretrained weights: what they have seen, as far as they say it."""
    if start.card is None:
        return f"began with the weights {weights}"
    objectives = " and ".join(str(each.get("name")) for each in start.card.objectives)
    molecules = counted(sum(store.molecules for store in start.card.stores), "molecule")
    return f"began with the weights {weights} (moleblend inspect {weights}), pretrained on {molecules} by {objectives}"
