"""fairseq's configuration without what hydra does again for every run, most of what a short one takes; what is read is the same.

Of the 370 settings that fairseq hands over nearly all are those of the run before: what one means is found out once. And where task,
model, criterion, optimizer and schedule are those of a run before, their defaults are put together already.
"""

import copy
import functools
import inspect
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from hydra._internal import utils
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, open_dict

_parse_rule, _load = OverridesParser.parse_rule, ConfigLoaderImpl._load_configuration_impl
PARSED: dict[str, Override] = {}
"""Setting as it is written -> what it means."""  # state: it depends on nothing else
BEGUN: dict[tuple[Any, ...], DictConfig] = {}
"""What is chosen, and what there is to choose from -> the configuration before anything else is set."""  # state: as above


def hasten() -> None:
    """Change hydra in this process."""
    OverridesParser.parse_rule = parse_rule
    ConfigLoaderImpl._load_configuration_impl = load
    # hydra looks who calls, and needs no lines of source around each call for that.
    utils.inspect = SimpleNamespace(**{**vars(inspect), "stack": functools.partial(inspect.stack, context=0)})  # type: ignore[attr-defined]


def parse_rule(parser: OverridesParser, s: str, rule_name: str) -> Any:
    """hydra's, once for a setting."""
    if rule_name != "override":
        return _parse_rule(parser, s, rule_name)
    if s not in PARSED:
        PARSED[s] = _parse_rule(parser, s, rule_name)
    return copy.copy(PARSED[s])


def load(loader: ConfigLoaderImpl, config_name: str | None, overrides: Sequence[str], *rest: Any, **more: Any) -> DictConfig:
    """hydra's, but that `hydra` itself, which fairseq drops, says nothing of the settings."""
    settings = OverridesParser.create().parse_overrides(list(overrides))
    chosen = [setting.input_line for setting in settings if "." not in setting.key_or_group]
    key = (config_name, *chosen, *_nodes(ConfigStore.instance().repo))
    if key not in BEGUN:
        BEGUN[key] = _load(loader, config_name, chosen, *rest, **more)
        with open_dict(BEGUN[key]):
            del BEGUN[key]["hydra"]
    configuration = copy.deepcopy(BEGUN[key])
    ConfigLoaderImpl._apply_overrides_to_config([setting for setting in settings if "." in setting.key_or_group], configuration)
    return configuration


class Same:
    """An object as a part of a key: equal to itself alone, and kept as long as the key."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _nodes(registered: dict[str, Any]) -> list[Same]:
    """All that classes have registered, by groups."""
    values = registered.values()
    return [same for value in values for same in (_nodes(value) if isinstance(value, dict) else [Same(value)])]
