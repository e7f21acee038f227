"""Writing a store: from what its working tables hold, and in one rename at the end."""

import hashlib
import heapq
import io
import itertools
import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import numpy as np

from moleblend_fs.data.accounting import RowCounts, split_notes
from moleblend_fs.data.conformer_groups import JOINED, Groups, Structure, find_groups
from moleblend_fs.data.duplicates import find_duplicates
from moleblend_fs.data.graph import Failure, LabelSpec
from moleblend_fs.data.manifest import JoinedRows, LabelStatistics, Manifest, SplitInfo
from moleblend_fs.data.partial_store import MAP_BYTES, TABLES, About, PartialStore, parse_entry, write_growing
from moleblend_fs.data.record import StoredRecord, summary
from moleblend_fs.data.splits import Splitter
from moleblend_fs.data.store import FAILURES, JOINED_ROWS, MANIFEST, RECORDS, array_hash, forget, key, split_hash
from moleblend_fs.errors import UserError
from moleblend_fs.files import CsvWriter, write_atomically

COPY_CHUNK = 4096


class StoreWriter(PartialStore):
    """Working tables that become a store."""

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
        self._check_not_empty(inputs)
        about = self._about()
        groups = find_groups([a.structure for a in about], [a.split for a in about])
        scan = self._copy_records(groups, [a.structure for a in about], labels)
        self._write_failures(groups.contradictions)
        counts = self._row_counts(np.array([a.row for a in about]), len(groups.members), source_rows, left_out or {})
        converged = [a.converged for a in about if a.converged is not None]
        about = [about[index] for index in groups.first.tolist()]
        rows, keys = np.array([a.row for a in about], dtype=np.int64), [a.key for a in about]
        splits = splitter(rows=rows, prescribed=[a.split for a in about], scaffolds=[a.scaffold for a in about], keys=keys)
        self._save_indices(scan.num_atoms, rows, splits)
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
            joined=self._save_joined(groups.joined),
            duplicates=find_duplicates(keys, splits, scan.labels, labels),
            notes=(*notes, *groups.note(labels), *split_notes(splitter, splits)),
        )
        manifest.save(self.partial / MANIFEST)
        self._environment.close()
        (self.partial / TABLES).unlink()
        forget(self.path / RECORDS)
        self._rename()
        return manifest

    def _check_not_empty(self, inputs: dict[str, str]) -> None:
        if self.molecules == 0 and self.failures == 0:
            raise UserError(
                f"{', '.join(inputs)}: there is no row to make a molecule of: there is none besides a header, or all were left out"
            )
        if self.molecules == 0:
            listed = self._write_failures()
            raise UserError(
                f"no molecule could be read ({self.failures} failures); the first is {self._first_failure()}; all are in {listed}"
            )

    def _save_indices(self, num_atoms: np.ndarray, rows: np.ndarray, splits: dict[str, np.ndarray]) -> None:
        """Sizes and rows of molecules, and which are in each split: what is read without the records."""
        np.save(self.partial / "num_atoms.npy", num_atoms)
        np.save(self.partial / "source_row.npy", rows)
        for name, indices in splits.items():
            np.save(self.partial / f"split_{name}.npy", indices.astype(np.int64))

    def _save_joined(self, joined: list[tuple[int, int, int]]) -> JoinedRows | None:
        """Which rows became part of an earlier one, by ascending row; no file where there is none."""
        path = self.partial / f"{JOINED_ROWS}.npy"
        path.unlink(missing_ok=True)  # of a run for other rows that was stopped at its end
        if not joined:
            return None
        rows = np.array(sorted(joined), dtype=np.int64)
        np.save(path, rows)
        return JoinedRows(rows=len(rows), sha256=array_hash(rows))

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

            pairs = ((key(index), groups.join(index, record_of, structures, specs)) for index in range(len(groups.members)))
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
        listed: set[int] = set()
        on_purpose: Counter[str] = Counter()
        with self._read() as tables:
            for row, value in tables.items(tables.table(b"failures")):
                failure: Failure = parse_entry(tables, Failure, value)
                if failure.left_out:
                    on_purpose[failure.left_out] += 1
                else:
                    listed.add(int.from_bytes(row))
        failed = len(listed.difference(rows.tolist()))
        given = len(rows) + failed + on_purpose.total() if source_rows is None else source_rows
        elsewhere = left_out | dict(on_purpose) | ({JOINED: len(rows) - molecules} if molecules < len(rows) else {})
        counts = RowCounts(read=given + sum(left_out.values()), stored=molecules, failed=failed, left_out=elsewhere)
        counts.check()
        return counts

    def _about(self) -> list[About]:
        with self._read() as tables:
            return [parse_entry(tables, About, value) for _, value in tables.items(tables.table(b"rows"))]

    def _first_failure(self) -> str:
        with self._read() as tables:
            key, value = next(iter(tables.items(tables.table(b"failures"))))
            return f"row {int.from_bytes(key)}, {parse_entry(tables, Failure, value).reason}"

    def _write_failures(self, more: Sequence[tuple[int, Failure]] = ()) -> Path:
        text = io.StringIO()
        table = CsvWriter(text)
        table.writerow(["row", "input", "reason"])
        with self._read() as tables:
            listed = ((int.from_bytes(k), parse_entry(tables, Failure, value)) for k, value in tables.items(tables.table(b"failures")))
            for row, failure in heapq.merge(listed, sorted(more, key=itemgetter(0)), key=itemgetter(0)):
                table.writerow([row, failure.input, failure.reason])
        write_atomically(self.partial / FAILURES, text.getvalue())
        return self.partial / FAILURES


def _append(pairs: list[tuple[bytes, bytes]], transaction: lmdb.Transaction) -> None:
    for name, value in pairs:
        transaction.put(name, value, append=True)


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
