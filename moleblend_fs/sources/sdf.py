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
from moleblend_fs.errors import UserError
from moleblend_fs.sources.base import Source, build_options
from moleblend_fs.sources.labels import read_labels
from moleblend_fs.sources.sdf_records import sdf_properties, sdf_records


class SdfRow(NamedTuple):
    """One record of an SD file."""

    name: str
    record: str


class SdfSource(Source):
    """An SD file; data items are labels, and three-dimensional structures are kept.

    Args:
        path: SD file, perhaps packed.
        labels: data items to read as labels.
        build: hydrogens and scaffold (the structures are the file's own; no conformers are made).
    """

    name = "sdf"

    def __init__(self, path: Path, *, labels: Sequence[LabelSpec], build: BuildOptions, splitter: Splitter):
        self.path, self.build, self.splitter = path, build, splitter
        self.labels = tuple(labels)
        first = next(sdf_records(path), None)
        if first is None:
            raise UserError(f"{path}: the file is empty")
        if "M  END" not in first:
            raise UserError(f"{path}: not an SD file (no 'M  END' in its first record)")
        there = sdf_properties(first)
        missing = [label.name for label in labels if label.name not in there]
        # Records may lack an item, but a label that the first one lacks is far more often a typing error.
        if missing:
            raise UserError(f"{path}: no data item {', '.join(map(repr, missing))}; the first record has: {', '.join(there) or 'none'}")

    def files(self) -> list[Path]:
        return [self.path]

    def options(self) -> dict[str, Any]:
        return build_options(self.build) | {"labels": [asdict(label) for label in self.labels]}

    def rows(self, start: int) -> Iterator[tuple[int, SdfRow]]:
        for row, record in enumerate(sdf_records(self.path, start), start):
            yield row, SdfRow(record.split("\n", 1)[0].strip() or f"record {row + 1}", record)

    def parse(self, raw: SdfRow) -> MolecularGraph | Failure:
        items = sdf_properties(raw.record)
        labels = read_labels([items.get(label.name, "") for label in self.labels], self.labels)
        if isinstance(labels, str):
            return Failure(input=raw.name, reason=labels)
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
        return graph_from_mol(mol, smiles=Chem.MolToSmiles(mol), labels=labels, coordinates=xyz, scaffold=scaffold_of(mol, self.build))
