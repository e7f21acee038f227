"""The LMDB store: a folder with compact records, index arrays and a manifest.

STORE/records.lmdb     key: 8-byte big-endian molecule index -> record (see `record`)
STORE/manifest.json    see `manifest`
STORE/num_atoms.npy    (N,) uint16, for batching without reading records
STORE/source_row.npy   (N,) int64, row of the source each molecule came from
STORE/split_NAME.npy   (n,) int64, molecule indices of a split, in store order
STORE/joined_rows.npy  (J, 3) int64, of each row that became part of an earlier one: row, molecule, which of its conformers (-1: none)
STORE/failures.csv     row, input, reason of every row that gave no molecule
"""

import csv
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moleblend_fs.data.lmdb_file import LmdbFile
from moleblend_fs.data.manifest import REMEDY, Manifest
from moleblend_fs.data.onnx_detection import refuse_exported
from moleblend_fs.data.record import StoredRecord, summary
from moleblend_fs.data.run_detection import STORE, of_run
from moleblend_fs.errors import UserError
from moleblend_fs.files import resolved
from moleblend_fs.wording import counted

RECORDS, MANIFEST, FAILURES = "records.lmdb", "manifest.json", "failures.csv"
JOINED_ROWS = "joined_rows"


class FailedRow(NamedTuple):
    """A line of failures.csv: a source row that gave no molecule, or what else is to be said of one that did."""

    row: int
    input: str
    reason: str


def key(index: int) -> bytes:
    """LMDB key of a molecule index; big-endian, so that keys sort as numbers."""
    return index.to_bytes(8, "big")


_readers: dict[Path, LmdbFile] = {}  # state: LMDB allows a process to open a file once


def _reader(path: Path) -> LmdbFile:
    """A finished record file, opened once in each process; it never changes, and may be used after a fork."""
    if path not in _readers:
        _readers[path] = LmdbFile(path, remedy=REMEDY)
    return _readers[path]


def forget(path: Path) -> None:
    """Close a record file's reader, for whoever is about to replace the file."""
    if (reader := _readers.pop(path, None)) is not None:
        reader.close()


