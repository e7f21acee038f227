"""What the members of each fold say of the molecules that they were not trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moleblend_fs.checkpoint.read import load
from moleblend_fs.data.logits import probability
from moleblend_fs.data.split_file import all_labels
from moleblend_fs.data.splits import TEST, VALID
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.finetune.data import Data
from moleblend_fs.finetune.scoring import calibrate, calibrated
from moleblend_fs.inference.predict import Runner
from moleblend_fs.predictions.calibration import TargetCalibration


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
    """

    name: str
    valid: Said
    test: Said
    calibration: list[TargetCalibration]

    def reported(self) -> np.ndarray:
        """(n, targets) predictions of the test molecules as they are scored."""
        return calibrated(self.test.prediction, self.calibration)


def fold_result(name: str, store: Store, checkpoints: Sequence[Path], data: Data, runner: Runner) -> FoldResult:
    """Run a fold's members over its validation and test molecules."""
    columns = [store.manifest.label_index(label.name) for label in data.targets]
    kind = data.targets[0].kind
    said = {}
    for split in (VALID, TEST):
        indices = np.asarray(store.split(split))
        members = np.stack([_values(path, store, indices, len(columns), runner) for path in checkpoints])
        spread = probability(members) if kind == "classification" else members
        said[split] = Said(
            indices=indices, prediction=members.mean(axis=0), std=spread.std(axis=0), labels=all_labels(store, indices)[:, columns]
        )
    valid = said[VALID]
    of_targets = calibrate(valid.prediction, valid.std, valid.labels, kind, scaled=len(checkpoints) > 1)
    return FoldResult(name=name, valid=valid, test=said[TEST], calibration=of_targets)


def _values(path: Path, store: Store, indices: np.ndarray, targets: int, runner: Runner) -> np.ndarray:
    """(n, targets) a member's predictions; UserError where one is not finite although the model reads the molecule."""
    if not len(indices):
        return np.zeros((0, targets))
    parts = list(runner.properties(load(path), store, indices))
    values = np.concatenate([part.values for part in parts])
    if not np.isfinite(values).any():
        raise UserError(f"{path}: no prediction is finite; train with a smaller --lr")
    return values
