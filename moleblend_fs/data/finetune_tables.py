"""Tables that `moleblend finetune` writes (predictions_test.csv, predictions_oof.csv): the input's columns as they are, then ours."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from moleblend_fs.data.class_words import FALSE, TRUE

OF_EVERY_ROW = ("row", "fold", "split", "status")
"""What every line ends with."""
MARK = " (moleblend)"
"""Ends the name of a column of ours that the input has, too."""


def own_columns(given: Sequence[str], names: Sequence[str]) -> list[str]:
    """Names of our columns, told apart from the input's and from each other."""
    taken, result = set(given), list[str]()
    for name in names:
        while name in taken:
            name += MARK
        taken.add(name)
        result.append(name)
    return result


def columns_of_target(target: str, *, several: bool, interval: bool) -> list[str]:
    """What is said of a target: its prediction, then its spread and interval where there are any."""
    names = ["predicted", *["std"] * several, *["low", "high"] * interval]
    return [f"{target} ({name})" for name in names]


class Line(NamedTuple):
    """A line: cells of the input by their columns, texts of predictions by targets, and what every line has."""

    given: dict[str, str]
    predicted: dict[str, str]
    row: str
    fold: str
    split: str
    status: str


def read_lines(path: Path, targets: Sequence[str]) -> Iterator[Line]:
    """All lines of a table; ValueError where it is not one of these, or not of these targets."""
    with open(path, newline="", encoding="utf-8") as stream:
        lines = csv.reader(stream)
        header = next(lines, [])
        places = _places(header, targets)
        if places is None:
            raise ValueError(f"{path}: no table of predictions of {', '.join(targets)}")
        for cells in lines:
            if len(cells) != len(header):
                raise ValueError(f"{path}: a line of {len(cells)} cells, the header has {len(header)}")
            given = dict(zip(header[: places[0]], cells, strict=False))
            yield Line(given, {t: cells[place] for t, place in zip(targets, places, strict=True)}, *cells[-len(OF_EVERY_ROW) :])


def number(text: str) -> float:
    """What a cell of a label or prediction says: a number with a point or a comma, or the word for a class; NaN for anything else."""
    word = text.strip().lower()
    if word in TRUE or word in FALSE:
        return float(word in TRUE)
    try:
        return float(word.replace(",", "."))
    except ValueError:
        return float("nan")


def _places(header: Sequence[str], targets: Sequence[str]) -> list[int] | None:
    """Where the targets' predictions are: ours are the last columns, as many of each target."""
    end = len(header) - len(OF_EVERY_ROW)
    for width in (4, 3, 2, 1):
        places = [end - width * (len(targets) - i) for i in range(len(targets))]
        if places and places[0] >= 0 and all(_is(header[p], f"{t} (predicted)") for p, t in zip(places, targets, strict=True)):
            return places
    return None


def _is(name: str, wanted: str) -> bool:
    return name.startswith(wanted) and not name[len(wanted) :].replace(MARK, "")
