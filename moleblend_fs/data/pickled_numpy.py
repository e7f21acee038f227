"""NumPy's arrays and numbers in pickles: stand-ins that admit plain booleans, numbers and strings, made from bytes of just their size.

NumPy's own `dtype` takes any state from a pickle: fields outside of the buffer, and Python objects made from bytes.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from moleblend_fs.data.pickle_parts import Name, Refused, Special, key, shown

SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8)}
"""Bytes of each kind of number."""
LONGEST_STRING = 1 << 16
MAX_DIMENSIONS = 32
LAST_CHARACTER, HALVES = 0x10FFFF, (0xD800, 0xDFFF)
"""Unicode's last code, and the codes that stand for halves of characters and cannot be written."""


class _Dtype(Special):
    """A plain dtype in the making."""

    def __init__(self, text: Any, align: Any = False, copy: Any = True):
        found = re.fullmatch(r"([biufSU])([0-9]{1,6})", text) if isinstance(text, str) else None
        if found is None or (found[1] in SIZES and int(found[2]) not in SIZES[found[1]]) or int(found[2]) > LONGEST_STRING:
            raise Refused(f"an array of dtype {shown(text)}")
        self.text, self.order = text, "="

    def build(self, state: Any) -> "_Dtype":
        """(version, byte order, subarray, names, fields, size, alignment, flags, ...): only the byte order matters to plain ones."""
        if not isinstance(state, tuple) or not 5 <= len(state) <= 9 or state[1] not in ("<", ">", "|", "="):
            raise Refused("a dtype of a strange state")
        size = state[5] if len(state) > 5 else -1
        if any(part is not None for part in state[2:5]) or size not in (-1, self.real.itemsize):
            raise Refused("a dtype with parts, or of another size than its name says")
        self.order = state[1]
        return self

    @property
    def real(self) -> np.dtype:
        return np.dtype(self.text).newbyteorder(self.order if self.order in "<>" else "=")


class _Array(Special):
    """An array in the making, until BUILD brings its content."""

    def build(self, state: Any) -> np.ndarray:
        _, shape, dtype, fortran, content = state
        return array(content, dtype, shape, "F" if fortran else "C")


def array(content: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    """What NumPy's protocol-5 pickles call, too. An array that owns its data; raises unless the bytes are just those of the shape."""
    if not isinstance(dtype, _Dtype) or order not in ("C", "F"):
        raise Refused("an array of a strange state")
    if not isinstance(shape, Sequence) or len(shape) > MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        raise Refused("an array of a strange shape")
    raw, size = as_bytes(content), dtype.real.itemsize
    if len(raw) != size * math.prod(shape) or not size:
        raise ValueError(f"{len(raw)} bytes for an array of shape {tuple(shape)} and dtype {dtype.real}")
    if dtype.real.kind == "U":
        codes = np.frombuffer(raw, np.dtype("u4").newbyteorder(dtype.real.byteorder))
        if ((codes > LAST_CHARACTER) | ((codes >= HALVES[0]) & (codes <= HALVES[1]))).any():
            raise ValueError("a string of characters that there are not")
    return np.frombuffer(raw, dtype.real).reshape(shape, order=order).copy(order=order)


def scalar(dtype: Any, content: Any = b"") -> Any:
    """One NumPy number or string."""
    if isinstance(dtype, _Dtype) and not dtype.real.itemsize:
        return dtype.real.type()
    return array(content, dtype, ())[()]


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if not isinstance(kind, Name) or kind.name != "numpy.ndarray":
        raise Refused("an array of another class than NumPy's own")
    return _Array()


def as_bytes(value: Any) -> bytes:
    """Bytes, also those that Python 2 wrote as a string."""
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, str):
        return value.encode("latin1")
    raise Refused(f"an array made from a {type(value).__name__}")


def _encode(text: Any, encoding: Any) -> bytes:
    """What protocol-2 pickles of bytes call; only ever with latin1."""
    if not isinstance(text, str) or encoding != "latin1":
        raise Refused(f"bytes encoded as {shown(encoding)}")
    return text.encode("latin1")


def _bytearray(*arguments: Any) -> bytearray:
    """Never from a number, which would be a length."""
    return bytearray(b"".join(_encode(*arguments) if len(arguments) == 2 else as_bytes(argument) for argument in arguments[:1]))


def _empty_bytes() -> bytes:
    return b""


def _complex(real: Any, imaginary: Any) -> complex:
    if not all(isinstance(part, float) for part in (real, imaginary)):
        raise Refused("a strange complex number")
    return complex(real, imaginary)


def _set_of(kind: type) -> Any:
    def make(values: Any = ()) -> Any:
        if not isinstance(values, list | tuple):
            raise Refused(f"a set made from a {type(values).__name__}")
        return kind(map(key, values))

    return make


def _names() -> dict[tuple[str, str], Name]:
    calls: dict[tuple[str, str], Callable[..., Any] | None] = {
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _encode,
    }
    for builtins in ("builtins", "__builtin__"):  # Python 3's name, and Python 2's, which protocols up to 2 write
        calls |= {(builtins, "bytes"): _empty_bytes, (builtins, "bytearray"): _bytearray, (builtins, "complex"): _complex}
        calls |= {(builtins, "set"): _set_of(set), (builtins, "frozenset"): _set_of(frozenset)}
    for core in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
        calls |= {(f"{core}.multiarray", "_reconstruct"): _reconstruct, (f"{core}.multiarray", "scalar"): scalar}
        calls[f"{core}.numeric", "_frombuffer"] = array
    return {place: Name(".".join(place), call) for place, call in calls.items()}


NAMES = _names()
"""What stands for the globals of plain data and NumPy arrays."""
