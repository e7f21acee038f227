"""Unpickling that admits plain containers, numbers, strings, and NumPy arrays; nothing else is ever called."""

import io
import pickle
from typing import Any

import numpy as np

from moleblend_fs.errors import UserError


def _frombuffer(buffer: Any, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """What NumPy's protocol-5 pickles call."""
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)  # type: ignore[call-overload]


def _encode(text: str, encoding: str) -> bytes:
    """What protocol-2 pickles of bytes call; only ever with latin1."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


_MULTIARRAY = np._core.multiarray  # type: ignore[attr-defined]
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}
for _builtins in ("builtins", "__builtin__"):  # Python 3's name, and Python 2's, which protocols up to 2 write
    _ADMITTED |= {(_builtins, kind.__name__): kind for kind in (bytearray, complex, set, frozenset)}
for _core in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
    _ADMITTED[f"{_core}.multiarray", "_reconstruct"] = _MULTIARRAY._reconstruct
    _ADMITTED[f"{_core}.multiarray", "scalar"] = _MULTIARRAY.scalar
    _ADMITTED[f"{_core}.numeric", "_frombuffer"] = _frombuffer


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        admitted = _ADMITTED.get((module, name))
        if admitted is None:
            raise _Refused(f"{module}.{name}")
        return admitted

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused(f"persistent id {pid!r}")


class _Refused(pickle.UnpicklingError):
    """A global that is not admitted."""


def loads(data: bytes, where: str) -> Any:
    """Unpickle bytes.

    Args:
        where: what to name in the message.

    Raises:
        UserError: the pickle asks for anything but plain data: it may be an attack, and nothing of it was run.
        ValueError: damaged data.
    """
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except _Refused as error:
        raise UserError(
            f"{where}: refused, its pickle asks for {error}; only plain containers and NumPy arrays are admitted. "
            "Nothing of it was run. If the file is trustworthy, write it anew with such content"
        ) from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"damaged pickle ({type(error).__name__}: {error})") from error
