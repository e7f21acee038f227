"""JSON values as typed dataclasses: what does not fit is an error that names the place, not a surprise later on."""

import dataclasses
import json
import types
import typing
from functools import cache
from pathlib import Path
from typing import Any

READING = (OSError, ValueError, RecursionError)
"""What reading a JSON file may raise."""


def read_json(path: Path) -> Any:
    """A file's content; one of READING if it cannot be read."""
    return json.loads(path.read_text(encoding="utf-8"))


def from_json(hint: Any, value: Any, place: str = "") -> Any:
    """A value of a type: a dataclass, number, string, None, Any, Literal, or tuple, list, dict or union of these.

    Args:
        hint: the type.
        value: as `json.loads` gives it.
        place: of the value, for messages.

    Raises:
        ValueError: another type, a field that lacks or is not known, or what the dataclass itself refuses.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _dataclass(hint, value, place)
    if origin in (types.UnionType, typing.Union):
        if value is None and types.NoneType in inner:
            return None
        return from_json(next(option for option in inner if option is not types.NoneType), value, place)
    if origin is typing.Literal and value in inner:
        return value
    if origin is dict and isinstance(value, dict):
        return {name: from_json(inner[1], part, f"{place}.{name}") for name, part in value.items()}
    if origin in (tuple, list) and isinstance(value, list | tuple):
        hints = [inner[0]] * len(value) if origin is list or inner[-1] is Ellipsis else list(inner)
        if len(hints) == len(value):
            return origin(from_json(kind, part, f"{place}[{i}]") for i, (kind, part) in enumerate(zip(hints, value, strict=True)))
    if isinstance(hint, type) and origin is None and type(value) is hint:
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    wanted = hint.__name__ if isinstance(hint, type) and origin is None else str(hint)
    raise ValueError(f"{place.lstrip('.') or 'it'} is {json.dumps(value, default=repr)[:60]}, not of type {wanted}")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _dataclass(kind: type, value: Any, place: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{place.lstrip('.') or 'it'} is a {type(value).__name__}, not an object with fields")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    needed = [name for name, f in fields.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    if wrong := [name for name in needed if name not in value] + [name for name in value if name not in fields]:
        raise ValueError(f"{place.lstrip('.') or 'it'} lacks, or should not have: {', '.join(map(str, wrong))[:200]}")
    return kind(**{name: from_json(_hints(kind)[name], part, f"{place}.{name}") for name, part in value.items()})
