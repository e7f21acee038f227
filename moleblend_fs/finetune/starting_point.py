"""What the models of a run begin with, where nothing is said of it too, and what is said of that."""

from pathlib import Path
from typing import NamedTuple

from moleblend_fs.checkpoint.read import Checkpoint
from moleblend_fs.data.store import Store
from moleblend_fs.data.trained_on import TrainedOn
from moleblend_fs.finetune.data import is_store
from moleblend_fs.finetune.members import starting_checkpoint
from moleblend_fs.finetune.settings import Settings
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
    """Of a run of DATA; UserError for weights that cannot be read, or are of another size than is asked for."""
    stored = TrainedOn.of(Store(given).manifest).hydrogens if is_store(given) and not settings.weights else ""
    chosen = settings.with_weights(stored)
    start = starting_checkpoint(chosen)
    if start is None:
        why = "" if settings.weights else settings.default_weights(stored)[1]
        return StartingPoint(chosen, settings.hydrogens or "none", "random weights", f"began with random weights{why and ': '}{why}")
    explicit = start.trained_on is not None and start.trained_on.hydrogens == "explicit"
    hydrogens = settings.hydrogens or ("explicit" if explicit else "none")
    return StartingPoint(chosen, hydrogens, Path(chosen.weights).name, _told(chosen.weights, start))


def _told(weights: str, start: Checkpoint) -> str:
    """Of pretrained weights: what they have seen, as far as they say it."""
    if start.card is None:
        return f"began with the weights {weights}"
    objectives = " and ".join(str(each.get("name")) for each in start.card.objectives)
    molecules = counted(sum(store.molecules for store in start.card.stores), "molecule")
    return f"began with the weights {weights} (moleblend inspect {weights}), pretrained on {molecules} by {objectives}"
