"""Uni-Mol's LMDB files: pickled dicts with `smi`, `target`, `atoms` and `coordinates` (a list of conformers)."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import numpy as np
from rdkit import Chem

from moleblend_fs.chem.build import BuildOptions, scaffold_of
from moleblend_fs.chem.featurize import graph_from_mol
from moleblend_fs.chem.match import atomic_numbers, match_structure, numbers_of, verify
from moleblend_fs.chem.parse import parse_smiles
from moleblend_fs.data.graph import Failure, LabelSpec, MolecularGraph
from moleblend_fs.data.splits import Splitter
from moleblend_fs.errors import UserError
from moleblend_fs.sources.base import Source, build_options
from moleblend_fs.sources.restricted_pickle import loads

SPLIT_FILES = ("train", "valid", "test")
MISSING_CLASS = -1.0
"""How Uni-Mol marks a missing class."""


class Row(NamedTuple):
    """A pickled record, None where its key is missing; where it stands, for messages; its split."""

    value: bytes | None
    where: str
    split: str | None


class UniMolLmdb(Source):
    """See the module.

    Args:
        path: an LMDB file, or a folder with train.lmdb, valid.lmdb, test.lmdb (as many as there are), which give the splits.
        labels: names, kinds and units of the targets; by default "target", or "target_0", ... (regression).
        build: hydrogens and scaffold; conformers are the file's own.
        splitter: how to split a single file; a folder is split as its files say.
    """

    name = "unimol"

    def __init__(self, path: Path, *, labels: Sequence[LabelSpec], build: BuildOptions, splitter: Splitter):
        if path.is_dir():
            self._files = [path / f"{name}.lmdb" for name in SPLIT_FILES if (path / f"{name}.lmdb").is_file()]
            if not self._files:
                raise UserError(f"{path}: no train.lmdb, valid.lmdb or test.lmdb in this folder")
            self.splitter = Splitter(kind="prescribed")
        else:
            self._files = [path]
            self.splitter = splitter
        self.build = build
        self._counts = [_count(file) for file in self._files]
        self.labels = tuple(replace(label, kind=label.kind or "regression") for label in labels) if labels else self._default_labels()

    def _default_labels(self) -> tuple[LabelSpec, ...]:
        for _, row in self.rows(0):
            if row.value is not None:
                count = len(_targets(_record(row)))
                names = ["target"] if count == 1 else [f"target_{i}" for i in range(count)]
                return tuple(LabelSpec(name=name, unit="", kind="regression") for name in names)
        return ()

    def files(self) -> list[Path]:
        return self._files

    def options(self) -> dict[str, Any]:
        return build_options(self.build) | {"labels": [asdict(label) for label in self.labels]}

    def num_rows(self) -> int | None:
        return sum(self._counts)

    def rows(self, start: int) -> Iterator[tuple[int, Row]]:
        first = 0
        for file, count in zip(self._files, self._counts, strict=True):
            if start < first + count:
                split = file.stem if self.splitter.kind == "prescribed" else None
                for key, value in _values(file, count, max(0, start - first)):
                    yield first + key, Row(value, f"{file}, record {key}", split)
            first += count

    def parse(self, raw: Row) -> MolecularGraph | Failure:
        if raw.value is None:
            return Failure(input=raw.where, reason="no record of this number")
        try:
            record = _record(raw)
            smiles = record["smi"]
            labels = self._labels(_targets(record))
            numbers = atomic_numbers([str(symbol) for symbol in record["atoms"]])
            conformers = np.array([np.asarray(c, dtype=np.float64) for c in record["coordinates"]])
        except UserError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            return Failure(input=raw.where, reason=f"not one of Uni-Mol's records ({type(error).__name__}: {error})")
        if conformers.shape[1:] != (len(numbers), 3):
            return Failure(input=str(smiles), reason=f"{len(numbers)} atoms, but coordinates of shape {conformers.shape}")
        mol = parse_smiles(str(smiles))
        return mol if isinstance(mol, Failure) else self._graph(mol, str(smiles), labels, numbers, conformers, raw.split)

    def _labels(self, targets: np.ndarray) -> np.ndarray:
        if len(targets) != len(self.labels):
            raise ValueError(f"{len(targets)} targets, expected {len(self.labels)}")
        classes = np.array([label.kind == "classification" for label in self.labels], dtype=bool)
        targets = np.where(classes & (targets == MISSING_CLASS), np.nan, targets)
        strange = classes & ~np.isin(targets, (0, 1)) & ~np.isnan(targets)
        if strange.any():
            raise ValueError(f"class {targets[strange][0]:g}; a class must be 0, 1 or missing (-1)")
        return targets

    def _graph(
        self, mol: Chem.Mol, smiles: str, labels: np.ndarray, numbers: np.ndarray, conformers: np.ndarray, split: str | None
    ) -> MolecularGraph | Failure:
        full = Chem.AddHs(mol)
        # Uni-Mol adds a flat drawing as last conformer, and uses it alone where embedding failed: that is no structure.
        solid = conformers[(conformers[:, :, 2] != 0).any(axis=1)] if len(numbers) > 2 else conformers
        shown = full if len(numbers) == full.GetNumAtoms() else mol
        if self.build.hydrogens and shown is mol and mol.GetNumAtoms() < full.GetNumAtoms():
            return Failure(input=smiles, reason="the record lacks hydrogens; leave out --hydrogens explicit")
        order = _order(shown, numbers, solid[0] if len(solid) else None)
        if isinstance(order, str):
            return Failure(input=smiles, reason=f"coordinates and SMILES do not match: {order}")
        kept = full if self.build.hydrogens else mol
        return graph_from_mol(
            kept,
            smiles=smiles,
            labels=labels,
            coordinates=solid[:, order[: kept.GetNumAtoms()]] if len(solid) else None,
            scaffold=scaffold_of(mol, self.build),
            split=split,
            note=None if len(solid) else "no conformer: the record has only a flat drawing",
        )


def _order(mol: Chem.Mol, numbers: np.ndarray, xyz: np.ndarray | None) -> np.ndarray | str:
    """Place of every atom of the molecule in the record; atoms usually stand in the molecule's own order."""
    identity = np.arange(len(numbers))
    wanted = numbers_of(mol)
    if len(wanted) != len(numbers):
        return f"{len(wanted)} atoms in the SMILES, {len(numbers)} in the record"
    if xyz is None:
        return identity if np.array_equal(wanted, numbers) else "elements differ, and there is no structure to match"
    if np.array_equal(wanted, numbers) and verify(mol, numbers, xyz, identity) is None:
        return identity
    return match_structure(mol, numbers, xyz)


