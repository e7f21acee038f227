"""Options as dataclass fields: one definition gives the default, the help on the command line and the choices."""

from collections.abc import Sequence
from dataclasses import field
from typing import Any


def option(default: Any, help: str, choices: Sequence[str] = ()) -> Any:
    """A dataclass field with what the command line says of it.

    Args:
        default: where it is not given.
        help: one sentence, with the unit.
        choices: all values that are allowed; empty for any.
    """
    return field(default=default, metadata={"help": help, "choices": tuple(choices)})
