"""Several stores as one: `fairseq-train A:B:C` trains on the molecules of all, each once an epoch."""

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from moleblend_fs.data.duplicates import Duplicates
from moleblend_fs.data.graph import LabelSpec
from moleblend_fs.data.manifest import LabelStatistics, Manifest, SplitInfo, pooled
from moleblend_fs.data.record import StoredRecord
from moleblend_fs.data.sidecar import NUMBERS, Entry, Sidecar, SidecarManifest, column_statistics
from moleblend_fs.data.split_file import open_store
from moleblend_fs.data.splits import TRAIN
from moleblend_fs.data.store import FailedRow, Store, split_hash
from moleblend_fs.data.trained_on import MIXTURE, UNKNOWN, TrainedOn
from moleblend_fs.errors import UserError
from moleblend_fs.files import resolved

STATISTICS_OF = 50_000
"""Training molecules that the numbers of a mixture's sidecar are scaled by, at most."""


def open_stores(paths: str, split_file: str = "", fold: str = "") -> Store:
    """A store, or several whose paths are joined by ":" (`os.pathsep`); a store whose own path holds one is found first.

    Raises:
        UserError: one is no store, or they cannot be trained on together; a file of splits, which is of one store, with several.
    """
    found = [path for path in paths.split(os.pathsep) if path]
    if len(found) < 2 or resolved(paths).exists():
        return open_store(found[0] if len(found) == 1 and not resolved(paths).exists() else paths, split_file, fold)
    if split_file or fold:
        raise UserError(f"--split-file {split_file}: it holds rows of one store, but {paths} names several")
    return Mixture([Store(path) for path in found])


