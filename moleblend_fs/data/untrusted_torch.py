"""Reading files of `torch.save` from people who are not trusted, and files that are damaged.

torch's own restricted reader calls nothing of the pickle's choice, but takes tensors that reach out of their storage, storages longer
than their record, NumPy dtypes of any layout, and containers nested until the stack overflows; and it does not compare the checksums
that every record of the file has. So the pickle goes through `pickle_machine` with stand-ins first.
"""

import argparse
import math
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moleblend_fs.data import pickled_numpy
from moleblend_fs.data.pickle_machine import Machine
from moleblend_fs.data.pickle_parts import Buildable, Limits, Name, Refused, Special
from moleblend_fs.errors import UserError

VARIABLE = "MOLEBLEND_VERIFY"
"""0: checksums are not compared, which saves reading a file once more than it is needed."""
LIMITS = Limits(size=1 << 28, opcodes=1 << 22, values=1 << 26)
BLOCK = 1 << 20
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1}
"""Bytes of an element of torch's storages."""
_MULTIARRAY = np._core.multiarray  # type: ignore[attr-defined]
_DTYPES = ["S1", "U1", *(f"{kind}{size}" for kind, sizes in pickled_numpy.SIZES.items() for size in sizes)]
ADMITTED: list[Any] = [
    argparse.Namespace,
    OrderedDict,
    np.ndarray,
    np.dtype,
    *dict.fromkeys(type(np.dtype(name)) for name in _DTYPES),
    _MULTIARRAY._reconstruct,
    _MULTIARRAY.scalar,
    (_MULTIARRAY._reconstruct, "numpy.core.multiarray._reconstruct"),
    (_MULTIARRAY.scalar, "numpy.core.multiarray.scalar"),
]
"""What a file may hold besides tensors and plain containers: none of it runs code when it is read."""


class _Storage(Special):
    """Memory that tensors share; `elements` of it."""

    def __init__(self, elements: int):
        self.elements = elements


@dataclass(frozen=True)
class _Tensor:
    """A tensor that lies within its storage."""

    shape: tuple[int, ...]


class _Ordered(dict[str, Any], Buildable):
    """An OrderedDict; torch's state_dict has versions as its one attribute."""

    def build(self, state: Any) -> "_Ordered":
        if not isinstance(state, dict) or state.keys() - {"_metadata"}:
            raise Refused("an OrderedDict with attributes")
        return self


class _Namespace(Buildable):
    """Options, as fairseq used to keep them."""

    def build(self, state: Any) -> "_Namespace":
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise Refused("options of a strange kind")
        return self


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any = False, hooks: Any = None, *more: Any) -> _Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(type(number) is int and number >= 0 for number in numbers) or hooks:
        raise Refused("a tensor of a strange state")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if math.prod(shape) > storage.elements or (math.prod(shape) and last >= storage.elements):
        raise ValueError(f"a tensor of shape {shape} out of its storage of {storage.elements}")
    return _Tensor(tuple(shape))


def _parameter(data: Any, requires_grad: Any, hooks: Any) -> _Tensor:
    if not isinstance(data, _Tensor) or hooks:
        raise Refused("a parameter of a strange state")
    return data


def _size(numbers: Any) -> tuple[int, ...]:
    if not isinstance(numbers, tuple) or not all(type(number) is int for number in numbers):
        raise Refused("a size of a strange state")
    return numbers


def _device(kind: Any, index: Any = 0) -> str:
    if not isinstance(kind, str) or not isinstance(index, int):
        raise Refused("a device of a strange state")
    return kind


