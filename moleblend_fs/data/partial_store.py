"""The working tables of a store in the making: what rows gave, added in steps that survive a kill."""

import fcntl
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Self, TypeVar

import lmdb

from moleblend_fs.data.conformer_groups import Structure
from moleblend_fs.data.encoded_molecule import EncodedMolecule
from moleblend_fs.data.graph import Failure
from moleblend_fs.data.lmdb_file import LmdbFile
from moleblend_fs.data.store import key
from moleblend_fs.data.typed_json import from_json
from moleblend_fs.data.unfinished_output import LeftBehind, refuse_foreign_folder, why_begin_anew
from moleblend_fs.errors import UserError
from moleblend_fs.files import rename_flushed, resolved, write_atomically

MAP_BYTES, MAP_GROWTH = 1 << 26, 1 << 30
"""Address space for a file being written, at first, and the most that it grows by at a time. Where it is limited (ulimit -v), LMDB
cannot have as much as the largest store might need."""

T = TypeVar("T")

TABLES = "work.lmdb"
TABLE_NAMES = (b"records", b"rows", b"failures")
"""Molecule index -> record; molecule index -> what `About` has but the record; source row -> failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the working tables hold of a molecule besides its record: its source row, and see `EncodedMolecule`."""

    row: int
    split: str | None
    scaffold: str | None
    key: str | None
    converged: int | None
    structure: Structure | None


