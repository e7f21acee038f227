"""The sources that there are, and how `moleblend preprocess` asks for each: every module of this folder may define some."""

import argparse
import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

import moleblend_fs.sources
from moleblend_fs.sources.base import Source


@dataclass(frozen=True, kw_only=True)
class SourceCommand:
    """`moleblend preprocess NAME IN OUT`.

    Attributes:
        name: NAME.
        summary: what it reads, in one line.
        where: what IN is.
        add_arguments: adds the source's options to a parser.
        open: the source, from the parsed options; `input` holds IN.
    """

    name: str
    summary: str
    where: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    open: Callable[[argparse.Namespace], Source]


@functools.cache
def source_commands() -> dict[str, SourceCommand]:
    """Name -> command, in the order of names."""
    found: dict[str, SourceCommand] = {}
    for module in pkgutil.iter_modules(moleblend_fs.sources.__path__, f"{moleblend_fs.sources.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, SourceCommand):
                assert found.setdefault(value.name, value) is value, f"two sources are called {value.name}"
    return dict(sorted(found.items()))