class Store:
    """A finished store, opened for reading.

    Safe in forked and spawned processes, and pickled by its path.

    Raises:
        UserError: no store there, another version, or a record file that is truncated or no LMDB.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = resolved(path)
        if not self.path.exists():
            partial = self.path.with_name(self.path.name + ".partial")
            hint = (
                f"{partial} is unfinished: run the same `moleblend preprocess` command again to resume it"
                if partial.exists()
                else "make one with `moleblend preprocess`"
            )
            raise UserError(f"{self.path}: no such store; {hint}")
        if not (self.path / MANIFEST).is_file():
            refuse_exported(self.path, "here a store is needed, a folder of `moleblend preprocess`")
            raise UserError(f"{self.path}: not a store (no {MANIFEST}); make one with `moleblend preprocess`{of_run(self.path, STORE)}")
        self.manifest = Manifest.load(self.path / MANIFEST)
        self._split_arrays: dict[str, np.ndarray] = {}
        records = self.path / RECORDS
        size = records.stat().st_size if records.is_file() else -1
        if size != self.manifest.records_bytes:
            raise UserError(
                f"{records}: {'missing' if size < 0 else f'{size} bytes'}, but the manifest says {self.manifest.records_bytes}; "
                "the copy is incomplete: copy it again, or run `moleblend preprocess` again"
            )
        if (entries := _reader(records).main.entries) != len(self):  # an unreadable file fails here, not in a worker
            raise UserError(f"{records}: {counted(entries, 'record')}, but the manifest says {len(self)}; {REMEDY}")
        if (labels := len(summary(self.record(0)).labels)) != len(self.manifest.labels):
            raise UserError(
                f"{records}: {counted(labels, 'label')} in a record, but the manifest says {len(self.manifest.labels)}; {REMEDY}"
            )

    def __len__(self) -> int:
        return self.manifest.molecules

    def record(self, index: int) -> StoredRecord:
        """Bytes of one molecule."""
        return self.records([index])[0]

    def records(self, indices: Iterable[int]) -> list[StoredRecord]:
        """Bytes of several molecules, in the order asked for."""
        path = self.path / RECORDS
        get, place = _reader(path).get, f"{path}, molecule "
        result: list[StoredRecord] = []
        for index in map(int, indices):
            value = get(key(index)) if 0 <= index < len(self) else None
            if value is None:
                raise UserError(f"{self.path}: no molecule {index}; the store has {len(self)}")
            result.append(StoredRecord.at(place + str(index), value, index))
        return result

    @cached_property
    def num_atoms(self) -> np.ndarray:
        """(N,) uint16, atoms of every molecule."""
        return self._array("num_atoms", "<u2", len(self))

    @cached_property
    def source_row(self) -> np.ndarray:
        """(N,) int64, row of the source."""
        return self._array("source_row", "<i8", len(self))

    @cached_property
    def joined_rows(self) -> np.ndarray:
        """(J, 3) int64, ascending rows that became conformers of an earlier row's molecule, that molecule, and which of its conformers.

        Raises:
            UserError: they are not those that the manifest has the hash of.
        """
        about = self.manifest.joined
        if about is None:
            return np.zeros((0, 3), dtype=np.int64)
        joined = self._array(JOINED_ROWS, "<i8", about.rows, 3)
        if array_hash(joined) != about.sha256:
            raise UserError(f"{self.path / JOINED_ROWS}.npy: other rows than the manifest has; {REMEDY}")
        return joined

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.manifest.splits)

    def split(self, name: str) -> np.ndarray:
        """(n,) int64, molecule indices of a split; UserError unless they are the ones that the manifest has the hash of."""
        if name not in self.manifest.splits:
            raise UserError(f"{self.path}: no split {name!r}; it has: {', '.join(self.splits) or 'none'}")
        if name not in self._split_arrays:
            about = self.manifest.splits[name]
            indices = self._array(f"split_{name}", "<i8", about.molecules)
            strange = len(indices) and (indices.min() < 0 or indices.max() >= len(self))
            if strange or split_hash(self.source_row[indices]) != about.sha256:
                raise UserError(f"{self.path / f'split_{name}.npy'}: other molecules than the split {name!r} of the manifest has; {REMEDY}")
            self._split_arrays[name] = indices
        return self._split_arrays[name]

    def labels(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """(len(indices), L) float64, NaN where missing."""
        from moleblend_fs.data.batch import collate

        batch = collate(self.records(indices))
        return np.where(batch.has_label.numpy(), batch.labels.numpy(), np.nan)

    def failures(self) -> Iterator[FailedRow]:
        """What failures.csv says, in the order of the source; UserError if the file is damaged, or lacks although there were failures."""
        path = self.path / FAILURES
        if not path.is_file():
            if self.manifest.failures:
                raise UserError(f"{path}: missing, but the manifest says {self.manifest.failures} failures; {REMEDY}")
            return
        csv.field_size_limit(sys.maxsize)
        found = 0
        try:
            with open(path, newline="", encoding="utf-8") as stream:
                for line in csv.DictReader(stream, strict=True):
                    found += 1
                    if None in line or None in line.values():
                        raise ValueError(f"line {found + 1} has not three columns")
                    yield FailedRow(int(line["row"]), line["input"], line["reason"])
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            raise UserError(f"{path}: cannot be read ({error}); {REMEDY}") from error
        if found != self.manifest.failures:
            raise UserError(f"{path}: {found} failures, but the manifest says {self.manifest.failures}; {REMEDY}")

    def _array(self, name: str, dtype: str, *shape: int) -> np.ndarray:
        path = self.path / f"{name}.npy"
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)  # which compares the header with the file's size
        except Exception as error:  # a damaged header is evaluated, and can raise nearly anything
            raise UserError(f"{path}: cannot be read ({error}); {REMEDY}") from error
        if array.dtype != np.dtype(dtype) or array.shape != shape:
            raise UserError(
                f"{path}: {array.dtype} of shape {array.shape}, but the manifest says {counted(shape[0], 'value')} of "
                f"{np.dtype(dtype)}; {REMEDY}"
            )
        result = np.array(array)  # in memory: a file that is cut while it is mapped ends the process
        result.flags.writeable = False
        return result


def split_hash(rows: np.ndarray) -> str:
    """SHA-256 of a split's source rows, sorted."""
    return array_hash(np.sort(rows))


def array_hash(array: np.ndarray) -> str:
    """SHA-256 of whole numbers as 8 bytes each."""
    return hashlib.sha256(array.astype("<i8").tobytes()).hexdigest()