_NAMES = {
    **pickled_numpy.NAMES,
    ("collections", "OrderedDict"): Name("collections.OrderedDict", _Ordered),
    ("argparse", "Namespace"): Name("argparse.Namespace", _Namespace),
    ("torch._utils", "_rebuild_tensor"): Name("torch._utils._rebuild_tensor", _tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Name("torch._utils._rebuild_tensor_v2", _tensor),
    ("torch._utils", "_rebuild_parameter"): Name("torch._utils._rebuild_parameter", _parameter),
    ("torch", "Size"): Name("torch.Size", _size),
    ("torch", "device"): Name("torch.device", _device),
    ("torch.storage", "UntypedStorage"): Name("torch.storage.UntypedStorage", detail=1),
    **{("torch", f"{kind}Storage"): Name(f"torch.{kind}Storage", detail=size) for kind, size in STORAGES.items()},
}


class _Storages:
    """What the pickle says of its storages, by their keys.

    Args:
        records: bytes of each in the file; None for the older format, where they follow the pickle.
        size: of the file.
    """

    def __init__(self, records: dict[str, int] | None, size: int):
        self._records, self._left = records, size
        self._known: dict[str, _Storage] = {}

    def __call__(self, identifier: Any) -> _Storage:
        if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage" or any(identifier[5:]):
            raise Refused("a persistent id that is no storage")
        _, kind, key, _, elements = identifier[:5]
        if not isinstance(kind, Name) or kind.detail is None or not isinstance(key, str) or type(elements) is not int or elements < 0:
            raise Refused("a storage of a strange kind")
        size = elements * kind.detail
        if self._records is not None and self._records.get(key) != size:
            raise ValueError(f"storage {key} should have {size} bytes, but its record has {self._records.get(key)}")
        if key not in self._known:
            self._left -= size
            if self._left < 0:
                raise ValueError("storages of more bytes than the file")
            self._known[key] = _Storage(elements)
        if self._known[key].elements != elements:
            raise ValueError(f"storage {key} has two sizes")
        return self._known[key]


BEGINNINGS = (b"PK", b"\x80")
"""Of an archive, and of a pickle of protocol 2 or later: what `torch.save` has ever written."""


def read_torch(path: Path, *, tensors: bool = True) -> Any:
    """The content of a file of `torch.save`. Tensors stay on the disk until they are used.

    Admits plain containers, tensors, plain NumPy arrays and argparse.Namespace (in which fairseq keeps old configurations).

    Args:
        tensors: whether their bytes are compared with the checksums too, for which all of the file is read. What is beside them always is.

    Raises:
        UserError: no such file, no torch file, one that asks for anything else, or one whose bytes are not those that were written.
    """
    if not path.is_file():
        raise UserError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    try:
        with path.open("rb") as stream:
            begins = stream.read(12)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if not begins.startswith(BEGINNINGS):
        raise UserError(f"{path}: not a readable torch checkpoint: it begins with {begins!r}; give a .pt file, or a run's folder")
    try:
        zipped = zipfile.is_zipfile(path)
        _check_archive(path, tensors) if zipped else _check_legacy(path)
        with torch.serialization.safe_globals(ADMITTED):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        asked = str(error) if isinstance(error, Refused) else "".join(re.findall(r"(?:GLOBAL|global) ([\w.]+)", str(error))[:1])
        what = f"it asks for {asked}" if asked else "it holds what torch's own checkpoints do not"
        raise UserError(
            f"{path}: refused, since reading it could run code ({what}). Convert it where it was made, from a source you trust."
        ) from error
    except Exception as error:  # a damaged file can raise nearly anything
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        reason = reason if type(error) is ValueError else f"{type(error).__name__}: {reason}"
        raise UserError(f"{path}: not a readable torch checkpoint, or damaged ({reason}); copy it again") from error


def _check_archive(path: Path, tensors: bool) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        size = path.stat().st_size
        if len(set(names)) != len(names) or any(entry.compress_type or entry.flag_bits & 1 for entry in entries):
            raise ValueError("an archive that torch did not write")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("records of more bytes than the file")
        if os.environ.get(VARIABLE) != "0":
            for entry in entries if tensors else [entry for entry in entries if "/data/" not in entry.filename]:
                with archive.open(entry) as stream:
                    while stream.read(BLOCK):  # compares the checksum at the end
                        pass
        root = names[0].split("/")[0]
        prefix = f"{root}/data/"
        records = {entry.filename.removeprefix(prefix): entry.file_size for entry in entries if entry.filename.startswith(prefix)}
        if archive.getinfo(f"{root}/data.pkl").file_size > LIMITS.size:
            raise ValueError("a pickle of more bytes than any checkpoint has")
        Machine(_NAMES, LIMITS, _Storages(records, size)).load(archive.read(f"{root}/data.pkl"))


def _check_legacy(path: Path) -> None:
    """torch's older format: pickles of a magic number, a version, the machine, the content, and keys of storages; then the storages."""
    with path.open("rb") as stream:
        try:
            magic = Machine({}, LIMITS).load(stream)
        except Refused as error:
            raise pickle.UnpicklingError("no file of torch.save") from error
        if magic != LEGACY_MAGIC:
            raise ValueError("no magic number of torch's")
        storages = _Storages(None, path.stat().st_size)
        for _ in range(2):
            Machine({}, LIMITS).load(stream)
        Machine(_NAMES, LIMITS, storages).load(stream)
        Machine({}, LIMITS).load(stream)
