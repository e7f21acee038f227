"""What a store says of itself: `manifest.json` beside its records."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moleblend_fs.data.accounting import RowCounts
from moleblend_fs.data.duplicates import Duplicates
from moleblend_fs.data.graph import FEATURISATION_VERSION, LabelSpec
from moleblend_fs.data.typed_json import READING, from_json, read_json
from moleblend_fs.errors import UserError
from moleblend_fs.files import write_atomically

REMEDY = "copy the store again, or run `moleblend preprocess` again"
FORMAT_VERSION = 2
"""Raised whenever a record's bytes or the folder's layout change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitInfo:
    """One split: how many molecules, and the SHA-256 of its sorted source rows (equal splits have equal hashes)."""

    molecules: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedRows:
    """Rows that became conformers of an earlier row's molecule: how many, and the SHA-256 of the array that lists them."""

    rows: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelStatistics:
    """Count, mean, standard deviation (population), minimum and maximum of a label over one split's present values."""

    count: int
    mean: float
    std: float
    min: float
    max: float


def pooled(parts: list[LabelStatistics]) -> LabelStatistics | None:
    """Of parts that share no molecule, from those of each: the variance is the mean of all variances and of the means' own."""
    if len(parts) < 2:
        return parts[0] if parts else None
    count = sum(part.count for part in parts)
    mean = math.fsum(part.count * part.mean for part in parts) / count
    variance = math.fsum(part.count * (part.std**2 + (part.mean - mean) ** 2) for part in parts) / count
    return LabelStatistics(
        count=count, mean=mean, std=math.sqrt(variance), min=min(part.min for part in parts), max=max(part.max for part in parts)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything needed to know what is in a store and how to repeat it.

    Attributes:
        source: name of the source (pcqm4mv2, qm9, ...).
        options: what `moleblend preprocess` was given, as JSON values.
        inputs: file name -> SHA-256 of each input ("bytes:..." of those over 1 GiB in stores of former versions).
        molecules: records in the store.
        failures: rows listed in failures.csv.
        conformers: conformers in all; molecules_with_3d: molecules that have at least one.
        labels: label columns, in the order of a record's labels.
        split: how the splits were made, e.g. {"kind": "scaffold", "chirality": False}.
        splits: split name -> SplitInfo.
        statistics: split name -> one LabelStatistics per label (None where no value is present).
        records_sha256: hash over all records' bytes in order.
        records_bytes: size of the record file, so that a truncated copy is seen at once.
        versions: library versions that made the store.
        converged: conformers whose minimisation ended at a minimum of the force field; None where none were made.
        rows: where every row of the source went.
        joined: rows that became conformers of an earlier row's molecule; None where there are none, or a former version made the store.
        duplicates: molecules that are in the store more than once.
        notes: what was found out about the input and said to the user, a sentence each.
    """

    source: str
    options: dict[str, Any]
    inputs: dict[str, str]
    molecules: int
    failures: int
    conformers: int
    molecules_with_3d: int
    labels: tuple[LabelSpec, ...]
    split: dict[str, Any]
    splits: dict[str, SplitInfo]
    statistics: dict[str, tuple[LabelStatistics | None, ...]]
    records_sha256: str
    records_bytes: int
    versions: dict[str, str] = field(default_factory=dict)
    converged: int | None = None
    rows: RowCounts | None = None
    joined: JoinedRows | None = None
    duplicates: Duplicates = field(default_factory=Duplicates)
    notes: tuple[str, ...] = ()
    format_version: int = FORMAT_VERSION
    featurisation_version: int = FEATURISATION_VERSION

    def save(self, path: Path) -> None:
        write_atomically(path, json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """Read and check a manifest; UserError if it is unreadable or of another version."""
        try:
            raw = read_json(path)
            found = (raw["format_version"], raw["featurisation_version"])
        except (*READING, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: not a readable store manifest ({error}); copy it again, or run `moleblend preprocess` again"
            ) from error
        ours = (FORMAT_VERSION, FEATURISATION_VERSION)
        if found != ours:
            newer = any(type(theirs) is int and theirs > own for theirs, own in zip(found, ours, strict=True))
            made = "A newer version of this package made it: install that, or run" if newer else "Run"
            raise UserError(
                f"{path.parent}: store of format {found[0]}, featurisation {found[1]}; this version reads format "
                f"{FORMAT_VERSION}, featurisation {FEATURISATION_VERSION}. {made} `moleblend preprocess` again on its source."
            )
        try:
            manifest = from_json(cls, raw)
            manifest._check()
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: damaged store manifest ({error}); {REMEDY}") from error
        return manifest

    def _check(self) -> None:
        """ValueError if what it says contradicts itself."""
        counts = {
            "molecules": self.molecules,
            "failures": self.failures,
            "conformers": self.conformers,
            "records_bytes": self.records_bytes,
        }
        sizes = {f"split {name}": info.molecules for name, info in self.splits.items()}
        for name, count in {**counts, **sizes, "molecules_with_3d": self.molecules_with_3d}.items():
            if count < 0 or (name in sizes and count > self.molecules):
                raise ValueError(f"{name}: {count} of {self.molecules} molecules")
        if self.molecules_with_3d > min(self.molecules, self.conformers) or self.molecules == 0:
            raise ValueError(f"{self.molecules} molecules, {self.molecules_with_3d} of them with {self.conformers} conformers")
        if strange := [name for name in self.splits if not name or "/" in name or "\0" in name]:
            raise ValueError(f"a split named {strange[0]!r}")
        if self.statistics.keys() != self.splits.keys() or any(len(s) != len(self.labels) for s in self.statistics.values()):
            raise ValueError("statistics of other splits or labels than it has")

    def label_index(self, name: str) -> int:
        """Position of a label; UserError names the labels that there are."""
        names = [label.name for label in self.labels]
        if name not in names:
            raise UserError(f"no label {name!r} in this store; it has: {', '.join(names) or 'none'}")
        return names.index(name)
