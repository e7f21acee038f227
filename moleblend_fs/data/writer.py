"""Writing a store: in steps that survive a kill, and in one rename at the end."""

import csv
import fcntl
import hashlib
import heapq
import io
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import lmdb
import numpy as np

from moleblend_fs.data.accounting import RowCounts, split_notes
from moleblend_fs.data.conformer_groups import JOINED, Groups, Structure, find_groups
from moleblend_fs.data.duplicates import find_duplicates
from moleblend_fs.data.graph import Failure, LabelSpec, MolecularGraph
from moleblend_fs.data.left_behind import LeftBehind, refuse_foreign_folder, why_begin_anew
from moleblend_fs.data.lmdb_file import LmdbFile
from moleblend_fs.data.manifest import LabelStatistics, Manifest, SplitInfo
from moleblend_fs.data.record import StoredRecord, encode, summary
from moleblend_fs.data.splits import Splitter
from moleblend_fs.data.store import FAILURES, MANIFEST, RECORDS, forget, key, split_hash
from moleblend_fs.data.typed_json import from_json
from moleblend_fs.errors import UserError
from moleblend_fs.files import rename_flushed, resolved, write_atomically

MAP_BYTES, MAP_GROWTH = 1 << 26, 1 << 30
"""Address space for a file being written, at first, and the most that it grows by at a time. Where it is limited (ulimit -v), LMDB
cannot have as much as the largest store might need."""

COPY_CHUNK = 4096
T = TypeVar("T")

