"""The LMDB store: a folder with compact records, index arrays and a manifest.

STORE/records.lmdb     key: 8-byte big-endian molecule index -> record (see `record`)
STORE/manifest.json    see `manifest`
STORE/num_atoms.npy    (N,) uint16, for batching without reading records
STORE/source_row.npy   (N,) int64, row of the source each molecule came from
STORE/split_NAME.npy   (n,) int64, molecule indices of a split, in store order
STORE/failures.csv     row, input, reason of every row that gave no molecule
"""

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import lmdb
import numpy as np

from moleblend_fs.data.manifest import Manifest
from moleblend_fs.errors import UserError

RECORDS, MANIFEST, FAILURES = "records.lmdb", "manifest.json", "failures.csv"


def key(index: int) -> bytes:
    """LMDB key of a molecule index; big-endian, so that keys sort as numbers."""
    return index.to_bytes(8, "big")


_readers: dict[Path, tuple[lmdb.Environment, lmdb.Transaction]] = {}


def _reader(path: Path) -> lmdb.Transaction:
    """A read transaction on a finished record file, one per process and file (LMDB allows no second).

    A finished file never changes and is opened without locks, so that a handle is only a memory map: it may be used after a fork.
    """
    if path not in _readers:
        try:
            environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
        except lmdb.Error as error:
            raise UserError(f"{path}: not a readable LMDB file ({error}); run `moleblend preprocess` again") from error
        _readers[path] = (environment, environment.begin())
    return _readers[path][1]


def forget(path: Path) -> None:
    """Close a record file's reader, for whoever is about to replace the file."""
    if (entry := _readers.pop(path, None)) is not None:
        entry[1].abort()
        entry[0].close()


class Store:
    """A finished store, opened for reading.

    Safe in forked and spawned processes, and pickled by its path.

    Raises:
        UserError: no store there, another version, or a record file that is truncated or no LMDB.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path).resolve()
        if not self.path.exists():
            partial = self.path.with_name(self.path.name + ".partial")
            hint = (
                f"{partial} is unfinished: run the same `moleblend preprocess` command again to resume it"
                if partial.exists()
                else "make one with `moleblend preprocess`"
            )
            raise UserError(f"{self.path}: no such store; {hint}")
        if not (self.path / MANIFEST).is_file():
            raise UserError(f"{self.path}: not a store (no {MANIFEST}); make one with `moleblend preprocess`")
        self.manifest = Manifest.load(self.path / MANIFEST)
        records = self.path / RECORDS
        size = records.stat().st_size if records.is_file() else -1
        if size != self.manifest.records_bytes:
            raise UserError(
                f"{records}: {'missing' if size < 0 else f'{size} bytes'}, but the manifest says {self.manifest.records_bytes}; "
                "the copy is incomplete: copy it again, or run `moleblend preprocess` again"
            )
        _reader(records)  # an unreadable file fails here, not in a worker

    def __len__(self) -> int:
        return self.manifest.molecules

    def record(self, index: int) -> bytes:
        """Bytes of one molecule."""
        return self.records([index])[0]

    def records(self, indices: Iterable[int]) -> list[bytes]:
        """Bytes of several molecules, in the order asked for."""
        get = _reader(self.path / RECORDS).get
        keys = [key(int(index)) for index in indices]
        values = [get(k) for k in keys]
        if None in values:
            raise UserError(f"{self.path}: no molecule {int.from_bytes(keys[values.index(None)])}; the store has {len(self)}")
        return values  # type: ignore[return-value]

    @cached_property
    def num_atoms(self) -> np.ndarray:
        """(N,) uint16, atoms of every molecule."""
        return self._array("num_atoms")

    @cached_property
    def source_row(self) -> np.ndarray:
        """(N,) int64, row of the source."""
        return self._array("source_row")

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.manifest.splits)

    def split(self, name: str) -> np.ndarray:
        """(n,) int64, molecule indices of a split."""
        if name not in self.manifest.splits:
            raise UserError(f"{self.path}: no split {name!r}; it has: {', '.join(self.splits) or 'none'}")
        return self._array(f"split_{name}")

    def labels(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """(len(indices), L) float64, NaN where missing."""
        from moleblend_fs.data.batch import collate

        batch = collate(self.records(indices))
        return np.where(batch.has_label.numpy(), batch.labels.numpy(), np.nan)

    def _array(self, name: str) -> np.ndarray:
        path = self.path / f"{name}.npy"
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error}); copy the store again, or run `moleblend preprocess` again") from error
