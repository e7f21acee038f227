"""Predictions as lines of a table: the input's cells, the targets, and a status that says why there is no prediction."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from moleblend_fs.predictions.calibration import TargetCalibration
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
NAMED = 3
"""Targets that a message names, at most."""


def digits_of(mean: float, std: float) -> int:
    """Significant digits to write of a target's values: those of their spread, and those by which their mean exceeds it."""
    return DIGITS + (max(0, math.ceil(math.log10(abs(mean) / std))) if mean and std > 0 else 0)


def free(name: str, taken: Sequence[str]) -> str:
    """A column's name, told apart from the input's where that has it, too."""
    while name in taken:
        name = f"{name} (predicted)"
    return name


class Column(NamedTuple):
    """A column of ours.

    Attributes:
        name: as it is written. holds: "values", "std", "low", "high" of a target, "similarity", "outside" or "status".
        target: its place among the targets; 0 for columns that are of none.
    """

    name: str
    holds: str
    target: int = 0


def own_columns(
    given: Sequence[str], targets: Sequence[str], kinds: Sequence[str], *, several: bool, intervals: bool, domain: bool
) -> list[Column]:
    """The columns that predictions add to those of an input, whose names stay: ours are told apart from them, and from each other.

    Args:
        given: the input's. several: whether there are several members. intervals: whether quantities have them. domain: whether training
            molecules are known.
    """
    status = Column(free(STATUS, given), "status")
    taken, result = [*given, STATUS, status.name], list[Column]()

    def add(name: str, holds: str, target: int = 0) -> str:
        result.append(Column(free(name, taken), holds, target))
        taken.append(result[-1].name)
        return result[-1].name

    for i, (target, kind) in enumerate(zip(targets, kinds, strict=True)):
        base = add(target, "values", i)
        parts = ["std"] * several + ["low", "high"] * (intervals and kind == "regression")
        for part in parts:
            add(f"{base}_{part}", part, i)
    for name, holds in ((SIMILARITY, "similarity"), (OUTSIDE, "outside")) if domain else ():
        add(name, holds)
    return [*result, status]


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
        about, several, intervals = model.about, len(model.abouts) > 1, model.calibration is not None
        own = own_columns(columns, about.targets, about.kinds, several=several, intervals=intervals, domain=domain is not None)
        self.header = [*columns, *(column.name for column in own)]
        self._digits = [digits_of(mean, std) for mean, std in zip(about.mean, about.std, strict=True)]
        self.counts: Counter[str] = Counter()
        self._no_intervals = [] if model.calibration is None else self._not_calibrated(model.calibration.targets)

    def _not_calibrated(self, targets: Mapping[str, TargetCalibration]) -> list[str]:
        """Quantities whose intervals would need more residuals than there are."""
        members, std = len(self._model.abouts), np.zeros(1)
        names = [name for name, kind in zip(self._model.about.targets, self._model.about.kinds, strict=True) if kind == "regression"]
        return [name for name in names if name not in targets or targets[name].half_width(std, self._level, members=members) is None]

    def lines(self, window: Window) -> Iterator[list[str]]:
        """A line for each row."""
        combined, finite = self.combined(window)
        nearness, statuses = self.nearness(window), self.statuses(window, finite)
        for place, row in enumerate(window.rows):
            cells = [*row.cells, *self._numbers(combined, place)]
            if nearness is not None:
                similarity, outside = nearness[0][place], nearness[1][place]
                cells += ["", ""] if outside is None else [f"{similarity:.4f}", "yes" if outside else "no"]
            yield [*cells, statuses[place]]

    def nearness(self, window: Window) -> tuple[np.ndarray, np.ndarray] | None:
        """Of each row (similarity to the nearest training molecule, whether it is outside of the domain); NaN and None without a molecule.

        Counted; None where the training molecules are not known.
        """
        if self._domain is None:
            return None
        similarity = self._domain.similarity([row.smiles if row.record else "" for row in window.rows])
        outside = self._domain.outside(similarity).astype(object)
        self.counts["outside"] += int(outside.sum())
        outside[np.isnan(similarity)] = None
        return similarity, outside

    def combined(self, window: Window) -> tuple[Combined, np.ndarray]:
        """Predictions of a window, NaN where there is none; and (n,) bool, which outputs are numbers."""
        members, targets = len(self._model.abouts), len(self._model.about.targets)
        outputs = np.full((members, len(window.rows), targets), np.nan)
        for place, values in enumerate(window.values):
            if values is not None:
                outputs[:, place] = values
        finite = np.isfinite(outputs).all(axis=(0, 2))
        outputs[:, ~finite] = np.nan  # which the probability of a logit that is infinite would not be
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
        see = f"see the column {self.header[-1]} of {where}"
        said = []
        for kind, (thing, text) in sentences.items():
            if count := self.counts[kind]:
                words = {"has": verb(count, "has", "have"), "is": verb(count, "is", "are"), "it": verb(count, "it", "them")}
                said.append(f"{counted(count, thing)} {text.format(**words)}" + ("" if kind == "outside" else f"; {see}"))
        return said + ([self._without_intervals()] if self._no_intervals and self.molecules else [])

    def _without_intervals(self) -> str:
        names = ", ".join(self._no_intervals[:NAMED]) + (", ..." if len(self._no_intervals) > NAMED else "")
        wanted = math.ceil(self._level / (1 - self._level) - 1e-9)
        return (
            f"no intervals for {names} (low and high are empty): for {100 * self._level:g} % the model would have to be calibrated with at "
            f"least {counted(wanted, 'label')} that it did not learn from"
        )

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