class Mixture(Store):
    """The molecules of several stores, one after the other.

    A split has the molecules of all splits of its name. Ids of molecules and source rows are those of the first store, then those of the
    next moved behind them, so that every molecule has random draws of its own. Labels are those of all stores; a molecule has no value of
    those that its store lacks.

    Raises:
        UserError: a store is named twice; hydrogens differ; a label is of another kind or unit in another store.
    """

    def __init__(self, parts: Sequence[Store]):
        self.parts = tuple(parts)
        self.path = Path(os.pathsep.join(str(part.path) for part in parts))
        self._split_arrays: dict[str, np.ndarray] = {}
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self._first_rows = np.cumsum([0, *(int(part.source_row.max()) + 1 for part in parts)])
        _check_distinct(parts)
        labels = _labels(parts)
        names = [label.name for label in labels]
        self._columns = [np.array([names.index(label.name) for label in part.manifest.labels], dtype=np.int64) for part in parts]
        self.manifest = self._manifest(labels)

    def records(self, indices: Iterable[int]) -> list[StoredRecord]:
        wanted = np.fromiter(map(int, indices), dtype=np.int64)
        if len(outside := wanted[(wanted < 0) | (wanted >= len(self))]):
            raise UserError(f"{self.path}: no molecule {outside[0]}; the stores have {len(self)}")
        result: list[StoredRecord | None] = [None] * len(wanted)
        places = self.part_of(wanted)
        for number in np.unique(places):
            mine = np.flatnonzero(places == number)
            found = self.parts[number].records(wanted[mine] - self._starts[number])
            for place, record in zip(mine, found, strict=True):
                record.molecule += int(self._starts[number])
                record.first_id = int(self._first_rows[number])
                record.columns = self._columns[number], len(self.manifest.labels)
                result[place] = record
        return [record for record in result if record is not None]

    def part_of(self, indices: np.ndarray) -> np.ndarray:
        """(n,) number of the store that each molecule is in."""
        return np.searchsorted(self._starts, indices, side="right") - 1

    def within(self, number: int, indices: np.ndarray) -> np.ndarray:
        """Molecules of the mixture as molecules of the store that they are in."""
        return indices - self._starts[number]

    @cached_property
    def num_atoms(self) -> np.ndarray:
        return np.concatenate([part.num_atoms for part in self.parts])

    @cached_property
    def source_row(self) -> np.ndarray:
        return np.concatenate([part.source_row + first for part, first in zip(self.parts, self._first_rows, strict=False)])

    def split(self, name: str) -> np.ndarray:
        if name not in self.manifest.splits:
            raise UserError(f"{self.path}: no split {name!r}; there are: {', '.join(self.splits) or 'none'}")
        if name not in self._split_arrays:
            self._split_arrays[name] = self._split_of_all(name)
        return self._split_arrays[name]

    def failures(self) -> Iterator[FailedRow]:
        for part, first in zip(self.parts, self._first_rows, strict=False):
            for failed in part.failures():
                yield failed._replace(row=failed.row + int(first))

    def _split_of_all(self, name: str) -> np.ndarray:
        found = [part.split(name) + start for part, start in zip(self.parts, self._starts, strict=False) if name in part.splits]
        return np.concatenate(found)

    def _manifest(self, labels: tuple[LabelSpec, ...]) -> Manifest:
        manifests = [part.manifest for part in self.parts]
        about = [TrainedOn.of(manifest) for manifest in manifests]
        names = list(dict.fromkeys(name for manifest in manifests for name in manifest.splits))
        conformers = [each.conformers for each in about if each.structures != "none"]
        same = bool(conformers) and all(each == conformers[0] for each in conformers)
        options: dict[str, Any] = {
            "hydrogens": _hydrogens(self.parts),
            "structures": "+".join(sorted({each.structures for each in about} - {"none"})) or "none",
            "conformers": conformers[0] if same else None,
            "stores": [
                {
                    "path": str(part.path),
                    "source": part.manifest.source,
                    "molecules": len(part),
                    "records_sha256": part.manifest.records_sha256,
                }
                for part in self.parts
            ],
        }
        return dataclasses.replace(
            manifests[0],
            source=MIXTURE,
            options=options,
            inputs={f"{number}/{name}": value for number, one in enumerate(manifests) for name, value in one.inputs.items()},
            molecules=int(self._starts[-1]),
            failures=sum(one.failures for one in manifests),
            conformers=sum(one.conformers for one in manifests),
            molecules_with_3d=sum(one.molecules_with_3d for one in manifests),
            labels=labels,
            split={"kind": "of each store"},
            splits={name: self._split_info(name) for name in names},
            statistics={name: _statistics(manifests, name, labels) for name in names},
            records_sha256=hashlib.sha256("".join(one.records_sha256 for one in manifests).encode()).hexdigest(),
            records_bytes=sum(one.records_bytes for one in manifests),
            versions={},
            converged=None,
            rows=None,
            joined=None,
            duplicates=Duplicates(),
            notes=(),
        )

    def _split_info(self, name: str) -> SplitInfo:
        indices = self._split_arrays[name] = self._split_of_all(name)
        return SplitInfo(molecules=len(indices), sha256=split_hash(self.source_row[indices]))


def open_sidecar(store: Store, name: str) -> Sidecar:
    """The sidecar of a store, or those of several stores as one; UserError also where values are damaged, which nothing else would see."""
    found = MixedSidecar(store, name) if isinstance(store, Mixture) else Sidecar(store, name)
    found.check_values()
    return found


