"""Labels: what `--label` asks for, what the cells of a column say about their kind, and the values of a row."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from moleblend_fs.data.class_words import FALSE, TRUE
from moleblend_fs.data.graph import LabelSpec
from moleblend_fs.errors import UserError
from moleblend_fs.wording import counted

KINDS = ("regression", "classification")
UNSAID = ""
"""Kind of a label for which none was given, until its values are known."""

DASHES = ("-", "--", "\u2013", "\u2014")
WORDS = "na n/a n.a. #n/a #na <na> nan -nan +nan null none nil missing nd n.d."
MISSING = frozenset(("", *DASHES, "?", ".", *WORDS.split(" ")))
"""Texts, in lower case, of cells without a value."""
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
"""A decimal number in ASCII. Python's own reading would take `1_5` for 15, and digits of any script."""

LARGEST, SMALLEST = 1e100, 1e-100
"""Bounds of |value|, 0 apart, within which squares and their sums neither overflow nor vanish."""
MOST_CLASSES = 1000
"""Different texts of a classification column after which it is not looked at further."""
CODED = 0.01
"""Share of a class column's values above which a number other than 0 and 1 that is there more than once is a coding, not a slip."""
BINARY = 0.9
"""Share of 0, 1, true and false among the values of a column, all other numbers absent, from which it may be one of classes."""


FEW = 3
"""Different integers, each in as many rows at least, of a column without a kind that may be classes."""


def parse_label(text: str, columns: Sequence[str] = ()) -> LabelSpec:
    """The label that "name", "name:kind" or "name:kind:unit" stands for; the longest column that it begins with is the name.

    The kind is `UNSAID` where none is given.
    """
    known = [name for name in columns if text == name or text.startswith(f"{name}:")]
    name = max(known, key=len) if known else text.split(":", 1)[0]
    if text == name:
        return LabelSpec(name=name, unit="", kind=UNSAID)
    kind, _, unit = text[len(name) + 1 :].partition(":")
    if kind not in KINDS:
        raise UserError(f"--label {text}: the kind must be regression or classification, got {kind!r} (write NAME:KIND or NAME:KIND:UNIT)")
    return LabelSpec(name=name, unit=unit, kind=kind)


def is_missing(text: str) -> bool:
    """Whether a cell says that there is no value."""
    return text.strip().lower() in MISSING


def read_number(text: str) -> float:
    """The number that a cell holds, NaN where it says that there is none; ValueError says what is wrong with it."""
    text = text.strip()
    if NUMBER.fullmatch(text):
        return _in_range(float(text), text)
    if text.lower() in MISSING:
        return math.nan
    raise ValueError(f"is {text[:80]!r}, {_why_no_number(text)}")


def read_class(text: str) -> float:
    """0 or 1, NaN where a cell says that there is no value; ValueError says what is wrong with it."""
    lower = text.strip().lower()
    if lower in TRUE or lower in FALSE:
        return float(lower in TRUE)
    try:
        value = read_number(text)
    except ValueError as error:
        raise ValueError(f"{error}; a class must be 0 or 1, true or false, yes or no, or empty") from error
    if value not in (0.0, 1.0) and not math.isnan(value):
        raise ValueError(f"is {text.strip()[:80]}; a class must be 0, 1 or empty")
    return value


def read_labels(texts: Sequence[str], specs: Sequence[LabelSpec]) -> np.ndarray | str:
    """Label values of one row, (labels,) float64 with NaN where missing; or what is wrong with them."""
    values = np.full(len(specs), np.nan)
    for i, (text, spec) in enumerate(zip(texts, specs, strict=True)):
        try:
            values[i] = read_class(text) if spec.kind == "classification" else read_number(text)
        except ValueError as error:
            return f"label {spec.name!r} {error}"
    return values


def check_values(values: np.ndarray, specs: Sequence[LabelSpec]) -> str | None:
    """What is wrong with the label values of a row, from whatever source: their number, one that does not fit, a class not 0 or 1."""
    if values.shape != (len(specs),):
        return f"{counted(values.size, 'label')}, expected {len(specs)}"
    for value, spec in zip(values.tolist(), specs, strict=True):
        if math.isnan(value):
            continue
        if spec.kind == "classification" and value not in (0.0, 1.0):
            return f"label {spec.name!r} is {value:g}; a class must be 0, 1 or missing"
        try:
            _in_range(value, f"{value:g}")
        except ValueError as error:
            return f"label {spec.name!r} {error}"
    return None


def _in_range(value: float, text: str) -> float:
    if value != 0 and not SMALLEST <= abs(value) <= LARGEST:
        size = "infinite" if math.isinf(value) and "inf" in text.lower() else f"{text[:40]}, out of range"
        raise ValueError(f"is {size}; |value| must be 0 or lie between {SMALLEST:g} and {LARGEST:g}: use another unit, or the logarithm")
    if value == 0 and re.search(r"[1-9]", re.split("[eE]", text)[0]):
        raise ValueError(f"is {text[:40]}, too small to be told from 0: use another unit, or the logarithm")
    return value


