"""Uni-Mol's LMDB files: pickled dicts with `smi`, `target`, `atoms` and `coordinates` (a list of conformers)."""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rdkit import Chem

from moleblend_fs.chem.geometry import FARTHEST, Geometry
from moleblend_fs.chem.match import match_structure, numbers_of, verify
from moleblend_fs.chem.mol_to_graph import graph_from_mol
from moleblend_fs.chem.parse import parse_smiles
from moleblend_fs.chem.smiles_to_graph import BuildOptions, scaffold_of
from moleblend_fs.data.graph import Failure, LabelSpec, MolecularGraph
from moleblend_fs.data.splits import Splitter
from moleblend_fs.errors import UserError
from moleblend_fs.sources.base import Source, build_options
from moleblend_fs.sources.labels import UNSAID, ColumnSurvey, check_values, parse_label
from moleblend_fs.sources.registry import SourceCommand
from moleblend_fs.sources.shared_options import add_hydrogens, add_labels, add_max_atoms, add_split, build_of, splitter_of
from moleblend_fs.sources.unimol_records import RECORD, count_records, elements_of, read_record, records_of, targets_if_any, targets_of
from moleblend_fs.wording import counted

SPLIT_FILES = ("train", "valid", "test")
MISSING_CLASS = -1.0
"""How Uni-Mol marks a missing class."""
NEEDED = ("smi", "atoms", "coordinates")
SURVEYED = 10_000
"""Records at the beginning of each file that tell how many targets there are, and of what kind."""


class Row(NamedTuple):
    """A pickled record; where it stands, for messages; its split."""

    value: bytes
    where: str
    split: str | None