TABLES = "work.lmdb"
TABLE_NAMES = (b"records", b"rows", b"failures")
"""Molecule index -> record; molecule index -> what `_About` has but the record; source row -> failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedMolecule:
    """A molecule ready to be stored, made in a worker process: its record and what the splits need to know."""

    record: bytes
    split: str | None
    scaffold: str | None
    key: str | None = None
    converged: int | None = None
    structure: Structure | None = None

    @classmethod
    def from_graph(cls, graph: MolecularGraph, source_row: int) -> "EncodedMolecule":
        """The source row becomes the molecule's id, which seeds its random draws wherever it is used."""
        structure = None
        if graph.canonical_order is not None:
            structure = Structure(name=graph.smiles, order=tuple(graph.canonical_order))
        return cls(
            record=encode(graph, source_row),
            split=graph.split,
            scaffold=graph.scaffold,
            key=graph.key,
            converged=graph.converged,
            structure=structure,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _About:
    """What the working tables hold of a molecule besides its record: its source row, and see `EncodedMolecule`."""

    row: int
    split: str | None
    scaffold: str | None
    key: str | None
    converged: int | None
    structure: Structure | None


class StoreWriter:
    """Collects molecules in `OUT.partial` and turns it into the store `OUT` when all are there.

    Every `add` is one transaction that also moves the row to resume from, so that after a kill the same call goes on
    where it stopped, with no row lost or written twice.

    Args:
        path: the new store; must not exist.
        request: what was asked for, as JSON values. A resumed run must ask for the same; see `left_behind` for what happens otherwise.

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
            with LmdbFile(tables, mend=f"delete {self.partial} to begin anew") as left_behind:
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

    def __enter__(self) -> "StoreWriter":
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

    def finish(
        self,
        *,
        source: str,
        options: dict[str, Any],
        inputs: dict[str, str],
        labels: tuple[LabelSpec, ...],
        splitter: Splitter,
        versions: dict[str, str],
        notes: tuple[str, ...] = (),
        source_rows: int | None = None,
        left_out: dict[str, int] | None = None,
    ) -> Manifest:
        """Write records, index arrays, failures.csv and manifest, and rename the folder into place.

        Args:
            source, options, inputs, labels, versions, notes: see `Manifest`.
            splitter: makes the splits.
            source_rows: rows that the source gave; those that were added, where it cannot tell.
            left_out: see `RowCounts`.

        Raises:
            UserError: there is no molecule, or rows are missing.
        """
        if self.molecules == 0:
            raise UserError(f"no molecule could be read ({self.failures} failures); see the reasons in {self._write_failures()}")
        about = self._about()
        groups = find_groups([a.structure for a in about], [a.split for a in about])
        scan = self._copy_records(groups, [a.structure for a in about], labels)
        self._write_failures(groups.contradictions)
        counts = self._row_counts(np.array([a.row for a in about]), len(groups.members), source_rows, left_out or {})
        converged = [a.converged for a in about if a.converged is not None]
        about = [about[index] for index in groups.first.tolist()]
        rows, keys = np.array([a.row for a in about], dtype=np.int64), [a.key for a in about]
        splits = splitter(rows=rows, prescribed=[a.split for a in about], scaffolds=[a.scaffold for a in about], keys=keys)
        np.save(self.partial / "num_atoms.npy", scan.num_atoms)
        np.save(self.partial / "source_row.npy", rows)
        for name, indices in splits.items():
            np.save(self.partial / f"split_{name}.npy", indices.astype(np.int64))
        manifest = Manifest(
            source=source,
            options=options,
            inputs=inputs,
            molecules=len(rows),
            failures=self.failures + len(groups.contradictions),
            conformers=int(scan.conformers.sum()),
            converged=sum(converged) if converged else None,
            molecules_with_3d=int((scan.conformers > 0).sum()),
            labels=labels,
            split=splitter.describe(),
            splits={name: SplitInfo(molecules=len(indices), sha256=split_hash(rows[indices])) for name, indices in splits.items()},
            statistics={name: label_statistics(scan.labels[indices]) for name, indices in splits.items()},
            records_sha256=scan.sha256,
            records_bytes=(self.partial / RECORDS).stat().st_size,
            versions=versions,
            rows=counts,
            duplicates=find_duplicates(keys, splits, scan.labels, labels),
            notes=(*notes, *groups.note(labels), *split_notes(splitter, splits)),
        )
        manifest.save(self.partial / MANIFEST)
        self._environment.close()
        (self.partial / TABLES).unlink()
        (self.partial / f"{TABLES}-lock").unlink(missing_ok=True)
        (self.partial / "lock").unlink()
        forget(self.path / RECORDS)
        rename_flushed(self.partial, self.path)
        return manifest

    def results(self) -> Iterator[tuple[int, "EncodedMolecule | Failure"]]:
        """All that was added, see `read_tables`."""
        with LmdbFile(self.partial / TABLES, mend=f"delete {self.partial} to begin anew") as tables:
            yield from read_tables(tables)

    def seal(self, name: str, text: str) -> None:
        """End as a shard: the working tables stay as they are, beside a file that says what they hold."""
        self._environment.close()
        write_atomically(self.partial / name, text)
        (self.partial / f"{TABLES}-lock").unlink(missing_ok=True)
        (self.partial / "lock").unlink()
        rename_flushed(self.partial, self.path)

    def _copy_records(self, groups: Groups, structures: list[Structure | None], specs: Sequence[LabelSpec]) -> "_Scan":
        """The record file as it will be read, without the working tables, and what the records say of themselves."""
        target = self.partial / RECORDS
        target.unlink(missing_ok=True)
        num_atoms = np.zeros(len(groups.members), dtype=np.uint16)
        conformers = np.zeros(len(groups.members), dtype=np.uint16)
        labels: list[np.ndarray] = []
        digest = hashlib.sha256()
        out = lmdb.open(os.fsencode(target), subdir=False, map_size=MAP_BYTES, lock=False, sync=False)
        with self._environment.begin(db=self._records) as transaction:

            def record_of(member: int) -> bytes:
                return transaction.get(key(member)) or b""

            pairs = ((key(index), groups.join(group, record_of, structures, specs)) for index, group in enumerate(groups.members))
            while chunk := list(itertools.islice(pairs, COPY_CHUNK)):
                write_growing(out, partial(_append, chunk))
                for _, record in chunk:
                    digest.update(record)
                    num_atoms[len(labels)], conformers[len(labels)], row_labels = summary(
                        StoredRecord.at(f"{self.partial / TABLES}, molecule {len(labels)}", record)
                    )
                    labels.append(row_labels)
        out.sync(True)
        out.close()
        return _Scan(num_atoms, conformers, np.stack(labels), digest.hexdigest())

    def _row_counts(self, rows: np.ndarray, molecules: int, source_rows: int | None, left_out: dict[str, int]) -> RowCounts:
        """Where all rows went, of which `rows` gave the molecules; UserError if some are missing."""
        with self._environment.begin(db=self._failures) as transaction:
            listed = {int.from_bytes(row) for row in transaction.cursor().iternext(keys=True, values=False)}
        failed = len(listed.difference(rows.tolist()))
        given = len(rows) + failed if source_rows is None else source_rows
        elsewhere = left_out | ({JOINED: len(rows) - molecules} if molecules < len(rows) else {})
        counts = RowCounts(read=given + sum(left_out.values()), stored=molecules, failed=failed, left_out=elsewhere)
        counts.check()
        return counts

    def _about(self) -> list[_About]:
        with LmdbFile(self.partial / TABLES, mend=f"delete {self.partial} to begin anew") as tables:
            return [_parse(tables, _About, value) for _, value in tables.items(tables.table(b"rows"))]

    def _write_failures(self, more: Sequence[tuple[int, Failure]] = ()) -> Path:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["row", "input", "reason"])
        with LmdbFile(self.partial / TABLES, mend=f"delete {self.partial} to begin anew") as tables:
            listed = ((int.from_bytes(k), _parse(tables, Failure, value)) for k, value in tables.items(tables.table(b"failures")))
            for row, failure in heapq.merge(listed, sorted(more, key=itemgetter(0)), key=itemgetter(0)):
                table.writerow([row, failure.input, failure.reason])
        write_atomically(self.partial / FAILURES, text.getvalue())
        return self.partial / FAILURES


def write_growing(environment: lmdb.Environment, action: Callable[[lmdb.Transaction], T]) -> T:
    """What an action within one transaction gives; done again with a larger map where the file does not fit into the present one."""
    while True:
        try:
            with environment.begin(write=True) as transaction:
                return action(transaction)
        except lmdb.MapFullError:
            size = environment.info()["map_size"]
            environment.set_mapsize(size + min(size, MAP_GROWTH))


def _append(pairs: list[tuple[bytes, bytes]], transaction: lmdb.Transaction) -> None:
    for name, value in pairs:
        transaction.put(name, value, append=True)


def read_tables(tables: LmdbFile) -> Iterator[tuple[int, EncodedMolecule | Failure]]:
    """What was added to working tables, by source row; a molecule comes before the note on it."""
    records, rows, failed = (tables.items(tables.table(name)) for name in TABLE_NAMES)
    failures = ((int.from_bytes(name), _parse(tables, Failure, value)) for name, value in failed)
    waiting = next(failures, None)
    for (_, record), (_, about) in itertools.zip_longest(records, rows, fillvalue=(b"", b"")):
        told: _About = _parse(tables, _About, about)
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


def _parse(tables: LmdbFile, kind: Any, value: bytes) -> Any:
    try:
        return from_json(kind, json.loads(value))
    except (ValueError, RecursionError) as error:
        raise tables.damaged(f"an entry {value[:40]!r}: {error}") from error


@contextmanager
def full_disk_told(out: str | os.PathLike) -> Iterator[None]:
    """A full disk is the user's to mend, and nothing that was stored is lost by it."""
    try:
        yield
    except (lmdb.Error, OSError) as error:
        raise UserError(
            f"{out}: cannot be written ({error}); is the disk full? What was stored is kept: make room and run the same command again"
        ) from error


class _Scan(NamedTuple):
    num_atoms: np.ndarray
    conformers: np.ndarray
    labels: np.ndarray
    sha256: str


def label_statistics(labels: np.ndarray) -> tuple[LabelStatistics | None, ...]:
    """Statistics of each column of (molecules, L) labels over its present values, in float64; None for an empty column."""
    result: list[LabelStatistics | None] = []
    for column in labels.T:
        present = column[~np.isnan(column)]
        if len(present) == 0:
            result.append(None)
            continue
        low, high = float(present.min()), float(present.max())
        # Equal values have no spread; the mean of many may be off by a last digit, which would become one.
        mean, std = (low, 0.0) if low == high else (float(present.mean()), float(present.std()))
        result.append(LabelStatistics(count=len(present), mean=mean, std=std, min=low, max=high))
    return tuple(result)
