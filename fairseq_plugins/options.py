"""Options between fairseq and us: its dataclasses made of ours, and what its configuration says, in our terms."""

import ast
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, List, TypeVar, get_origin  # noqa: UP035

import torch
from fairseq.dataclass import ChoiceEnum
from omegaconf import DictConfig

from moleblend_fs.zero.engine import EngineOptions


def on_cpu(cfg: DictConfig) -> bool:
    """Whether training runs on the CPU."""
    return bool(cfg.common.cpu) or not torch.cuda.is_available()


def optimizer_name(cfg: DictConfig) -> str | None:
    """What --optimizer names; fairseq's older optimizers are configured by a Namespace that does not say it."""
    return getattr(cfg.optimizer, "_name", None)


def adam_options(cfg: DictConfig) -> dict[str, Any]:
    """What --adam-betas, --adam-eps and --weight-decay say, by torch's names."""
    given = cfg.optimizer
    betas = ast.literal_eval(given.adam_betas) if isinstance(given.adam_betas, str) else given.adam_betas
    return {"betas": tuple(float(beta) for beta in betas), "eps": float(given.adam_eps), "weight_decay": float(given.weight_decay)}


def engine_options(cfg: DictConfig) -> EngineOptions:
    """What fairseq's options say about DeepSpeed's engine."""
    return EngineOptions(
        stage=int(cfg.optimizer.zero_stage),
        offload=str(cfg.optimizer.zero_offload) == "cpu",
        update_freq=int(max(cfg.optimization.update_freq)),
        clip_norm=float(cfg.optimization.clip_norm),
        bf16=bool(cfg.common.bf16),
        fp16=bool(cfg.common.fp16),
        fp16_init_scale=int(cfg.common.fp16_init_scale),
        user_file=cfg.optimizer.deepspeed_config,
    )


Options = TypeVar("Options")


def fairseq_dataclass(name: str, module: str, ours: Sequence[type] | Mapping[str, type], base: type) -> Any:
    """fairseq's dataclass of our options: the same names, defaults, helps and choices, those of a `base` before them.

    Args:
        name, module: where the new class will be found: it is pickled for processes that are started.
        ours: dataclasses; what is no `option` of them stays off the command line. Options of the same name must be the same. Where they
            have names, the helps say whose option each is.
        base: a dataclass of fairseq's kind.
    """
    found: list[tuple[str, Any, Any]] = []
    named = ours if isinstance(ours, Mapping) else {one.__qualname__: one for one in ours}
    owners: dict[str, list[str]] = {}
    for owner, one in named.items():
        for field in dataclasses.fields(one):
            owners.setdefault(field.name, []).append(owner)
    for field in _distinct([field for one in named.values() for field in dataclasses.fields(one) if "help" in field.metadata]):
        kind: Any = field.type
        default: Any = field.default
        whose = f"{', '.join(owners[field.name])}: " if isinstance(ours, Mapping) else ""
        metadata = {"help": whose + field.metadata["help"]}
        if get_origin(kind) is tuple:
            # fairseq reads the annotation as text and knows only typing's names.
            made: Any = dataclasses.field(default_factory=functools.partial(list, default), metadata=metadata)
            found.append((field.name, List[float], made))  # noqa: UP006
            continue
        if field.metadata["choices"]:
            kind = ChoiceEnum(list(field.metadata["choices"]))
        found.append((field.name, kind, dataclasses.field(default=default, metadata=metadata)))
    return dataclasses.make_dataclass(name, found, bases=(base,), namespace={"__module__": module})


def _distinct(fields: Sequence[dataclasses.Field]) -> list[dataclasses.Field]:
    """Each name once."""
    found: dict[str, dataclasses.Field] = {}
    for field in fields:
        other = found.setdefault(field.name, field)
        same = (other.type, other.default, other.metadata) == (field.type, field.default, field.metadata)
        assert same, f"two options are called --{field.name.replace('_', '-')}, with other defaults or helps"
    return list(found.values())


def our_options(ours: type[Options], cfg: Any, **others: Any) -> Options:
    """Our dataclass of what fairseq read.

    Args:
        others: fields that are no options.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(ours):  # type: ignore[arg-type]
        if "help" not in field.metadata:
            continue
        value = getattr(cfg, field.name)
        values[field.name] = tuple(value) if get_origin(field.type) is tuple else str(value) if field.metadata["choices"] else value
    return ours(**values, **others)
