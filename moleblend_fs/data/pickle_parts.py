"""What `pickle_machine` makes plain data of: values with what they amount to, stand-ins for names and objects, and limits for all."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

KEY_LIMIT = 1 << 31
"""Integers that are keys must be smaller: large ones can be chosen so that their hashes collide."""


class Refused(pickle.UnpicklingError):
    """A pickle that asks for something other than plain data: perhaps an attack. The message is the name of what it asks for."""


class Special:
    """What stands on the stack without being data: a name of the table, or an object that is not finished."""

    def build(self, state: Any) -> Any:
        """What becomes of it with the state that the opcode BUILD hands over."""
        raise Refused(f"a change of {type(self).__name__.strip('_').lower()}'s attributes")


@dataclass(frozen=True)
class Name(Special):
    """An admitted global.

    Attributes:
        name: of it. call: what stands for calling it; None where it is only an argument of another.
        detail: for whoever gets it as an argument.
    """

    name: str
    call: Callable[..., Any] | None = None
    detail: Any = None


class Buildable:
    """An object that is data already, and that BUILD may be applied to: a stand-in for one with attributes."""

    def build(self, state: Any) -> Any:
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a pickle may amount to.

    Attributes:
        size: bytes of the pickle.
        opcodes: steps; about a million a second.
        values: numbers and strings when everything is written out; 8 bytes of an array or a string count as one.
        depth: of containers in containers.
    """

    size: int = 1 << 26
    opcodes: int = 1 << 21
    values: int = 1 << 23
    depth: int = 64


class Item:
    """A value on the stack, and what it amounts to. `sealed`: part of another one, which counted it as it is, so it may not change."""

    __slots__ = ("bare", "depth", "sealed", "value", "weight")

    def __init__(self, value: Any, depth: int = 0, weight: int = 1, bare: bool = False):
        self.value, self.depth, self.weight, self.bare, self.sealed = value, depth, weight, bare, False


def key(value: Any) -> Any:
    """A value that may be a key or an element of a set: its hash is quickly made, and collides with no other but by chance."""
    if isinstance(value, str | bytes | bool | None) or (isinstance(value, int) and -KEY_LIMIT < value < KEY_LIMIT):
        return value
    raise ValueError(f"a {type(value).__name__} as a key")


def shown(value: Any) -> str:
    """A value in a message; of a container only its kind, since what it holds may be large when it is written out."""
    return f"{value!r:.60}" if isinstance(value, str | bytes | int | float | None) else f"a {type(value).__name__}"
