"""Options as dataclass fields: one definition gives the default, the help on the command line and the choices. Values checked as read."""

import argparse
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


def seed(text: str) -> int:
    """A seed from the command line: a whole number from 0 on, less than 2**63."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"a seed is a whole number from 0 on, got {text!r}")
    return value
