"""A user's own molecules in SD files, with their structures."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rdkit import Chem

from moleblend_fs.chem.build import BuildOptions, scaffold_of
from moleblend_fs.chem.featurize import graph_from_mol
from moleblend_fs.chem.parse import parse_molblock
from moleblend_fs.data.graph import Failure, LabelSpec, MolecularGraph
from moleblend_fs.data.splits import Splitter
from moleblend_fs.sources.base import Source, build_options
from moleblend_fs.sources.labels import ColumnSurvey, read_labels
from moleblend_fs.sources.sdf_records import detected, item_names, item_texts, sdf_items, sdf_records, survey_items


class SdfRow(NamedTuple):
    """One record of an SD file."""

    name: str
    record: str


class SdfSource(Source):
    """An SD file; data items are labels, and three-dimensional structures are kept.

    Args:
        path: SD file, perhaps packed.
        labels: data items to read as labels.
        split_item: data item with each record's split, or None.
        build: hydrogens and scaffold (the structures are the file's own; no conformers are made).
    """

    name = "sdf"

    def __init__(self, path: Path, *, labels: Sequence[LabelSpec], build: BuildOptions, splitter: Splitter, split_item: str | None = None):
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
        mol = parse_molblock(raw.record, shown=raw.name, hydrogens=self.build.hydrogens)
        if isinstance(mol, Failure):
            return mol
        xyz = None
        if mol.GetNumConformers() and mol.GetConformer().Is3D():
            xyz = mol.GetConformer().GetPositions()[None]
            if not np.isfinite(xyz).all():
                return Failure(input=raw.name, reason="a coordinate is not a number")
            if self.build.hydrogens and any(atom.GetTotalNumHs() for atom in mol.GetAtoms()):
                return Failure(input=raw.name, reason="the structure lacks hydrogens; leave out --hydrogens explicit")
        elif self.build.hydrogens:
            mol = Chem.AddHs(mol)
        return graph_from_mol(
            mol, smiles=Chem.MolToSmiles(mol), labels=labels, coordinates=xyz, scaffold=scaffold_of(mol, self.build), split=split
        )
