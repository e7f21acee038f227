"""fairseq without the packages of its other tasks, which take half of its import: they are imported where something of them is used."""

import importlib.util
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

MODULES = ("deepspeed", "lxml", "lxml.etree", "scipy.stats", "sklearn", "sklearn.metrics")
"""What fairseq 0.12 imports for the Adam of a CPU, BLEU scores, and the classes of sentences and sounds, and uses in functions alone."""


class Later:
    """Something of a module, imported when it is called or asked for what it has."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return pkgutil.resolve_name(self._name)(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(pkgutil.resolve_name(self._name), name)


class Postponed(ModuleType):
    """A module of whose names each is a `Later`."""

    def __getattr__(self, name: str) -> Later:
        if name.startswith("__"):
            raise AttributeError(name)
        return Later(f"{self.__name__}.{name}")


@contextmanager
def postponed(names: tuple[str, ...] = MODULES) -> Iterator[None]:
    """Have these modules stand in `sys.modules` as `Postponed`, those that are installed and not imported; afterwards as before."""
    tops = {name.partition(".")[0] for name in names}
    there = {top for top in tops if importlib.util.find_spec(top) is not None}
    stand_ins = {name: Postponed(name) for name in names if name.partition(".")[0] in there and name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]
