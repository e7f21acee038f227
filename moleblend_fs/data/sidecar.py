"""Sidecars: what is computed of a store's molecules, beside its records, with a manifest of their own.

STORE/sidecars/NAME/manifest.json   see `SidecarManifest`
STORE/sidecars/NAME/values.f4       numbers: (molecules, columns) float32, row i of molecule i, NaN where there is none
STORE/sidecars/NAME/values.u1       flags: (molecules, columns) uint8, 0 or 1, 255 where there is none
STORE/sidecars/NAME/lists.u2, starts.i8   lists: numbers below 65,536, so many of each molecule as it has, see `ragged_lists`
STORE/sidecars/NAME/failures.csv    row, input, reason of every molecule that it could not be computed of
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from moleblend_fs.data.ragged_lists import LISTS as LISTS_FILE
from moleblend_fs.data.ragged_lists import STARTS as STARTS_FILE
from moleblend_fs.data.ragged_lists import ListFile, padded
from moleblend_fs.data.store import Store
from moleblend_fs.data.typed_json import READING, from_json, read_json
from moleblend_fs.errors import UserError
from moleblend_fs.files import write_atomically

FOLDER, MANIFEST, FAILURES = "sidecars", "manifest.json", "failures.csv"
FORMAT_VERSION = 1
NUMBERS, FLAGS, VOCABULARIES, LISTS = "numbers", "flags", "vocabularies", "lists"
"""Kinds of sidecars; vocabularies have no values of molecules."""
VALUES = {NUMBERS: ("values.f4", "<f4"), FLAGS: ("values.u1", "|u1")}
"""File and type of a kind's values."""
CODES = "codes"
"""A sidecar that a model makes: the code of every atom."""
MADE_BY = {CODES: "moleblend tokenize CHECKPOINT {store}"}
"""Commands of sidecars that `moleblend preprocess-sidecar` does not make."""
NO_FLAG = 255
"""A flag that is not there."""
TAIL = 0.005
"""Share of the values at either end that winsorising moves to the quantile."""
COLUMNS_AT_A_TIME = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnStatistics:
    """Of one column over the finite values of the training split.

    Attributes:
        lower, upper: quantiles at `TAIL` and 1 - `TAIL`; values beyond are moved there.
        mean, std: of the values moved so; a std of 0 stands for a column that tells nothing, or has no value.
    """

    lower: float
    upper: float
    mean: float
    std: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Of a vocabulary: a name for people, the code that it is found by, and how often it is in the store."""

    name: str
    code: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarManifest:
    """What a sidecar says of itself.

    Attributes:
        name: what it is called.
        kind: numbers, flags, vocabularies or lists; lists may have vocabularies too.
        columns: their names.
        molecules: rows, as many as the store has.
        records_sha256: of the store's records: whose sidecar this is.
        values_sha256: of all values, or of what vocabularies were counted from.
        statistics: one for each column of numbers.
        statistics_of: the split that they are of; "" for all molecules.
        missing: values that are not there; without: molecules that have none at all.
        failures: molecules listed in failures.csv.
        vocabularies: by name, most frequent first, equally frequent ones by name; over all molecules of the store.
        versions: of the libraries that computed it.
        model_sha256: of the configuration and weights of the model that computed it; "" for what needs none.
    """

    name: str
    columns: tuple[str, ...]
    molecules: int
    records_sha256: str
    values_sha256: str
    statistics: tuple[ColumnStatistics, ...]
    statistics_of: str
    missing: int
    without: int
    versions: dict[str, str]
    kind: str = NUMBERS
    failures: int = 0
    vocabularies: dict[str, tuple[Entry, ...]] = field(default_factory=dict)
    model_sha256: str = ""
    format_version: int = FORMAT_VERSION

    def save(self, path: Path) -> None:
        write_atomically(path, json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def folder_of(store: Store, name: str) -> Path:
    return store.path / FOLDER / name


class Sidecar:
    """A sidecar, opened for reading: safe in forked processes, and pickled by its path.

    Raises:
        UserError: there is none, it is damaged, or belongs to another store.
    """

    def __init__(self, store: Store, name: str):
        self.path = folder_of(store, name)
        make = MADE_BY.get(name, f"moleblend preprocess-sidecar {name} {{store}}").format(store=store.path)
        if not self.path.is_dir():
            raise UserError(f"{store.path} has no sidecar {name!r}; make it with `{make}`")
        again = self._again = f"delete {self.path} and run `{make}`"
        try:
            self.manifest = from_json(SidecarManifest, read_json(self.path / MANIFEST))
        except READING as error:
            raise UserError(f"{self.path / MANIFEST}: not a readable manifest of a sidecar ({error}); {again}") from error
        about = self.manifest
        statistics = len(about.columns) if about.kind == NUMBERS else 0
        known = about.kind in (*VALUES, VOCABULARIES, LISTS)
        if about.format_version != FORMAT_VERSION or not known or len(about.statistics) != statistics:
            raise UserError(f"{self.path}: of another format, or damaged; {again}")
        if (about.records_sha256, about.molecules) != (store.manifest.records_sha256, len(store)):
            raise UserError(f"{self.path}: made from another store, or from this one before it was made anew; {again}")
        if about.kind in VALUES:
            self._check_size(again)
        if about.kind == LISTS:
            try:
                self._lists = ListFile(self.path, about.molecules)
            except ValueError as error:
                raise UserError(f"{self.path}: {error}; {again}") from error
        self._take_statistics()

    def check_values(self) -> None:
        """Read all of its values; UserError if they are not those that the manifest has the hash of."""
        if values_hash(self.path, self.manifest.kind, self.manifest.vocabularies) != self.manifest.values_sha256:
            raise UserError(f"{self.path}: damaged: its values are not as they were written (their SHA-256 is another); {self._again}")

    def _take_statistics(self) -> None:
        columns = [(s.lower, s.upper, s.mean, s.std) for s in self.manifest.statistics]
        self._lower, self._upper, self._mean, self._std = np.array(columns, dtype=np.float64).reshape(-1, 4).T
        self._file: int | None = None

    def _check_size(self, again: str) -> None:
        values = self.path / self._values[0]
        size, wanted = (values.stat().st_size if values.is_file() else -1), self._row_bytes * self.manifest.molecules
        if size != wanted:
            raise UserError(f"{values}: {'missing' if size < 0 else f'{size} bytes'} instead of {wanted}; {again}")

    @property
    def _values(self) -> tuple[str, str]:
        return VALUES[self.manifest.kind]

    @property
    def _row_bytes(self) -> int:
        return np.dtype(self._values[1]).itemsize * len(self.manifest.columns)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_file": None}

    def carried(self, indices: Sequence[int]) -> np.ndarray | None:
        """(n, columns), what batches carry of some molecules: numbers standardised, flags as they are, nothing of vocabularies; of lists
        (n, longest), padded with 0."""
        if self.manifest.kind == NUMBERS:
            return self.standardised(indices)
        if self.manifest.kind == LISTS:
            return padded(self.lists(indices))
        return self.raw(indices) if self.manifest.kind == FLAGS else None

    def raw(self, indices: Sequence[int]) -> np.ndarray:
        """(n, columns), as computed, of some molecules."""
        name, dtype = self._values
        if self._file is None:
            self._file = os.open(self.path / name, os.O_RDONLY)
        length = self._row_bytes
        rows = [os.pread(self._file, length, int(index) * length) for index in indices]
        if any(len(row) != length for row in rows):
            raise UserError(f"{self.path / name}: cut short while it was read; copy the store again")
        return np.frombuffer(bytearray().join(rows), dtype).reshape(-1, len(self.manifest.columns))

    def lists(self, indices: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """The lists of some molecules."""
        return self._lists.of(indices)

    def standardised(self, indices: Sequence[int]) -> np.ndarray:
        """(n, columns) float32: winsorised, mean 0 and standard deviation 1 over the training split; NaN where there is no value, or
        where the column is constant."""
        values = self.raw(indices).astype(np.float64)
        std = np.where(self._std > 0, self._std, np.nan)
        return ((np.clip(values, self._lower, self._upper) - self._mean) / std).astype(np.float32)


def values_hash(folder: Path, kind: str, vocabularies: Mapping[str, Sequence[Entry]]) -> str:
    """SHA-256 of a sidecar's values: of its file, of both files of lists, or of vocabularies alone.

    Args:
        folder: where the files are. vocabularies: what was counted.
    """
    if kind in VALUES:
        return _digest(folder / VALUES[kind][0])
    if kind == LISTS:
        return hashlib.sha256("".join(_digest(folder / name) for name in (LISTS_FILE, STARTS_FILE)).encode()).hexdigest()
    listed = {name: [dataclasses.astuple(entry) for entry in found] for name, found in vocabularies.items()}
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _digest(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def column_statistics(values: np.ndarray, rows: np.ndarray) -> tuple[ColumnStatistics, ...]:
    """Of (molecules, columns) values over some rows, a few columns at a time."""
    result = []
    for start in range(0, values.shape[1], COLUMNS_AT_A_TIME):
        block = np.array(values[rows, start : start + COLUMNS_AT_A_TIME], dtype=np.float64)
        for column in block.T:
            result.append(_statistics(column[np.isfinite(column)]))
    return tuple(result)


def _statistics(present: np.ndarray) -> ColumnStatistics:
    if not len(present):
        return ColumnStatistics(lower=0.0, upper=0.0, mean=0.0, std=0.0)
    lower, upper = (float(x) for x in np.quantile(present, [TAIL, 1 - TAIL]))
    moved = np.clip(present, lower, upper)
    # Equal values have no spread; the mean of many may be off by a last digit, which would become one.
    mean, std = (lower, 0.0) if lower == upper else (float(moved.mean()), float(moved.std()))
    return ColumnStatistics(lower=lower, upper=upper, mean=mean, std=std)
