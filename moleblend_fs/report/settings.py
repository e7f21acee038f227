"""What a run was started with, as its log tells: the configuration that fairseq writes at the start, read without running it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moleblend_fs.data.typed_json import from_json
from moleblend_fs.errors import UserError
from moleblend_fs.objectives.blend_then_predict import BlendConfig, BlendThenPredict
from moleblend_fs.objectives.registry import objectives

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
    "task.blend_ratio": "blend",
    "task.mask_ratio": "masked",
}
"""Options that the table of runs shows, and what they are called there."""
OF_BLENDING = ("task.blend_ratio", "task.mask_ratio")
ZERO = ("", "0", "0.0")
OFF = {"batches an update": ("", "1")} | dict.fromkeys(
    ("most epochs", "most updates", "weight decay", "dropout", "masked", "clipped at"), ZERO
)
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
    """An option's value; nothing for one of blending where something else is learned."""
    return plain(settings.get(option, "")) if option not in OF_BLENDING or _blends(settings) else ""


def _blends(settings: Settings) -> bool:
    """Whether blend-then-predict is among a run's objectives."""
    names = {part.strip() for part in settings.get("task.objective", BlendThenPredict.name).split(",")}
    return bool(names & {BlendThenPredict.name, *BlendThenPredict.aliases})


def plain(value: str) -> str:
    """A value as people write it: lists without brackets, nothing for None."""
    return "" if value in NOTHING else value.strip("[]()").replace("'", "")


def blend_of(settings: Settings) -> BlendConfig | None:
    """How a run blended the relations; None where it did not pretrain by blending, or its log does not tell.

    Raises:
        UserError: its log tells of what cannot be.
    """
    if "task.objective" not in settings or not _blends(settings) or settings.get("task._name") != "moleblend":
        return None
    try:
        ratio = tuple(float(part) for part in plain(settings["task.blend_ratio"]).split(","))
        if len(ratio) != 3:
            raise ValueError(f"{len(ratio)} shares")
        masked, noise = (float(settings.get(f"task.{name}", default)) for name, default in (("mask_ratio", "0"), ("noise_scale", "0.2")))
    except (KeyError, ValueError) as error:
        raise UserError(f"the blend of its configuration cannot be read ({error})") from error
    return BlendConfig(blend_ratio=ratio, mask_ratio=masked, noise_scale=noise, noise_weight=1.0 if noise > 0 else 0.0)
