"""What a search may choose from: the paper's spaces, one around our own table, or the user's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from moleblend_fs.checkpoint.weights_by_name import is_name
from moleblend_fs.errors import UserError
from moleblend_fs.finetune.recipes import recipe_for
from moleblend_fs.finetune.settings import ARCHITECTURES, Settings, flag

Value = float | int | str


class Parameter(NamedTuple):
    """A setting that can be searched.

    Attributes:
        kind: of its values. low, high: bounds; high is not reached. log: whether a range is drawn evenly in the logarithm.
    """

    kind: type
    low: float = 0.0
    high: float = math.inf
    log: bool = False


PARAMETERS = {
    "lr": Parameter(float, log=True),
    "weight_decay": Parameter(float, log=True),
    "batch_size": Parameter(int, low=1, log=True),
    "epochs": Parameter(int, low=1),
    "dropout": Parameter(float, high=1),
    "attention_dropout": Parameter(float, high=1),
    "arch": Parameter(str),
}
TABLE9 = {
    "table9": ("lr=1e-6..1e-4", "weight-decay=1e-7..1e-3", "batch-size=32,64,128,256", "epochs=40,60,80,100"),
    "table9-muv": ("lr=1e-6..1e-4", "weight-decay=1e-7..1e-3", "batch-size=128,256", "epochs=20,40"),
    "table9-hiv": ("lr=1e-6..1e-4", "weight-decay=1e-7..1e-3", "batch-size=128,256", "epochs=2,5,10"),
}
"""The paper's Table 9: of its nine small sets, of MUV and of HIV."""
AROUND = "around"
SPACES = (*TABLE9, AROUND)
SMALL, MIDDLE = 10_000, 60_000
"""Molecules up to which a set is like the paper's small ones; and like HIV, with 41,127, rather than MUV, with 93,087."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One setting of the space: some values, or all from `low` to `high`."""

    name: str
    values: tuple[Value, ...] = ()
    low: Value = 0
    high: Value = 0

    def __str__(self) -> str:
        shown = ",".join(map(str, self.values)) if self.values else f"{self.low}..{self.high}"
        return f"{self.name.replace('_', '-')}={shown}"


def parse_dimension(text: str) -> Dimension:
    """NAME=V,V,... or NAME=LOW..HIGH; UserError says what is wrong with it."""
    name, _, values = text.partition("=")
    name = name.strip().replace("-", "_")
    if name not in PARAMETERS:
        known = ", ".join(each.replace("_", "-") for each in PARAMETERS)
        raise UserError(f"--space {text}: nothing to search is called {name.replace('_', '-')!r}; there are: {known}")
    low, dots, high = values.partition("..")
    if dots:
        if PARAMETERS[name].kind is str:
            raise UserError(f"--space {text}: {name} has no range; list values: {name}={','.join(ARCHITECTURES[:2])}")
        ends = [_value(name, end, text) for end in (low, high)]
        if not ends[0] < ends[1]:  # type: ignore[operator]
            raise UserError(f"--space {text}: a range goes from a smaller number to a larger one")
        if PARAMETERS[name].log and not ends[0] > 0:  # type: ignore[operator]
            raise UserError(f"--space {text}: a range of {name.replace('_', '-')} is searched by its logarithm and must begin above 0")
        return Dimension(name=name, low=ends[0], high=ends[1])
    found = tuple(_value(name, each, text) for each in values.split(","))
    if len(set(found)) < len(found):
        raise UserError(f"--space {text}: a value stands there twice")
    return Dimension(name=name, values=found)


def _value(name: str, text: str, whole: str) -> Value:
    """A value of a parameter; UserError names what it may be."""
    parameter, text = PARAMETERS[name], text.strip()
    if parameter.kind is str:
        if text not in ARCHITECTURES:
            raise UserError(f"--space {whole}: {text!r} is no {name}; there are: {', '.join(ARCHITECTURES)}")
        return text
    try:
        value = parameter.kind(text)
    except ValueError:
        what = "whole number" if parameter.kind is int else "number"
        raise UserError(f"--space {whole}: {text!r} is no {what}; write NAME=1,2,3 or NAME=LOW..HIGH") from None
    if not parameter.low <= value < parameter.high or (name == "lr" and value == 0):
        least = "above 0" if name == "lr" else f"at least {parameter.low:g}"
        below = "" if parameter.high == math.inf else f" and below {parameter.high:g}"
        raise UserError(f"--space {whole}: {name.replace('_', '-')} must be {least}{below}, got {text}")
    return value


def check_space(asked: Sequence[str], settings: Settings) -> list[Dimension]:
    """The dimensions that are given one by one; UserError for a mistake in any part of what is asked for."""
    named = [text for text in asked if "=" not in text]
    if unknown := [text for text in named if text not in SPACES]:
        raise UserError(f"--space {unknown[0]}: neither NAME=VALUES nor one of {', '.join(SPACES)}")
    if len(named) > 1:
        raise UserError(f"--space: {' and '.join(named)} are two spaces; name one, and change it by NAME=VALUES")
    dimensions = [parse_dimension(text) for text in asked if "=" in text]
    names = [each.name for each in dimensions]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--space {name.replace('_', '-')} is given twice")
        if name in chosen(settings):
            raise UserError(f"{flag(name)} is given, and --space {name.replace('_', '-')}=...; leave one of them out")
    if "arch" in names and settings.pretrained:
        raise UserError("--space arch=...: the size is that of --weights; leave one of them out")
    return dimensions


def chosen(settings: Settings) -> set[str]:
    """Settings that are said, and not to be searched."""
    default = Settings()
    return {name for name in PARAMETERS if getattr(settings, name) != getattr(default, name)}


def space_of(asked: Sequence[str], settings: Settings, molecules: int, kind: str) -> list[Dimension]:
    """The space: what is asked for, on top of a named one; of the table's row by default, with a checkpoint's weights the paper's.

    Args:
        asked: names of spaces and NAME=VALUES. settings: options that are given leave the space. molecules: that a model trains on.
        kind: of its targets.
    """
    own = check_space(asked, settings)
    named = next((text for text in asked if "=" not in text), None)
    if named is None and own:
        return own
    if named is None:
        named = paper_space(molecules) if settings.pretrained and not is_name(settings.weights) else AROUND
    texts = TABLE9[named] if named in TABLE9 else around(settings, molecules, kind)
    taken = chosen(settings) | {each.name for each in own}
    result = [each for each in map(parse_dimension, texts) if each.name not in taken] + own
    if not result:
        raise UserError("every setting that would be searched is given; leave one out, or name what to search with --space NAME=VALUES")
    return result


def paper_space(molecules: int) -> str:
    """The paper's space for a data set of this size."""
    return "table9" if molecules <= SMALL else "table9-hiv" if molecules <= MIDDLE else "table9-muv"


def around(settings: Settings, molecules: int, kind: str) -> tuple[str, ...]:
    """A space around the row of the table that `moleblend finetune` would take."""
    recipe = recipe_for(molecules, settings.pretrained, kind)
    return (
        f"lr={recipe.lr / 5:.1g}..{recipe.lr * 5:.1g}",
        "weight-decay=1e-7..1e-3",
        f"batch-size={recipe.batch_size // 2},{recipe.batch_size},{2 * recipe.batch_size}",
        f"epochs={recipe.epochs // 2},{recipe.epochs},{2 * recipe.epochs}",
    )


def settings_with(found: dict[str, Any]) -> dict[str, Any]:
    """Values that were drawn, as settings: numbers to four digits, so that options written out give the very same."""
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in found.items()}
