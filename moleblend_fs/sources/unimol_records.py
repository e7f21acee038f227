"""The pickled records of Uni-Mol's LMDB files: in which order they stand, and what is in one."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from moleblend_fs.chem.match import atomic_numbers
from moleblend_fs.data.lmdb_file import LmdbFile
from moleblend_fs.errors import UserError
from moleblend_fs.sources.labels import read_number
from moleblend_fs.sources.untrusted_records import loads

RECORD = "the record"
DECIMAL = re.compile(rb"0|[1-9][0-9]{0,17}")


def read_record(value: bytes) -> dict[str, Any]:
    record = loads(value, RECORD)
    if not isinstance(record, dict):
        raise ValueError(f"a {type(record).__name__}, not a dict")
    return record


def elements_of(atoms: Any) -> np.ndarray:
    """Atomic numbers of a record's atoms, which are symbols or numbers."""
    parts = atoms.tolist() if isinstance(atoms, np.ndarray) else list(atoms)
    if parts and all(type(part) is int and 0 < part <= 118 for part in parts):
        return np.array(parts)
    return atomic_numbers([part.decode() if isinstance(part, bytes) else str(part) for part in parts])


def targets_of(record: dict[str, Any]) -> list[float]:
    """The targets of a record, NaN where one is missing; none at all if it has none."""
    target = record.get("target")
    if target is None:
        return []
    parts = target.reshape(-1).tolist() if isinstance(target, np.ndarray) else target if isinstance(target, list | tuple) else [target]
    return [_number(part) for part in parts]


def _number(value: Any) -> float:
    """One target; arrays and lists of one are taken for what they hold."""
    if isinstance(value, list | tuple | np.ndarray):
        (value,) = value
    if isinstance(value, str):
        return read_number(value)
    if value is None:
        return np.nan
    if not isinstance(value, int | float | np.number | np.bool_):
        raise TypeError(f"a target that is a {type(value).__name__}")
    return float(value)


def targets_if_any(value: bytes) -> list[float]:
    """Of a pickled record, which may be damaged."""
    try:
        return targets_of(read_record(value))
    except (UserError, TypeError, ValueError, ArithmeticError):
        return []


def count_records(path: Path) -> int:
    with LmdbFile(path) as file:
        return file.main.entries


def records_of(path: Path, start: int = 0) -> Iterator[tuple[int, str, bytes]]:
    """(place, key, value) of a file's records from a place on: by number those whose keys are decimal numbers, then in LMDB's order."""
    with LmdbFile(path) as file:
        numbers, others = [], []
        for key in file.keys():  # noqa: SIM118  no dict
            if DECIMAL.fullmatch(key):
                numbers.append(int(key))
            else:
                others.append(key)
        numbers.sort()
        for place in range(start, len(numbers) + len(others)):
            key = b"%d" % numbers[place] if place < len(numbers) else others[place - len(numbers)]
            found = file.get(key)
            if found is None:
                raise file.damaged(f"key {key!r} is not found where it should be")
            yield place, key.decode() if key.isascii() and key.decode().isprintable() else key.hex(), found
