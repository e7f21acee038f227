"""A user's own molecules in SD files, with their structures."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rdkit import Chem

from moleblend_fs.chem.geometry import check_conformers
from moleblend_fs.chem.match import numbers_of
from moleblend_fs.chem.mol_to_graph import graph_from_mol, size_failure
from moleblend_fs.chem.parse import parse_molblock
from moleblend_fs.chem.smiles_to_graph import BuildOptions, scaffold_of
from moleblend_fs.data.graph import Failure, LabelSpec, MolecularGraph
from moleblend_fs.data.splits import Splitter
from moleblend_fs.sources.base import Source, build_options
from moleblend_fs.sources.labels import ColumnSurvey, parse_label, read_labels
from moleblend_fs.sources.registry import SourceCommand
from moleblend_fs.sources.sdf_records import detected, item_names, item_texts, sdf_items, sdf_records, survey_items
from moleblend_fs.sources.shared_options import add_hydrogens, add_labels, add_max_atoms, add_split, build_of, prescribe, splitter_of


class SdfRow(NamedTuple):
    """One record of an SD file."""

    name: str
    record: str


class SdfSource(Source):
    """An SD file; data items are labels, and three-dimensional structures are kept.

    Args:
        path: SD file, perhaps packed.
        labels: data items to read as labels.
        join: whether structures of one molecule become its conformers, wherever in the file they stand, or molecules of their own.
        split_item: data item with each record's split, or None.
        build: hydrogens and scaffold (the structures are the file's own; no conformers are made).
    """

    name = "sdf"

    def __init__(
        self,
        path: Path,
        *,
        labels: Sequence[LabelSpec],
        build: BuildOptions,
        splitter: Splitter,
        split_item: str | None = None,
        join: bool = True,
    ):
        self._join = join
        self.path, self.build, self.splitter, self._split_item = path, build, splitter, split_item
        item_names(path)
        survey = ColumnSurvey(labels, path)
        self._splits, found = survey_items(path, survey, [label.name for label in labels], split_item)
        self.labels = survey.settle()
        self.notes = tuple(note for note in (detected(path), self._splits.note, *found) if note)

    def files(self) -> list[Path]:
        return [self.path]

    def options(self) -> dict[str, Any]:
        options = build_options(self.build) | {"labels": [asdict(label) for label in self.labels]}
        options |= {"same molecule": "conformers" if self._join else "apart"}
        return options if self._split_item is None else options | {"split item": self._split_item}

    def rows(self, start: int) -> Iterator[tuple[int, SdfRow]]:
        for row, record in enumerate(sdf_records(self.path, start), start):
            yield row, SdfRow(record.split("\n", 1)[0].strip() or f"record {row + 1}", record)

    def parse(self, raw: SdfRow) -> MolecularGraph | Failure:
        items, split = sdf_items(raw.record), None
        try:
            labels = read_labels(item_texts(items, [label.name for label in self.labels]), self.labels)
            if self._split_item is not None:
                split = self._splits(item_texts(items, [self._split_item])[0])
        except ValueError as error:
            return Failure(input=raw.name, reason=str(error))
        if isinstance(labels, str):
            return Failure(input=raw.name, reason=labels)
        if self._split_item is not None and split is None:
            return Failure(input=raw.name, reason="no split given")
        return graph_of_record(raw, self.build, labels=labels, split=split, join=self._join)


def graph_of_record(
    raw: SdfRow,
    build: BuildOptions,
    *,
    labels: np.ndarray,
    split: str | None = None,
    join: bool = False,
    structures: bool = True,
    lacking: str = "leave out --hydrogens explicit",
) -> MolecularGraph | Failure:
    """The graph of a record, with its structure.

    Args:
        join: whether structures of one molecule are to become its conformers, see `MolecularGraph.canonical_order`.
        structures: False leaves the structure out.
        lacking: what to do where hydrogens are asked for and the structure has none.
    """
    if not raw.record.strip():
        return Failure(input=raw.name, reason="the record is empty")
    mol = parse_molblock(raw.record, shown=raw.name, hydrogens=build.hydrogens)
    if isinstance(mol, Failure):
        return mol
    if (wrong_size := size_failure(mol, raw.name, build.max_atoms)) is not None:
        return wrong_size
    xyz, note = None, None
    if structures:
        full = mol if build.hydrogens else parse_molblock(raw.record, shown=raw.name, hydrogens=True)
        xyz, note = structure(mol if isinstance(full, Failure) else full, raw.record)
    missing = build.hydrogens and any(atom.GetTotalNumHs() for atom in mol.GetAtoms())
    if missing and xyz is not None:
        return Failure(input=raw.name, reason=f"the structure lacks hydrogens; {lacking}")
    if missing:
        mol = Chem.AddHs(mol)
    elif xyz is not None and isinstance(full, Chem.Mol):
        xyz = xyz[:, places(mol, full)]
    smiles = Chem.MolToSmiles(mol)
    order = list(mol.GetPropsAsDict(includePrivate=True, includeComputed=True)["_smilesAtomOutputOrder"])
    return graph_from_mol(
        mol,
        smiles=smiles,
        canonical_order=order if join and not (xyz is None and note is None) else None,
        labels=labels,
        coordinates=xyz,
        scaffold=scaffold_of(mol, build),
        split=split,
        note=note,
        max_atoms=build.max_atoms,
        keyed=build.keyed,
    )


def graph_of_mol(mol: Chem.Mol, build: BuildOptions, *, shown: str, structures: bool, lacking: str) -> MolecularGraph | Failure:
    """The graph of an RDKit molecule, with the structures of its conformers; arguments as of `graph_of_record`."""
    full = Chem.Mol(mol)
    try:
        Chem.SanitizeMol(full)
    except Chem.MolSanitizeException as error:
        return Failure(input=shown, reason=f"RDKit: {' '.join(str(error).split())}")
    kept = full if build.hydrogens else Chem.RemoveHs(full)
    xyz, note = None, None
    found = [conformer.GetPositions() for conformer in full.GetConformers() if conformer.Is3D()] if structures else []
    if found:
        xyz, note = check_conformers(full, np.stack(found))
    missing = build.hydrogens and any(atom.GetTotalNumHs() for atom in kept.GetAtoms())
    if missing and xyz is not None:
        return Failure(input=shown, reason=f"the structure lacks hydrogens; {lacking}")
    if missing:
        kept = Chem.AddHs(kept)
    elif xyz is not None:
        xyz = xyz[:, places(kept, full)]
    smiles = Chem.MolToSmiles(kept)
    return graph_from_mol(kept, smiles=smiles, labels=np.zeros(0), coordinates=xyz, note=note, max_atoms=build.max_atoms, keyed=build.keyed)


def structure(mol: Chem.Mol, record: str) -> tuple[np.ndarray | None, str | None]:
    """The structure of a record as (1, n, 3), None where it has none or a drawing; and why what it calls one is none, or None.

    A flat structure that does not say whether it is a drawing is taken for one, unless all its bonds, those to hydrogens included,
    say otherwise.
    """
    if not mol.GetNumConformers():
        return None, None
    conformer = mol.GetConformer()
    xyz = conformer.GetPositions()[None]
    if conformer.Is3D():
        return check_conformers(mol, xyz)
    dimensions = (record.split("\n", 2)[1:2] or [""])[0][20:22].strip()
    # Bonds to atoms without an element ("*", lists of elements) cannot be measured.
    whole = mol.GetNumBonds() > 0 and all(atom.GetAtomicNum() and not atom.GetTotalNumHs() for atom in mol.GetAtoms())
    return (check_conformers(mol, xyz)[0] if whole and not dimensions else None), None


def places(mol: Chem.Mol, full: Chem.Mol) -> np.ndarray:
    """(n,) which atoms of a record are those of the molecule that was read from it without hydrogens, in the same order."""
    wanted, there = (list(zip(numbers_of(m).tolist(), m.GetConformer().GetPositions().tolist(), strict=True)) for m in (mol, full))
    result, place = [], -1
    for atom in wanted:
        place = there.index(atom, place + 1)
        result.append(place)
    return np.array(result, dtype=np.int64)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_labels(parser, "a data item")
    parser.add_argument(
        "--same-molecule",
        choices=("conformers", "apart"),
        default="conformers",
        help="records of one molecule, wherever they stand: conformers of it, with the labels of the first, or molecules of their own",
    )
    parser.add_argument("--split-column", metavar="NAME", help="data item that says train, valid or test")
    add_hydrogens(parser, "none")
    add_max_atoms(parser)
    add_split(parser, None, ("random", "scaffold", "prescribed", "none"))


def _open(args: argparse.Namespace) -> Source:
    path = Path(args.input)
    names = item_names(path) if args.label else []
    prescribe(args)
    return SdfSource(
        path,
        labels=[parse_label(text, names) for text in args.label],
        build=build_of(args),
        splitter=splitter_of(args),
        split_item=args.split_column,
        join=args.same_molecule == "conformers",
    )


COMMAND = SourceCommand(
    name="sdf",
    summary="your SD file; structures are kept",
    where="SD file, perhaps packed (.gz, .xz, .bz2, .zip)",
    add_arguments=_add_arguments,
    open=_open,
)
