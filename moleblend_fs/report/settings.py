"""What a run was started with, as its log tells: the configuration that fairseq writes at the start, read without running it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_origin, get_type_hints

from moleblend_fs.data.typed_json import from_json
from moleblend_fs.errors import UserError
from moleblend_fs.objectives.objective import Objective
from moleblend_fs.objectives.registry import DEFAULT_OBJECTIVE, objectives

Settings = dict[str, str]
"""Option ("task.blend_ratio") -> its value as text."""

SECTIONS = ("common", "dataset", "optimization", "checkpoint", "task", "criterion", "model", "optimizer", "lr_scheduler")
START = "{'_name': None, 'common': {"
QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
SECTION = re.compile(rf"'({'|'.join(SECTIONS)})': \{{((?:{QUOTED}|[^{{}}'\"])*)\}}")
OPTION = re.compile(rf"'(\w+)': ({QUOTED}|\[[^\]]*\]|\([^)]*\)|[^,]*)")
NOTHING = ("None", "", "[]")

SHOWN = {
    "model._name": "architecture",
    "task.objective": "objective",
    "task.objective_weights": "weights",
    "pretraining.options": "its options",
    "pretraining.passes": "passes a step",
    "task.inputs": "inputs",
    "checkpoint.finetune_from_model": "from",
    "common.seed": "seed",
    "optimizer._name": "optimizer",
    "optimization.lr": "learning rate",
    "lr_scheduler._name": "schedule",
    "lr_scheduler.warmup_updates": "warm-up",
    "dataset.batch_size": "batch",
    "optimization.update_freq": "batches an update",
    "optimization.max_epoch": "most epochs",
    "optimization.max_update": "most updates",
    "optimization.clip_norm": "clipped at",
    "optimizer.weight_decay": "weight decay",
    "model.dropout": "dropout",
    "task.regression_loss": "loss",
} | {f"task.{option}": title for found in objectives().values() for option, title in found.columns.items()}
"""Options that the table of runs shows, and what they are called there."""
ZERO = ("", "0", "0.0")
OFF = {
    "batches an update": ("", "1"),
    **dict.fromkeys(("most epochs", "most updates", "weight decay", "dropout", "clipped at"), ZERO),
    **dict.fromkeys((title for found in objectives().values() for title in found.columns.values()), ZERO),
}
"""Values that need no column."""


def read_settings(line: str) -> Settings:
    """The options in the line of a log that holds fairseq's configuration; nothing of any other line."""
    if START not in line:
        return {}
    found: Settings = {}
    for section in SECTION.finditer(line[line.index(START) :]):
        for option in OPTION.finditer(section[2]):
            value = option[2].strip()
            found[f"{section[1]}.{option[1]}"] = value[1:-1] if value[:1] in "'\"" else value
    return found


def read_facts(entry: Mapping[str, Any]) -> Settings:
    """What a line of a log says of the objectives of a run, see `Objective.facts`: their options that are not the defaults, and the
    passes of the encoder that a step takes; nothing of any other line."""
    if not {"objectives", "passes"} <= entry.keys():
        return {}
    try:
        facts = from_json(_Facts, {name: entry[name] for name in ("objectives", "passes")})
    except ValueError:
        return {}
    chosen = [f"{name} {_value(value)}" for each in facts.objectives for name, value in _not_default(each).items()]
    return {"pretraining.options": "; ".join(chosen), "pretraining.passes": f"{facts.passes:g}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _FactsOfOne:
    name: str
    weight: float
    options: dict[str, Any]
    terms: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    objectives: list[_FactsOfOne]
    passes: float


def _not_default(one: _FactsOfOne) -> dict[str, Any]:
    found = objectives().get(one.name)
    defaults = {} if found is None else found(found.Options()).own_facts(1.0)["options"]
    return {name: value for name, value in one.options.items() if name not in defaults or defaults[name] != value}


def _value(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def shown_settings(runs: Sequence[tuple[str, Settings]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of runs; options that no run has, or that are off in all, are left out."""
    rows = [[name, *(_shown(settings, option) for option in SHOWN)] for name, settings in runs if settings]
    header = ["run", *SHOWN.values()]
    kept = [0, *(column for column in range(1, len(header)) if any(row[column] not in OFF.get(header[column], ("",)) for row in rows))]
    return [header[column] for column in kept], [[row[column] for column in kept] for row in rows]


def _shown(settings: Settings, option: str) -> str:
    """An option's value; nothing for one that only other objectives have than the run's."""
    owners = {name for name, found in objectives().items() if option.removeprefix("task.") in found.columns}
    return plain(settings.get(option, "")) if not owners or owners & learned_objectives(settings).keys() else ""


def learned_objectives(settings: Settings) -> dict[str, type[Objective]]:
    """The objectives of a run, by name; the default one where its log does not name any."""
    names = {part.strip() for part in settings.get("task.objective", DEFAULT_OBJECTIVE).split(",")}
    return {name: found for name, found in objectives().items() if names & {name, *found.aliases}}


def plain(value: str) -> str:
    """A value as people write it: lists without brackets, nothing for None."""
    return "" if value in NOTHING else value.strip("[]()").replace("'", "")


def drawable_objectives() -> list[str]:
    """Names of the objectives of which a molecule can be pictured."""
    return [name for name, found in objectives().items() if found.pictured is not Objective.pictured]


def pictured_objective(settings: Settings) -> Objective | None:
    """The objective of a pretraining run of which a molecule can be pictured; None for another run, or where its log does not tell.

    Raises:
        UserError: its log tells of what cannot be.
    """
    if "task.objective" not in settings or settings.get("task._name") != "moleblend":
        return None
    learned = (found for name, found in learned_objectives(settings).items() if name in drawable_objectives())
    return next((found(options_of(found, settings)) for found in learned), None)


def options_of(objective: type[Objective], settings: Settings) -> Any:
    """An objective's options as a log tells them; defaults for those that its version did not have yet.

    Raises:
        UserError: there is none, or one has no value of its kind.
    """
    kinds = get_type_hints(objective.Options)
    told = {field.name: settings[key] for field in fields(objective.Options) if (key := f"task.{field.name}") in settings}
    if not told:
        raise UserError(f"its configuration tells no option of the objective {objective.name}")
    read = {}
    for name, text in told.items():
        try:
            read[name] = as_kind(plain(text), kinds[name])
        except (KeyError, ValueError) as error:
            raise UserError(f"{name} of its configuration cannot be read ({error})") from error
    return objective.Options(**read)


def as_kind(text: str, kind: Any) -> Any:
    """A text as a value of an option's type; ValueError if it is none."""
    if get_origin(kind) is tuple:
        return tuple(float(part) for part in text.split(","))
    if kind is bool:
        return {"True": True, "False": False}[text]
    return kind(text)
