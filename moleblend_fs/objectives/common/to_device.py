"""What an objective prepared on the CPU, sent to the device: without waiting for what runs there."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.objectives.common.views import FULL_VIEWS
from moleblend_fs.ops.layout import Layout


def to_device(value: Any, device: torch.device) -> Any:
    """The same of tuples, lists, dictionaries and dataclasses, with every tensor on a device. What stands in several places is sent once,
    and stays one object. A batch's `num_atoms` stays on the CPU."""
    return _sent(value, device, {})


def _sent(value: Any, device: torch.device, known: dict[int, tuple[Any, Any]]) -> Any:
    """Args: known: id of what was sent -> itself, so that nothing else gets its id, and what came of it."""
    if id(value) not in known:
        known[id(value)] = value, _made(value, device, known)
    return known[id(value)][1]


def _made(value: Any, device: torch.device, known: dict[int, tuple[Any, Any]]) -> Any:
    if isinstance(value, Tensor):
        return value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else value.to(device)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Layout):
        layout = Layout(torch.from_numpy(value.sizes), device, merged=value.merged)
        vars(layout)[FULL_VIEWS] = _sent(vars(value).get(FULL_VIEWS, {}), device, known)
        return layout
    if isinstance(value, MoleculeBatch):
        return value.map(lambda name, x: x if name == "num_atoms" else _sent(x, device, known))
    if isinstance(value, dict):
        return {name: _sent(part, device, known) for name, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_sent(part, device, known) for part in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_sent(part, device, known) for part in value)
    assert dataclasses.is_dataclass(value), f"{type(value).__name__} cannot be sent"
    fields = {field.name: _sent(getattr(value, field.name), device, known) for field in dataclasses.fields(value)}
    return dataclasses.replace(value, **fields)  # type: ignore[type-var]
