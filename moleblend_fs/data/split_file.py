"""Splits in a file of their own, so that many folds are trained over one store.

    {"format": "moleblend-splits", "version": 1,
     "about": {"kind": "scaffold-balanced", "seed": 0},          how they were made, for checkpoints to say (may lack)
     "inputs": {"esol.csv": "sha256:..."},                       the files whose rows these are (may lack)
     "folds": {"fold0": {"train": [0, 2, ...], "valid": [...], "test": [...]}, ...}}

Numbers are rows of the source, from 0. `{"train": [...], "valid": [...], "test": [...]}` alone is a file of one fold.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from moleblend_fs.data.manifest import SplitInfo
from moleblend_fs.data.record import summary
from moleblend_fs.data.splits import check_split_name
from moleblend_fs.data.store import Store, split_hash
from moleblend_fs.data.typed_json import READING, read_json
from moleblend_fs.data.writer import label_statistics
from moleblend_fs.errors import UserError
from moleblend_fs.files import as_json, write_atomically

FORMAT, VERSION = "moleblend-splits", 1
ONLY_FOLD = "fold0"
PART = 4096
"""Records that are held at a time."""
Fold = Mapping[str, np.ndarray]
"""Split name -> source rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFile:
    """What the file holds.

    Attributes:
        folds: name -> split name -> (n,) int64 source rows.
        about: how they were made.
        inputs: input file -> hash, as in a store's manifest; empty where that is not known.
    """

    folds: Mapping[str, Fold]
    about: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it, a split a line."""
        folds = ",\n".join(
            f"  {as_json(name)}: {{"
            + ",\n   ".join(f"{as_json(split)}: {as_json(np.asarray(rows).tolist())}" for split, rows in fold.items())
            + "}"
            for name, fold in self.folds.items()
        )
        head = as_json({"format": FORMAT, "version": VERSION, "about": dict(self.about), "inputs": dict(self.inputs)}, indent=1)
        write_atomically(path, head.removesuffix("\n}") + f',\n "folds": {{\n{folds}\n }}\n}}\n')

    @classmethod
    def load(cls, path: Path) -> "SplitFile":
        """Read a file; UserError says what is wrong with it."""
        try:
            content = read_json(path)
        except READING as error:
            raise UserError(f"{path}: no readable file of splits ({error}); {HOW}") from error
        if not isinstance(content, dict):
            raise UserError(f"{path}: no file of splits; {HOW}")
        if "folds" not in content:
            content = {"folds": {ONLY_FOLD: content}}
        elif (content.get("format", FORMAT), content.get("version", VERSION)) != (FORMAT, VERSION):
            raise UserError(f"{path}: a file of {content.get('format')} {content.get('version')}; this version reads {FORMAT} {VERSION}")
        folds, about, inputs = (content.get(name, {}) for name in ("folds", "about", "inputs"))
        if not all(isinstance(part, dict) for part in (folds, about, inputs)) or not folds:
            raise UserError(f"{path}: no file of splits; {HOW}")
        read = {str(name): _fold(fold, f"{path}, fold {name!r}") for name, fold in folds.items()}
        return cls(folds=read, about=about, inputs=inputs)

    def fold(self, name: str, path: Path) -> tuple[str, Fold]:
        """A fold and its name; the only one where none is named. UserError names those that there are."""
        if not name and len(self.folds) == 1:
            return next(iter(self.folds.items()))
        if name not in self.folds:
            raise UserError(f"{path}: {f'no fold {name!r}' if name else 'several folds'}; name one with --fold: {', '.join(self.folds)}")
        return name, self.folds[name]


HOW = 'it is JSON: {"train": [rows], "valid": [rows], "test": [rows]}, rows of the source from 0'


def _fold(fold: Any, where: str) -> dict[str, np.ndarray]:
    if not isinstance(fold, dict) or not fold:
        raise UserError(f"{where}: no splits; {HOW}")
    result: dict[str, np.ndarray] = {}
    home: dict[int, str] = {}
    for name, rows in fold.items():
        check_split_name(name, where)
        if not isinstance(rows, list) or any(type(row) is not int or row < 0 for row in rows):
            raise UserError(f"{where}: {name!r} is no list of rows; {HOW}")
        for row in rows:
            if home.setdefault(row, name) != name:
                raise UserError(f"{where}: row {row} is in {home[row]!r} and in {name!r}; a row belongs to one of them")
        result[name] = np.unique(np.array(rows, dtype=np.int64))
    return result


def open_store(path: str | Path, split_file: str | Path | None = None, fold: str = "") -> Store:
    """A store with its own splits, or with those of a fold of a file.

    Rows that gave no molecule are left out of the splits.

    Raises:
        UserError: no such store or fold; the file is of another source's rows, or has rows that the source has not.
    """
    if not split_file:
        if fold:
            raise UserError(f"--fold {fold} goes with --split-file FILE, which has the folds")
        return Store(path)
    store, file = Store(path), SplitFile.load(Path(split_file))
    name, splits = file.fold(fold, Path(split_file))
    here = store.manifest.inputs
    if file.inputs and sorted(file.inputs.values()) != sorted(here.values()):
        made_of = ", ".join(here) or "what is not known"
        named = ", ".join(file.inputs)
        raise UserError(f"{split_file}: rows of {named}, but {store.path} was made of {made_of}, or of another version of it")
    about = {"kind": "file", **file.about, "fold": name}
    return resplit(store, {split: molecules_at(store, rows, f"{split_file}, {split}") for split, rows in splits.items()}, about)


def resplit(store: Store, splits: Mapping[str, np.ndarray], about: dict[str, Any]) -> Store:
    """The same molecules with other splits, given as molecule indices; `about` says how they were made."""
    result = copy.copy(store)
    result._split_arrays = {name: np.asarray(indices, dtype=np.int64) for name, indices in splits.items()}
    result.manifest = replace(
        store.manifest,
        split=about,
        splits={name: SplitInfo(molecules=len(indices), sha256=split_hash(store.source_row[indices])) for name, indices in splits.items()},
        statistics={name: label_statistics(all_labels(store, indices)) for name, indices in splits.items()},
    )
    return result


def all_labels(store: Store, indices: np.ndarray) -> np.ndarray:
    """(n, L) float64 labels of some molecules, NaN where missing, without unpacking more of each record than that."""
    labels = [summary(record).labels for start in range(0, len(indices), PART) for record in store.records(indices[start : start + PART])]
    return np.stack(labels).astype(np.float64) if labels else np.zeros((0, len(store.manifest.labels)))


def molecules_at(store: Store, rows: np.ndarray, where: str) -> np.ndarray:
    """Indices of the molecules of some source rows, in the store's order; UserError for a row that the source does not have."""
    read = store.manifest.rows
    total = int(store.source_row.max()) + 1 if read is None else max(read.read, int(store.source_row.max()) + 1)
    if len(rows) and int(rows.max()) >= total:
        raise UserError(f"{where}: row {int(rows.max())}, but the source of {store.path} has the rows 0 to {total - 1}")
    return np.flatnonzero(np.isin(store.source_row, rows))
