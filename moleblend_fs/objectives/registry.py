"""The objectives that there are: every module of this folder may define one."""

import functools
import importlib
import pkgutil

import moleblend_fs.objectives
from moleblend_fs.errors import UserError
from moleblend_fs.objectives.objective import Curve, Objective

DEFAULT_OBJECTIVE = "blend_then_predict"


@functools.cache
def objectives() -> dict[str, type[Objective]]:
    """Name -> class, in the order of names."""
    found: dict[str, type[Objective]] = {}
    for module in pkgutil.iter_modules(moleblend_fs.objectives.__path__, f"{moleblend_fs.objectives.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, Objective) and "name" in vars(value) and value.__module__ == module.name:
                assert value.name not in found, f"two objectives are called {value.name}"
                found[value.name] = value
    return dict(sorted(found.items()))


def find_objective(name: str) -> type[Objective]:
    """An objective by one of its names; UserError names those that there are."""
    for found in objectives().values():
        if name in (found.name, *found.aliases):
            return found
    raise UserError(f"--objective: there is none called {name!r}; there are {', '.join(objectives())}")


def chosen(names: str) -> list[type[Objective]]:
    """The objectives that a list with commas names, each once."""
    found = [find_objective(name.strip()) for name in names.split(",")]
    if len(set(found)) < len(found):
        raise UserError(f"--objective {names} names an objective twice; weigh it with --objective-weights instead")
    return found


@functools.cache
def curves() -> dict[str, Curve]:
    """Logged loss -> how reports draw it: a term of an objective, as it is logged alone and in sums."""
    every = [(found, term, curve) for found in objectives().values() for term, curve in found.curves.items()]
    alone = {f"{term}_loss": curve for _, term, curve in every}
    return alone | {
        f"{found.name}_{term}_loss": curve._replace(
            title=f"{found.name}: {curve.title}", information=curve.information and f"{found.name}_{curve.information}"
        )
        for found, term, curve in every
    }
