"""How far predictions are off, learned from molecules that were not trained on: intervals and calibrated probabilities."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from moleblend_fs.data.logits import probability
from moleblend_fs.data.typed_json import READING, from_json, read_json
from moleblend_fs.errors import UserError
from moleblend_fs.files import as_json, write_atomically


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetCalibration:
    """What is known of one target.

    Attributes:
        kind: as of the target.
        absolute_residuals: regression: |label - prediction| of out-of-fold predictions, sorted, in the target's unit.
        scaled_residuals: the same divided by (standard deviation of the members' predictions + `std_floor`), sorted; None for none.
        std_floor: in the target's unit; members that agree are not therefore right.
        slope, intercept: classification: probability = sigmoid(slope * mean of the members' logits + intercept) (Platt).
    """

    kind: Literal["regression", "classification"]
    absolute_residuals: tuple[float, ...] = ()
    scaled_residuals: tuple[float, ...] | None = None
    std_floor: float | None = None
    slope: float = 1.0
    intercept: float = 0.0

    def half_width(self, std: np.ndarray, level: float, *, members: int) -> np.ndarray | None:
        """(n,) half the width of intervals that hold a share `level` of values; None where there are too few residuals for it.

        Args:
            std: (n,) standard deviation of the members' predictions.
        """
        if members > 1 and self.scaled_residuals is not None and self.std_floor is not None:
            quantile = conformal_quantile(self.scaled_residuals, level)
            return None if quantile is None else quantile * (std + self.std_floor)
        quantile = conformal_quantile(self.absolute_residuals, level)
        return None if quantile is None else np.full(len(std), quantile)

    def probability(self, logit: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of class 1."""
        return probability(self.slope * logit + self.intercept)


def conformal_quantile(residuals: Sequence[float], level: float) -> float | None:
    """The ceil((n + 1) level)-th smallest of n residuals, or None where that is more than n (split conformal prediction).

    Of exchangeable molecules a new one's residual is not larger with a probability of at least `level` (Lei et al. 2018).
    """
    place = math.ceil((len(residuals) + 1) * level - 1e-9)
    return None if not 1 <= place <= len(residuals) else float(np.partition(np.asarray(residuals, dtype=np.float64), place - 1)[place - 1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Target name -> what is known of it."""

    targets: dict[str, TargetCalibration] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Calibration":
        """From a file of `save`; UserError where it cannot be read."""
        try:
            return cls.from_content(read_json(path))
        except (*READING, RecursionError) as error:
            raise UserError(f"{path}: not a readable calibration ({error}); copy the run's folder again") from error

    @classmethod
    def from_content(cls, content: Any) -> "Calibration":
        """The inverse of `content`; ValueError where it is something else."""
        found = from_json(cls, content)
        for name, target in found.targets.items():
            numbers = [*target.absolute_residuals, *(target.scaled_residuals or ()), target.std_floor or 0.0]
            if not all(math.isfinite(number) and number >= 0 for number in numbers):
                raise ValueError(f"a residual of {name!r} is negative or no number")
        return found

    def content(self) -> dict[str, Any]:
        """As JSON values."""
        targets: dict[str, Any] = {
            name: {
                "kind": target.kind,
                "absolute_residuals": sorted(target.absolute_residuals),
                "scaled_residuals": None if target.scaled_residuals is None else sorted(target.scaled_residuals),
                "std_floor": target.std_floor,
                "slope": target.slope,
                "intercept": target.intercept,
            }
            for name, target in self.targets.items()
        }
        return {"targets": targets}

    def save(self, path: Path) -> None:
        """Write a whole file."""
        write_atomically(path, as_json(self.content(), indent=1) + "\n")