class UniMolLmdb(Source):
    """See the module.

    Args:
        path: an LMDB file, or a folder with train.lmdb, valid.lmdb, test.lmdb (as many as there are), which give the splits.
        labels: names, kinds and units of the targets, in order, or one that stands for all; by default "target", or "target_0", ...
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
        self._counts = [count_records(file) for file in self._files]
        self.labels = self._survey(labels)

    def _survey(self, asked: Sequence[LabelSpec]) -> tuple[LabelSpec, ...]:
        """The labels as asked for, with their kinds; UserError if they are not as many as the targets, or need a kind."""
        found = [
            targets for file in self._files for _, _, value in islice(records_of(file), SURVEYED) if (targets := targets_if_any(value))
        ]
        if not found:
            return tuple(replace(label, kind=label.kind or "regression") for label in asked)
        count = Counter(map(len, found)).most_common(1)[0][0]
        specs = _named(asked, count, self._files[0])
        columns = list(zip(*(row for row in found if len(row) == count), strict=True))
        marks = [_marks_missing(column, spec) for column, spec in zip(columns, specs, strict=True)]
        note = f" ({sum(marks)} x -1, Uni-Mol's mark of a missing class, left out)" if sum(marks) else ""
        survey = ColumnSurvey(specs, f"{self._files[0].parent if len(self._files) > 1 else self._files[0]}{note}")
        texts = [_texts(column, spec, bool(mark)) for column, spec, mark in zip(columns, specs, marks, strict=True)]
        survey.add(list(zip(*texts, strict=True)))
        try:
            return survey.settle()
        except UserError as error:
            hint = f"; for all {count} targets at once, --label target:classification" if count > 1 else ""
            raise UserError(f"{error}{hint}") from error

    def files(self) -> list[Path]:
        return self._files

    def options(self) -> dict[str, Any]:
        return build_options(self.build) | {"labels": [asdict(label) for label in self.labels]}

    def shown(self, raw: Row) -> str:
        return raw.where

    def num_rows(self) -> int | None:
        return sum(self._counts)

    def rows(self, start: int) -> Iterator[tuple[int, Row]]:
        row = 0
        for file, count in zip(self._files, self._counts, strict=True):
            if start < row + count:
                split = file.stem if self.splitter.kind == "prescribed" else None
                for place, key, value in records_of(file, max(0, start - row)):
                    yield row + place, Row(value, f"{file}, record {key}", split)
            row += count

    def parse(self, raw: Row) -> MolecularGraph | Failure:
        try:
            record = read_record(raw.value)
            if missing := [name for name in NEEDED if name not in record]:
                raise ValueError(f"it has no {', '.join(missing)}")
            smiles = record["smi"]
            if not isinstance(smiles, str):
                raise ValueError(f"its smi is of type {type(smiles).__name__}, not text")
            labels = self._labels(targets_of(record))
            numbers = elements_of(record["atoms"])
            conformers = np.array([np.asarray(c, dtype=np.float64) for c in record["coordinates"]])
        except UserError as error:
            return Failure(input=raw.where, reason=str(error).removeprefix(f"{RECORD}: "))
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            return Failure(input=raw.where, reason=f"not one of Uni-Mol's records ({type(error).__name__}: {error})")
        if conformers.shape == (len(numbers), 3):  # one conformer, not in a list
            conformers = conformers[None]
        if conformers.shape[1:] != (len(numbers), 3):
            return Failure(input=smiles, reason=f"{counted(len(numbers), 'atom')}, but coordinates of shape {conformers.shape}")
        mol = parse_smiles(smiles)
        return mol if isinstance(mol, Failure) else self._graph(mol, smiles, labels, numbers, conformers, raw.split)

    def _labels(self, targets: Sequence[float]) -> np.ndarray:
        """Of a record; one without targets is a molecule without labels, as in the test sets of competitions."""
        if not targets:
            return np.full(len(self.labels), np.nan)
        if len(targets) != len(self.labels):
            raise ValueError(f"{counted(len(targets), 'target')}, expected {len(self.labels)}")
        classes = np.array([label.kind == "classification" for label in self.labels])
        values = np.where(classes & (np.array(targets) == MISSING_CLASS), np.nan, targets)
        if (problem := check_values(values, self.labels)) is not None:
            raise ValueError(problem)
        return values

    def _graph(
        self, mol: Chem.Mol, smiles: str, labels: np.ndarray, numbers: np.ndarray, conformers: np.ndarray, split: str | None
    ) -> MolecularGraph | Failure:
        full = Chem.AddHs(mol)
        shown = full if len(numbers) == full.GetNumAtoms() else mol
        if self.build.hydrogens and shown is mol and mol.GetNumAtoms() < full.GetNumAtoms():
            return Failure(input=smiles, reason="the record lacks hydrogens; leave out --hydrogens explicit")
        if len(numbers) != shown.GetNumAtoms():
            reason = f"{counted(shown.GetNumAtoms(), 'atom')} in the SMILES, {len(numbers)} in the record"
            return Failure(input=smiles, reason=f"coordinates and SMILES do not match: {reason}")
        with np.errstate(over="ignore"):
            conformers = conformers.astype(np.float32)
        order = _order(shown, numbers, conformers)
        if isinstance(order, str):
            return Failure(input=smiles, reason=f"coordinates and SMILES do not match: {order}")
        placed = conformers[:, order]
        # Uni-Mol adds a flat drawing as last conformer of each molecule, which is no structure, and no news.
        if len(placed) > 1 and len(numbers) > 2 and placed[:-1, :, 2].any() and not placed[-1, :, 2].any():
            placed = placed[:-1]
        return graph_from_mol(
            full if self.build.hydrogens else mol,
            smiles=smiles,
            labels=labels,
            coordinates=placed if len(placed) else None,
            measured=shown,
            scaffold=scaffold_of(mol, self.build),
            split=split,
            note=None if len(placed) else "no conformer: the record has none",
            max_atoms=self.build.max_atoms,
        )


def _order(mol: Chem.Mol, numbers: np.ndarray, conformers: np.ndarray) -> np.ndarray | str:
    """Place of every atom of the molecule in the record, as its first conformer that is one says.

    Atoms usually stand in the molecule's own order, and are taken to where no conformer is solid: drawings, points, no numbers.
    """
    identity = np.arange(len(numbers))
    geometry, same = Geometry(mol), np.array_equal(numbers_of(mol), numbers)
    solid = [xyz for xyz in conformers if (np.abs(xyz) <= FARTHEST).all() and (len(xyz) < 3 or (xyz[:, 2] != xyz[0, 2]).any())]
    planar = [xyz for xyz in conformers if np.isfinite(xyz).all() and len(xyz) > 2 and (xyz[:, 2] == xyz[0, 2]).all()]
    if same and any(geometry.problem(xyz) is None and verify(mol, numbers, xyz, identity) is None for xyz in solid + planar):
        return identity
    reason = None
    for xyz in solid:
        order = match_structure(mol, numbers, xyz)
        if not isinstance(order, str) and geometry.problem(xyz[order]) is None:
            return order
        reason = reason or (order if isinstance(order, str) else geometry.problem(xyz[order]))
    if reason is None and same:
        return identity
    return reason or "elements differ, and there is no structure to match"


def _named(asked: Sequence[LabelSpec], count: int, path: Path) -> Sequence[LabelSpec]:
    """Labels for so many targets."""
    if len(asked) == count:
        return asked
    if len(asked) > 1:
        raise UserError(
            f"{path}: its records have {counted(count, 'target')}, but --label is given {len(asked)} times; give it for each, "
            "or once for all"
        )
    first = asked[0] if asked else LabelSpec(name="target", unit="", kind=UNSAID)
    return [first] if count == 1 else [replace(first, name=f"{first.name}_{i}") for i in range(count)]


def _marks_missing(column: Sequence[float], spec: LabelSpec) -> int:
    """How often a column says with -1 that a class is missing: where it is of classes, or may be, having nothing but 0 and 1 besides."""
    may_be = spec.kind == "classification" or (spec.kind == UNSAID and all(v in (MISSING_CLASS, 0, 1) or v != v for v in column))
    return column.count(MISSING_CLASS) if may_be else 0


def _texts(column: Sequence[float], spec: LabelSpec, mark: bool) -> list[str]:
    """A column as cells of a table; empty where it says nothing of a kind: missing values, and one value only."""
    if spec.kind == UNSAID and len({value for value in column if value == value}) < 2:
        return [""] * len(column)
    return ["" if value != value or (mark and value == MISSING_CLASS) else f"{value:.17g}" for value in column]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_labels(parser, "a target, in the order of the file,")
    add_hydrogens(parser, "none")
    add_max_atoms(parser)
    add_split(parser, "random", ("random", "scaffold", "none"))


def _open(args: argparse.Namespace) -> Source:
    labels = [parse_label(text) for text in args.label]
    return UniMolLmdb(Path(args.input), labels=labels, build=build_of(args), splitter=splitter_of(args))


COMMAND = SourceCommand(
    name="unimol",
    summary="Uni-Mol's LMDB files, with their conformers",
    where="LMDB file, or folder with train.lmdb, valid.lmdb, test.lmdb (which then are the splits)",
    add_arguments=_add_arguments,
    open=_open,
)
