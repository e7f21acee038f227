"""What the members of each fold say of the molecules that they were not trained on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moleblend_fs.checkpoint.read import load
from moleblend_fs.data.logits import probability
from moleblend_fs.data.split_file import all_labels
from moleblend_fs.data.splits import TEST, TRAIN, VALID
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.finetune.data import Data
from moleblend_fs.finetune.scoring import calibrate, calibrated
from moleblend_fs.inference.predict import Runner
from moleblend_fs.objectives.common.metrics import r2, roc_auc
from moleblend_fs.predictions.calibration import TargetCalibration

LEAST_LEARNED = 0.05
"""What a member has to explain of its own training labels (`skill`): less is said, and left out where another member has learned."""
LOOKED_AT = 300
"""Training molecules that this is found out on, evenly spaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a fold's members say of some of its molecules, in the order of the store.

    Attributes:
        indices: (n,) molecules. prediction: (n, targets) mean of the members: values, or logits of class 1.
        std: (n, targets) spread of the members' values, or probabilities. labels: (n, targets), NaN where missing.
    """

    indices: np.ndarray
    prediction: np.ndarray
    std: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldResult:
    """A fold after its members were trained.

    Attributes:
        name: of the fold. valid, test: of these splits. calibration: of each target, from the validation molecules alone.
        skills: name of each member -> how much it explains of its own training labels; None where they do not tell.
        members: names of those whose mean is taken.
    """

    name: str
    valid: Said
    test: Said
    calibration: list[TargetCalibration]
    skills: dict[str, float | None]
    members: tuple[str, ...]

    def reported(self) -> np.ndarray:
        """(n, targets) predictions of the test molecules as they are scored."""
        return calibrated(self.test.prediction, self.calibration)


def fold_result(name: str, store: Store, checkpoints: Mapping[str, Path], data: Data, runner: Runner) -> FoldResult:
    """Run a fold's members (name -> checkpoint) over its validation and test molecules."""
    columns = [store.manifest.label_index(label.name) for label in data.targets]
    kind = data.targets[0].kind
    indices = {split: np.asarray(store.split(split)) for split in (VALID, TEST)}
    labels = {split: all_labels(store, those)[:, columns] for split, those in indices.items()}
    values = {
        split: {member: _values(path, store, those, len(columns), runner) for member, path in checkpoints.items()}
        for split, those in indices.items()
    }
    trained = np.asarray(store.split(TRAIN))
    seen = trained[np.unique(np.linspace(0, len(trained) - 1, min(len(trained), LOOKED_AT)).astype(int))]
    known = all_labels(store, seen)[:, columns]
    skills = {member: skill(_values(path, store, seen, len(columns), runner), known, kind) for member, path in checkpoints.items()}
    kept = learned(skills)
    said = {}
    for split, those in indices.items():
        members = np.stack([values[split][member] for member in kept])
        spread = probability(members) if kind == "classification" else members
        said[split] = Said(indices=those, prediction=members.mean(axis=0), std=spread.std(axis=0), labels=labels[split])
    valid = said[VALID]
    of_targets = calibrate(valid.prediction, valid.std, valid.labels, kind, scaled=len(kept) > 1)
    return FoldResult(name=name, valid=valid, test=said[TEST], calibration=of_targets, skills=skills, members=kept)


def skill(prediction: np.ndarray, label: np.ndarray, kind: str) -> float | None:
    """Mean over the targets of R2, or of 2 ROC-AUC - 1 for classes: 1 for what is right, 0 or less for any constant.

    Args:
        prediction, label: (n, targets); NaN where there is none.

    Returns:
        None where no target's labels define it.
    """
    found = []
    for said, true in zip(prediction.T, label.T, strict=True):
        true = np.where(np.isfinite(said), true, np.nan)
        score = roc_auc(said, true) if kind == "classification" else r2(said, true)
        if score is not None:
            found.append(2 * score - 1 if kind == "classification" else score)
    return float(np.mean(found)) if found else None


def learned(skills: Mapping[str, float | None]) -> tuple[str, ...]:
    """The members whose mean is taken: those that explain `LEAST_LEARNED`; all where none does, or where it cannot be told."""
    kept = tuple(member for member, value in skills.items() if value is None or value >= LEAST_LEARNED)
    return kept or tuple(skills)


def not_learned(results: Iterable[FoldResult]) -> list[dict[str, Any]]:
    """Of each member that has learned next to nothing: its name and skill, and whether it is left out of the mean."""
    return [
        {"member": member, "skill": value, "left_out": member not in result.members}
        for result in results
        for member, value in result.skills.items()
        if value is not None and not value >= LEAST_LEARNED
    ]


def _values(path: Path, store: Store, indices: np.ndarray, targets: int, runner: Runner) -> np.ndarray:
    """(n, targets) a member's predictions; UserError where one is not finite although the model reads the molecule."""
    if not len(indices):
        return np.zeros((0, targets))
    parts = list(runner.properties(load(path), store, indices))
    values = np.concatenate([part.values for part in parts])
    if not np.isfinite(values).any():
        raise UserError(f"{path}: no prediction is finite; train with a smaller --lr")
    return values
