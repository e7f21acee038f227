"""The objectives that there are: every module of this folder may define one."""

import functools
import importlib
import pkgutil

import moleblend_fs.objectives
from moleblend_fs.objectives.objective import Objective

DEFAULT_OBJECTIVE = "blend_then_predict"


@functools.cache
def objectives() -> dict[str, type[Objective]]:
    """Name -> class, in the order of names."""
    found: dict[str, type[Objective]] = {}
    for module in pkgutil.iter_modules(moleblend_fs.objectives.__path__, f"{moleblend_fs.objectives.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, Objective) and value is not Objective and value.__module__ == module.name:
                assert value.name not in found, f"two objectives are called {value.name}"
                found[value.name] = value
    return dict(sorted(found.items()))
