"""Predictions as lines of a table: the input's cells, the targets, and a status that says why there is no prediction."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from moleblend_fs.predictions.combining import Combined, combine
from moleblend_fs.predictions.domain import Domain
from moleblend_fs.predictions.predictive_model import Predictive
from moleblend_fs.predictions.streaming import Window
from moleblend_fs.wording import counted, verb

STATUS, SIMILARITY, OUTSIDE = "status", "similarity", "outside_domain"
DIGITS = 7
"""Digits of the spread of a target's values that are written."""
LEVEL = 0.9
"""Share of values that intervals are to hold."""


def digits_of(mean: float, std: float) -> int:
    """Significant digits to write of a target's values: those of their spread, and those by which their mean exceeds it."""
    return DIGITS + (max(0, math.ceil(math.log10(abs(mean) / std))) if mean and std > 0 else 0)


def free(name: str, taken: Sequence[str]) -> str:
    """A column's name, told apart from the input's where that has it, too."""
    while name in taken:
        name = f"{name} (predicted)"
    return name


class PredictionTable:
    """Lines of predictions, window by window.

    Args:
        model: what predicts. columns: of the input.
        domain: the molecules that the model was trained on, or None.
        level: see `LEVEL`.

    Attributes:
        header: names of all columns.
        counts: rows, and how many of them are of which kind.
    """

    def __init__(self, model: Predictive, columns: Sequence[str], *, domain: Domain | None = None, level: float = LEVEL):
        self._model, self._domain, self._level = model, domain, level
        several, calibrated = len(model.abouts) > 1, model.calibration is not None
        reserved = [*columns, STATUS]
        self.header = list(columns)
        self._digits = []
        for name, kind, mean, std in zip(model.about.targets, model.about.kinds, model.about.mean, model.about.std, strict=True):
            base = free(name, reserved)
            own = [base, *([f"{base}_std"] if several else [])]
            own += [f"{base}_low", f"{base}_high"] if calibrated and kind == "regression" else []
            self.header += own
            self._digits.append(digits_of(mean, std))
        if domain is not None:
            self.header += [free(SIMILARITY, self.header), free(OUTSIDE, self.header)]
        self._status_column = free(STATUS, columns)
        self.header.append(self._status_column)
        self.counts: Counter[str] = Counter()

    def lines(self, window: Window) -> Iterator[list[str]]:
        """A line for each row."""
        combined, finite = self.combined(window)
        similarity = None if self._domain is None else self._domain.similarity([row.smiles if row.record else "" for row in window.rows])
        statuses = self.statuses(window, finite)
        for place, row in enumerate(window.rows):
            cells = [*row.cells, *self._numbers(combined, place)]
            if similarity is not None and self._domain is not None:
                known = not math.isnan(similarity[place])
                outside = known and bool(self._domain.outside(similarity[place]))
                self.counts["outside"] += outside
                cells += [f"{similarity[place]:.4f}", "yes" if outside else "no"] if known else ["", ""]
            yield [*cells, statuses[place]]

    def combined(self, window: Window) -> tuple[Combined, np.ndarray]:
        """Predictions of a window, NaN where there is none; and (n,) bool, which outputs are numbers."""
        members, targets = len(self._model.abouts), len(self._model.about.targets)
        outputs = np.full((members, len(window.rows), targets), np.nan)
        for place, values in enumerate(window.values):
            if values is not None:
                outputs[:, place] = values
        finite = np.isfinite(outputs).all(axis=(0, 2))
        return combine(self._model, outputs, self._level), finite

    def _numbers(self, combined: Combined, place: int) -> list[str]:
        cells = []
        for i, (kind, digits) in enumerate(zip(self._model.about.kinds, self._digits, strict=True)):
            cells.append(shown(combined.values[place, i], digits))
            if combined.std is not None:
                cells.append(shown(combined.std[place, i], DIGITS))
            if combined.low is not None and combined.high is not None and kind == "regression":
                cells += [shown(combined.low[place, i], digits), shown(combined.high[place, i], digits)]
        return cells

    def statuses(self, window: Window, finite: np.ndarray) -> list[str]:
        """What is to be said of each row; counted."""
        inputs, result = self._model.about.inputs, []
        for place, row in enumerate(window.rows):
            kind, status = "predicted", "ok"
            if row.record is None:
                kind, status = "failed", f"no molecule: {row.reason}"
            elif inputs == "3d" and not window.has_3d[place]:
                kind, status = "no structure", "no prediction: no 3D structure"
            elif place in window.too_large:
                kind, status = "too large", f"no prediction: not enough memory for {window.num_atoms[place]} atoms"
            elif not finite[place]:
                kind, status = "not finite", "no prediction: the model's output is not finite"
            elif inputs == "2d+3d" and not window.has_3d[place]:
                kind, status = "from 2D", "from 2D alone: no 3D structure"
            self.counts["rows"] += 1
            self.counts[kind] += 1
            result.append("; ".join([status, *row.notes]))
        return result

    def said(self, where: str) -> list[str]:
        """What is to be said at the end, a sentence each.

        Args:
            where: what the table is called.
        """
        sentences = {
            "failed": ("row", "of the source gave no molecule and {has} no prediction"),
            "no structure": ("molecule", "{has} no 3D structure and no prediction from this model of inputs 3d"),
            "too large": ("molecule", "{has} no prediction: there is not enough memory for {it}"),
            "not finite": ("molecule", "{has} no prediction, since the model's output is not finite for {it}"),
            "from 2D": ("molecule", "{has} no 3D structure: predicted from 2D alone"),
            "outside": ("molecule", "{is} less like the training molecules than 95 % of these are like each other (outside_domain)"),
        }
        see = f"see the column {self._status_column} of {where}"
        said = []
        for kind, (thing, text) in sentences.items():
            if count := self.counts[kind]:
                words = {"has": verb(count, "has", "have"), "is": verb(count, "is", "are"), "it": verb(count, "it", "them")}
                said.append(f"{counted(count, thing)} {text.format(**words)}" + ("" if kind == "outside" else f"; {see}"))
        return said

    @property
    def molecules(self) -> int:
        """Rows that gave a molecule."""
        return self.counts["rows"] - self.counts["failed"]

    @property
    def nothing_finite(self) -> bool:
        """Whether there are molecules, and not one has finite values: then it is the model that is broken."""
        return self.counts["not finite"] == self.molecules > 0


def shown(number: float, digits: int) -> str:
    """A number with so many significant digits; nothing for what is no number."""
    return f"{number:.{digits}g}" if math.isfinite(number) else ""