class PartialStore:
    """Collects molecules in `OUT.partial`, which becomes `OUT` when all are there.

    Every `add` is one transaction that also moves the row to resume from, so that after a kill the same call goes on
    where it stopped, with no row lost or written twice.

    Args:
        path: OUT, the new store or shard; must not exist.
        request: what was asked for, as JSON values. A resumed run must ask for the same; see `unfinished_output` for what else happens.

    Attributes:
        next_row: first source row that is not yet in.
        rows_read: rows that the source gave before `next_row`, whether they went into this store or into another shard.
    """

    def __init__(self, path: str | os.PathLike, request: dict[str, Any]):
        self.path = resolved(path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        if os.path.lexists(self.path):
            raise UserError(f"{self.path} exists already; choose another OUT, or delete it first")
        refuse_foreign_folder(self.partial, {TABLES, f"{TABLES}-lock", "lock"})
        self.partial.mkdir(parents=True, exist_ok=True)
        self._lock()
        try:
            self._open()
            self._take_up(request)
        except BaseException:
            self._lock_file.close()
            raise

    def _open(self) -> None:
        tables = self.partial / TABLES
        if tables.exists() and tables.stat().st_size:
            with self._read() as left_behind:
                left_behind.check()
        (self.partial / f"{TABLES}-lock").unlink(missing_ok=True)
        with full_disk_told(self.path):
            self._environment = lmdb.open(os.fsencode(tables), subdir=False, map_size=MAP_BYTES, max_dbs=3, writemap=False, metasync=False)
            self._records, self._rows, self._failures = (self._environment.open_db(name) for name in TABLE_NAMES)

    def _take_up(self, request: dict[str, Any]) -> None:
        """Begin, or find where an earlier run for the same request stopped."""
        with self._environment.begin(write=True) as transaction:
            try:
                self.next_row, self.rows_read = (int(transaction.get(name) or 0) for name in (b"next_row", b"rows_read"))
                self._seconds = float(transaction.get(b"seconds") or 0)
            except ValueError as error:
                raise UserError(f"{self.partial / TABLES}: damaged ({error}); delete {self.partial} to begin anew") from error
            self.molecules = transaction.stat(self._records)["entries"]
            self.failures = transaction.stat(self._failures)["entries"]
            found = transaction.get(b"request")
            why = "" if found is None else why_begin_anew(LeftBehind(self.partial, found, self.molecules, self._seconds), request)
            if why is not None:
                self._begin(transaction, json.dumps(request, sort_keys=True))
        self._opened = time.monotonic()
        if why:
            print(why, file=sys.stderr)

    def _begin(self, transaction: lmdb.Transaction, request: str) -> None:
        for table in (self._records, self._rows, self._failures):
            transaction.drop(table, delete=False)
        transaction.put(b"request", request.encode())
        for name in (b"next_row", b"rows_read", b"seconds"):
            transaction.put(name, b"0")
        self.next_row = self.rows_read = self.molecules = self.failures = 0
        self._seconds = 0.0

    def _lock(self) -> None:
        self._lock_file = open(self.partial / "lock", "w")  # noqa: SIM115  held until the store is closed
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{self.partial} is being written by another process; wait for it or choose another OUT") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._environment.close()
        self._lock_file.close()

    def add(self, results: Iterable[tuple[int, EncodedMolecule | Failure]], next_row: int, rows_read: int = 0) -> None:
        """Store what a run of rows gave, durably.

        Args:
            results: (source row, molecule or failure), rows ascending. A source may leave out rows on purpose.
            next_row: where a resumed run begins.
            rows_read: see the class.
        """
        results = list(results)
        self.molecules, self.failures = write_growing(
            self._environment, lambda transaction: self._put(transaction, results, next_row, rows_read)
        )
        self.next_row, self.rows_read = next_row, rows_read

    def _put(
        self, transaction: lmdb.Transaction, results: list[tuple[int, EncodedMolecule | Failure]], next_row: int, rows_read: int
    ) -> tuple[int, int]:
        """Molecules and failures that there are afterwards."""
        molecules, failures = self.molecules, self.failures
        for row, result in results:
            if isinstance(result, Failure):
                transaction.put(key(row), json.dumps(asdict(result)).encode(), db=self._failures)
                failures += 1
            else:
                about = json.dumps({"row": row} | {name: value for name, value in asdict(result).items() if name != "record"})
                transaction.put(key(molecules), result.record, db=self._records, append=True)
                transaction.put(key(molecules), about.encode(), db=self._rows, append=True)
                molecules += 1
        transaction.put(b"next_row", str(next_row).encode())
        transaction.put(b"rows_read", str(rows_read).encode())
        transaction.put(b"seconds", f"{self._seconds + time.monotonic() - self._opened:.1f}".encode())
        return molecules, failures

    def results(self) -> Iterator[tuple[int, "EncodedMolecule | Failure"]]:
        """All that was added, see `read_tables`."""
        with self._read() as tables:
            yield from read_tables(tables)

    def seal(self, name: str, text: str) -> None:
        """End as a shard: the working tables stay as they are, beside a file that says what they hold."""
        self._environment.close()
        write_atomically(self.partial / name, text)
        self._rename()

    def _rename(self) -> None:
        """Let go of what only a store in the making has, and give the folder its name."""
        (self.partial / f"{TABLES}-lock").unlink(missing_ok=True)
        (self.partial / "lock").unlink()
        rename_flushed(self.partial, self.path)

    def _read(self) -> LmdbFile:
        """The tables for reading, looked at before they are trusted."""
        return LmdbFile(self.partial / TABLES, remedy=f"delete {self.partial} to begin anew")


def write_growing(environment: lmdb.Environment, action: Callable[[lmdb.Transaction], T]) -> T:
    """What an action within one transaction gives; done again with a larger map where the file does not fit into the present one."""
    while True:
        try:
            with environment.begin(write=True) as transaction:
                return action(transaction)
        except lmdb.MapFullError:
            size = environment.info()["map_size"]
            environment.set_mapsize(size + min(size, MAP_GROWTH))


def read_tables(tables: LmdbFile) -> Iterator[tuple[int, EncodedMolecule | Failure]]:
    """What was added to working tables, by source row; a molecule comes before the note on it."""
    records, rows, failed = (tables.items(tables.table(name)) for name in TABLE_NAMES)
    failures = ((int.from_bytes(name), parse_entry(tables, Failure, value)) for name, value in failed)
    waiting = next(failures, None)
    for (_, record), (_, about) in itertools.zip_longest(records, rows, fillvalue=(b"", b"")):
        told: About = parse_entry(tables, About, about)
        while waiting is not None and waiting[0] < told.row:
            yield waiting
            waiting = next(failures, None)
        yield (
            told.row,
            EncodedMolecule(
                record=record, split=told.split, scaffold=told.scaffold, key=told.key, converged=told.converged, structure=told.structure
            ),
        )
    while waiting is not None:
        yield waiting
        waiting = next(failures, None)


def parse_entry(tables: LmdbFile, kind: Any, value: bytes) -> Any:
    try:
        return from_json(kind, json.loads(value))
    except (ValueError, RecursionError) as error:
        raise tables.damaged(f"an entry {value[:40]!r}: {error}") from error


@contextmanager
def full_disk_told(out: str | os.PathLike) -> Iterator[None]:
    """A full disk is reported as an error of the user's; nothing that was stored is lost by it."""
    try:
        yield
    except (lmdb.Error, OSError) as error:
        raise UserError(
            f"{out}: cannot be written ({error}); is the disk full? What was stored is kept: make room and run the same command again"
        ) from error