def _record(row: Row) -> dict[str, Any]:
    assert row.value is not None
    record = loads(row.value, row.where)
    if not isinstance(record, dict):
        raise ValueError(f"a {type(record).__name__}, not a dict")
    return record


def _targets(record: dict[str, Any]) -> np.ndarray:
    target = record.get("target")
    return np.zeros(0) if target is None else np.asarray(target, dtype=np.float64).reshape(-1)


def _open(path: Path) -> lmdb.Environment:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise UserError(f"{path}: not an LMDB file ({error})") from error
    # Reading past the end of a truncated file would kill the process.
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if path.stat().st_size < needed:
        environment.close()
        raise UserError(f"{path}: {path.stat().st_size} bytes of {needed}; the file is cut short, fetch it again")
    return environment


def _count(path: Path) -> int:
    with _open(path) as environment:
        return environment.stat()["entries"]


def _values(path: Path, count: int, start: int) -> Iterator[tuple[int, bytes | None]]:
    """(number, record) of a file, from a number on. Keys are decimal numbers; where they are not, LMDB's order counts."""
    with _open(path) as environment, environment.begin() as transaction:
        if transaction.get(b"0") is not None:
            for number in range(start, count):
                yield number, transaction.get(str(number).encode())
            return
        for number, value in enumerate(transaction.cursor().iternext(keys=False, values=True)):
            if number >= start:
                yield number, value