class MixedSidecar(Sidecar):
    """The sidecars of several stores, as one of all their molecules.

    Numbers are scaled by statistics over the training molecules of all stores, or over `STATISTICS_OF` of them drawn by a fixed seed.

    Raises:
        UserError: a store lacks it, or has other columns in it.
    """

    def __init__(self, store: Mixture, name: str):
        self.store, self.parts = store, tuple(Sidecar(part, name) for part in store.parts)
        first, abouts = self.parts[0], [part.manifest for part in self.parts]
        for part, about in zip(self.parts, abouts, strict=True):
            if about.model_sha256 != abouts[0].model_sha256:
                raise UserError(f"{part.path}: made by another model than {first.path}; delete one and make it by the other's")
            if (about.kind, about.columns, about.versions) != (abouts[0].kind, abouts[0].columns, abouts[0].versions):
                raise UserError(
                    f"{part.path}: made with other columns or versions ({_told(about)}) than {first.path} ({_told(abouts[0])}), so that "
                    "values may mean something else; delete both and make them anew"
                )
        self.path = first.path
        self.manifest = dataclasses.replace(
            abouts[0],
            molecules=len(store),
            records_sha256=store.manifest.records_sha256,
            values_sha256=hashlib.sha256("".join(about.values_sha256 for about in abouts).encode()).hexdigest(),
            missing=sum(about.missing for about in abouts),
            without=sum(about.without for about in abouts),
            failures=sum(about.failures for about in abouts),
            vocabularies=_joined_vocabularies(abouts),
        )
        if self.manifest.kind == NUMBERS:
            rows = store.split(TRAIN) if TRAIN in store.splits else np.arange(len(store))
            if len(rows) > STATISTICS_OF:
                rows = np.sort(np.random.default_rng(0).choice(rows, STATISTICS_OF, replace=False))
            found = column_statistics(self.raw(rows), np.arange(len(rows)))
            self.manifest = dataclasses.replace(self.manifest, statistics=found, statistics_of=TRAIN if TRAIN in store.splits else "")
        self._take_statistics()

    def check_values(self) -> None:
        for part in self.parts:
            part.check_values()

    def raw(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        wanted = np.asarray(indices, dtype=np.int64)
        places = self.store.part_of(wanted)
        result = np.empty((len(wanted), len(self.manifest.columns)), dtype=self._values[1])
        for number in np.unique(places):
            mine = places == number
            result[mine] = self.parts[number].raw(self.store.within(number, wanted[mine]))
        return result

    def lists(self, indices: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        wanted = np.asarray(indices, dtype=np.int64)
        places = self.store.part_of(wanted)
        return [self.parts[n].lists(self.store.within(n, wanted[i : i + 1]))[0] for i, n in enumerate(places.tolist())]


def _told(about: SidecarManifest) -> str:
    return ", ".join([f"{len(about.columns)} columns", *(f"{name} {version}" for name, version in about.versions.items())])


def _joined_vocabularies(abouts: list[SidecarManifest]) -> dict[str, tuple[Entry, ...]]:
    """Counts of all stores added, in the order that a sidecar has."""
    result = {}
    for name in dict.fromkeys(name for about in abouts for name in about.vocabularies):
        counts: Counter[tuple[str, int]] = Counter()
        for about in abouts:
            counts.update({(entry.name, entry.code): entry.count for entry in about.vocabularies.get(name, ())})
        found = [Entry(name=word, code=code, count=count) for (word, code), count in counts.items()]
        result[name] = tuple(sorted(found, key=lambda entry: (-entry.count, entry.name)))
    return result


def _check_distinct(parts: Sequence[Store]) -> None:
    found: dict[str, Path] = {}
    for part in parts:
        if (other := found.setdefault(part.manifest.records_sha256, part.path)) is not part.path:
            raise UserError(f"{part.path}: the same molecules as {other}; name each store once")


def _hydrogens(parts: Sequence[Store]) -> str:
    kinds = {part.path: TrainedOn.of(part.manifest).hydrogens for part in parts}
    known = {kind for kind in kinds.values() if kind != UNKNOWN}
    if len(known) > 1:
        told = "; ".join(f"{path}: {kind or 'not known'}" for path, kind in kinds.items())
        raise UserError(f"stores with different hydrogens cannot be trained on together ({told}); make them with the same --hydrogens")
    return known.pop() if known else UNKNOWN


def _labels(parts: Sequence[Store]) -> tuple[LabelSpec, ...]:
    """The labels of all stores; UserError where one name stands for two things."""
    found: dict[str, tuple[LabelSpec, Path]] = {}
    for part in parts:
        for label in part.manifest.labels:
            first, path = found.setdefault(label.name, (label, part.path))
            if (first.kind, first.unit) != (label.kind, label.unit):
                raise UserError(
                    f"label {label.name!r} is a {first.kind} in {first.unit or 'no unit'} in {path}, a {label.kind} in "
                    f"{label.unit or 'no unit'} in {part.path}: give one of them another name or unit with --label"
                )
    return tuple(label for label, _ in found.values())


def _statistics(manifests: list[Manifest], split: str, labels: tuple[LabelSpec, ...]) -> tuple[LabelStatistics | None, ...]:
    def of(label: str) -> list[LabelStatistics]:
        rows = [(one.statistics[split], [each.name for each in one.labels]) for one in manifests if split in one.statistics]
        values = [row[names.index(label)] for row, names in rows if label in names]
        return [value for value in values if value is not None]

    return tuple(pooled(of(label.name)) for label in labels)