def _why_no_number(text: str) -> str:
    """What is wrong with a text in place of a number."""
    if re.fullmatch(r"[+-]?(inf|infinity)", text, re.IGNORECASE):
        return "which is infinite"
    if re.fullmatch(r"[+-]?[0-9]*,[0-9]+([eE][+-]?[0-9]+)?", text):
        return "not a number: write a decimal point in place of the comma"
    if re.match(r"[<>~\u2264\u2265=]", text):
        return "a bound, not a number"
    if text.startswith("\u2212"):
        return "not a number: its minus sign is U+2212, write -"
    if text.lower() in TRUE | FALSE:
        return "not a number: for classes give NAME:classification"
    return "not a number"


class ColumnSurvey:
    """Looks at the cells of label columns before any molecule is made: kinds that are not said, codings that are not 0 and 1.

    Args:
        specs: the labels, kinds perhaps `UNSAID`.
        where: the file, for messages.
    """

    def __init__(self, specs: Sequence[LabelSpec], where: object):
        self._specs, self._where = tuple(specs), where
        self._seen: list[Counter[str]] = [Counter() for _ in specs]
        self._open = list(range(len(specs)))

    def add(self, rows: Iterable[Sequence[str]]) -> None:
        """Count the cells of some rows, each with the labels' cells in order."""
        rows = list(rows)
        for i in list(self._open):
            seen = self._seen[i]
            seen.update(row[i] for row in rows)
            if len(seen) > MOST_CLASSES or (self._specs[i].kind != "classification" and _is_continuous(seen)):
                self._open.remove(i)

    @property
    def settled(self) -> bool:
        """Whether further rows cannot change anything."""
        return not self._open

    def settle(self) -> tuple[LabelSpec, ...]:
        """The labels with their kinds; UserError says what to do where a kind must be said, or the values are of another coding."""
        return tuple(self._settle(spec, seen) for spec, seen in zip(self._specs, self._seen, strict=True))

    def _settle(self, spec: LabelSpec, seen: Counter[str]) -> LabelSpec:
        present = Counter({text.strip(): 0 for text in seen if not is_missing(text)})
        for text, count in seen.items():
            if not is_missing(text):
                present[text.strip()] += count
        classes = sum(count for text, count in present.items() if _is_class(text))
        measures = Counter({text: count for text, count in present.items() if _is_measure(text)})
        total = sum(present.values())
        if total == 0:
            return replace(spec, kind=spec.kind or "regression")
        what = f"{self._where}: label {spec.name!r} has the values {_shown(present)}"
        if spec.kind == "classification":
            self._check_classes(what, spec.name, present, classes, measures)
            return spec
        if spec.kind == UNSAID and not measures and classes >= BINARY * total:
            raise UserError(
                f"{what}; say what they are: --label {spec.name}:classification (learns a probability), or --label {spec.name}:regression"
            )
        if spec.kind == UNSAID and 1 < len(present) <= FEW and not _is_continuous(present) and total >= FEW * len(present):
            raise UserError(
                f"{what}, which may be classes: write two as 0 and 1 and give {spec.name}:classification, for several make a column of 0 "
                f"and 1 for each; for quantities give {spec.name}:regression"
            )
        if not measures and not any(NUMBER.fullmatch(text) for text in present):
            raise UserError(
                f"{what}, of which none is a number{_comma_hint(present)}; for two classes write 0 and 1 and give "
                f"{spec.name}:classification, for several make a column of 0 and 1 for each"
            )
        return replace(spec, kind="regression")

    def _check_classes(self, what: str, name: str, present: Counter[str], classes: int, measures: Counter[str]) -> None:
        total = sum(present.values())
        if not classes or max(measures.values(), default=0) > max(1, CODED * total):
            low = " (where -1 means missing, leave the cell empty)" if "-1" in measures or "-1.0" in measures else ""
            raise UserError(
                f"{what}; classes must be 0 and 1, true and false, or yes and no: write two classes so{low}, for several make a column of "
                f"0 and 1 for each, and give {name}:regression where they are quantities"
            )


def _is_class(text: str) -> bool:
    lower = text.strip().lower()
    return lower in TRUE or lower in FALSE or (NUMBER.fullmatch(lower) is not None and float(lower) in (0.0, 1.0))


def _is_measure(text: str) -> bool:
    """Whether a text is a number other than 0 and 1."""
    text = text.strip()
    return NUMBER.fullmatch(text) is not None and float(text) not in (0.0, 1.0)


def _is_continuous(texts: Iterable[str]) -> bool:
    """Whether there is a number that is no integer, or more than `FEW` different ones other than 0 and 1."""
    numbers = {float(text.strip()) for text in texts if _is_measure(text)}
    return len(numbers) > FEW or any(not number.is_integer() for number in numbers)


def _shown(present: Counter[str]) -> str:
    texts = [f"{text[:30]!r} ({count} x)" for text, count in present.most_common(5)]
    return ", ".join(texts) + (f", ... ({len(present)} different ones)" if len(present) > 5 else "")


def _comma_hint(present: Counter[str]) -> str:
    comma = any(re.fullmatch(r"[+-]?[0-9]*,[0-9]+", text) for text in present)
    return " (write a decimal point in place of the comma)" if comma else ""
