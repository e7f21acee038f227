"""QM9: 130,831 small molecules with DFT structures and 12 targets (Ramakrishnan et al., Scientific Data 1, 140022, 2014).

Read from the installed package `qm9pack`, from one CSV file with its column names, or from the original `gdb9.sdf` and its CSV.
"""

import argparse
import importlib.util
from abc import abstractmethod
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rdkit import Chem

from moleblend_fs.chem.match import atomic_numbers, match_structure, numbers_of, verify
from moleblend_fs.chem.mol_to_graph import graph_from_mol
from moleblend_fs.chem.parse import parse_molblock, parse_smiles
from moleblend_fs.data.graph import Failure, LabelSpec, MolecularGraph
from moleblend_fs.data.splits import Splitter
from moleblend_fs.errors import UserError
from moleblend_fs.shared_options import seed
from moleblend_fs.sources.base import Source
from moleblend_fs.sources.delimited import Table, column_indices, full_rows
from moleblend_fs.sources.labels import read_number
from moleblend_fs.sources.qm9_targets import ATOM_REFERENCES, ENERGY_PER_ATOM, HARTREE_IN_MEV, TARGETS, Target
from moleblend_fs.sources.registry import SourceCommand
from moleblend_fs.sources.sdf_records import sdf_records
from moleblend_fs.sources.shared_options import add_hydrogens, add_together
from moleblend_fs.sources.text import TextFile
from moleblend_fs.wording import counted

COUNTS = (110_000, 10_000, 10_831)
"""Training, validation and test molecules of the 130,831."""
SPLITTER = Splitter(kind="random", fractions=(COUNTS[0] / sum(COUNTS), COUNTS[1] / sum(COUNTS), COUNTS[2] / sum(COUNTS)))
_PUNCTUATION = str.maketrans("", "", "[]'\" ")


def open_qm9(path: str, *, hydrogens: bool = True, splitter: Splitter = SPLITTER) -> "QM9":
    """The reader for what stands at a path: "qm9pack" (the installed package), a CSV file, or a folder with gdb9.sdf and its CSV."""
    if path == "qm9pack":
        spec = importlib.util.find_spec("qm9pack")  # importing it would need pkg_resources
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                "the package qm9pack is not installed; pip install qm9pack (104 MB), or give a folder with gdb9.sdf and its CSV"
            )
        folder = Path(spec.submodule_search_locations[0]) / "data"
        return QM9Table([folder / f"qm9_part{i}.csv" for i in (1, 2, 3)], hydrogens=hydrogens, splitter=splitter, size=sum(COUNTS))
    place = Path(path)
    if not place.is_dir():
        return QM9Table([place], hydrogens=hydrogens, splitter=splitter)
    sdf = place / "gdb9.sdf"
    tables = [place / name for name in ("qm9.csv", "gdb9.sdf.csv") if (place / name).is_file()]
    if not sdf.is_file() or not tables:
        raise UserError(f"{place}: needs gdb9.sdf and gdb9.sdf.csv (from DeepChem's gdb9.tar.gz), or give qm9pack or a CSV file")
    return QM9Sdf(sdf, tables[0], hydrogens=hydrogens, splitter=splitter)


class QM9(Source):
    """What both forms of the data share: targets, units, references.

    Args:
        hydrogens: whether hydrogens are atoms of the graph, as the paper has it.
        splitter: how to split; at random in the paper's proportions by default.
    """

    name = "qm9"
    labels = tuple(LabelSpec(name=t.name, unit=t.unit, kind="regression") for t in TARGETS)

    def __init__(self, *, hydrogens: bool, splitter: Splitter):
        self.hydrogens = hydrogens
        self.splitter = splitter

    def options(self) -> dict[str, Any]:
        return {"hydrogens": "explicit" if self.hydrogens else "none"}

    @abstractmethod
    def structure(self, raw: Any) -> tuple[Chem.Mol, np.ndarray]:
        """The molecule, all hydrogens explicit, and its coordinates (n, 3) in the same order; ValueError says why not."""

    def parse(self, raw: Any) -> MolecularGraph | Failure:
        try:
            mol, xyz = self.structure(raw)
            numbers = numbers_of(mol)
            labels = labels_in_units([_target(text, target) for text, target in zip(raw.targets, TARGETS, strict=True)], numbers)
        except ValueError as error:
            return Failure(input=raw.shown, reason=str(error))
        heavy = mol if self.hydrogens else Chem.RemoveHs(mol)
        smiles = raw.smiles or Chem.MolToSmiles(Chem.RemoveHs(mol))
        kept = None if self.hydrogens else np.flatnonzero(numbers != 1)
        graph = graph_from_mol(heavy, smiles=smiles, labels=labels, coordinates=xyz[None], measured=mol, kept=kept)
        if isinstance(graph, MolecularGraph) and graph.coordinates is None:  # the labels are of the structure
            return Failure(input=raw.shown, reason=(graph.note or "").removeprefix("no conformer: "))
        return graph


def _target(text: str, target: Target) -> float:
    try:
        return read_number(text)
    except ValueError as error:
        raise ValueError(f"{target.name} {error}") from error


def labels_in_units(targets: list[float], numbers: np.ndarray) -> np.ndarray:
    """The file's values in the paper's units, energies relative to the free atoms; (12,) float64.

    Raises:
        ValueError: an element without reference energy, or an implausible atomisation energy.
    """
    result = np.array(targets)
    for i, target in enumerate(TARGETS):
        if target.name in ATOM_REFERENCES:
            reference = ATOM_REFERENCES[target.name]
            strange = set(numbers.tolist()) - set(reference)
            if strange:
                raise ValueError(f"no reference energy for atomic number {min(strange)}; QM9 has H, C, N, O and F")
            result[i] -= sum(reference[z] for z in numbers.tolist())
        if target.in_hartree:
            result[i] *= HARTREE_IN_MEV
        if target.name in ATOM_REFERENCES and not ENERGY_PER_ATOM[0] < result[i] / len(numbers) < ENERGY_PER_ATOM[1]:
            raise ValueError(
                f"{target.name} is {result[i] / len(numbers):.0f} meV per atom after subtracting the free atoms: not plausible"
            )
    return result


class _TableRow(NamedTuple):
    shown: str
    smiles: str
    elements: str
    positions: str
    targets: list[str]


class QM9Table(QM9):
    """QM9 as CSV files with qm9pack's columns."""

    def __init__(self, tables: list[Path], *, hydrogens: bool, splitter: Splitter, size: int | None = None):
        super().__init__(hydrogens=hydrogens, splitter=splitter)
        self._tables, self._size, self._blank = tables, size, 0
        self._wanted = ["SMILES", "Elements", "XYZ_Ang", *(t.column for t in TARGETS)]
        self._read = [Table(table, [[name] for name in self._wanted]) for table in tables]
        self._places = [column_indices(table.path, table.header, self._wanted) for table in self._read]
        self.notes = tuple(table.note for table in self._read if table.note)

    def files(self) -> list[Path]:
        return self._tables

    def num_rows(self) -> int | None:
        return self._size

    def rows(self, start: int) -> Iterator[tuple[int, _TableRow]]:
        return islice(enumerate(self._rows()), start, None)

    def _rows(self) -> Iterator[_TableRow]:
        self._blank = 0
        for table, (smiles, elements, positions, *targets) in zip(self._read, self._places, strict=True):
            for line in full_rows(table):
                if line is None:
                    self._blank += 1
                else:
                    yield _TableRow(line[smiles], line[smiles], line[elements], line[positions], [line[t] for t in targets])

    def left_out(self) -> dict[str, int]:
        return {"blank": self._blank}

    def structure(self, raw: _TableRow) -> tuple[Chem.Mol, np.ndarray]:
        numbers = atomic_numbers(raw.elements.translate(_PUNCTUATION).split(","))
        flat = [float(x) for x in raw.positions.translate(_PUNCTUATION).replace("*^", "e").split(",")]
        if len(flat) != 3 * len(numbers):
            raise ValueError(f"{len(numbers)} elements but {len(flat)} coordinates")
        return _matched(raw.smiles, numbers, np.array(flat).reshape(-1, 3))


def _matched(smiles: str, numbers: np.ndarray, xyz: np.ndarray) -> tuple[Chem.Mol, np.ndarray]:
    mol = parse_smiles(smiles)
    if isinstance(mol, Failure):
        raise ValueError(mol.reason)
    mol = Chem.AddHs(mol)
    order = match_structure(mol, numbers, xyz)
    if isinstance(order, str):
        raise ValueError(f"structure and SMILES do not match: {order}")
    return mol, xyz[order]


class _SdfRow(NamedTuple):
    shown: str
    smiles: str
    block: str
    targets: list[str]
    excluded: bool


class QM9Sdf(QM9):
    """QM9 as `gdb9.sdf` with `gdb9.sdf.csv` or DeepChem's `qm9.csv` (which has SMILES), row by row.

    Molecules listed in `uncharacterized.txt`, if that is there, are left out, as failures.
    """

    def __init__(self, sdf: Path, table: Path, *, hydrogens: bool, splitter: Splitter):
        super().__init__(hydrogens=hydrogens, splitter=splitter)
        self._sdf, self._table = sdf, table
        self._excluded_file = sdf.with_name("uncharacterized.txt")
        names = [t.name for t in TARGETS]
        self._read = Table(table, [[name] for name in names])
        self._targets = column_indices(table, self._read.header, names)
        self._smiles = column_indices(table, self._read.header, ["smiles"])[0] if "smiles" in self._read.header else None
        self._blank = 0
        self.notes = (self._read.note,) if self._read.note else ()

    def files(self) -> list[Path]:
        return [path for path in (self._sdf, self._table, self._excluded_file) if path.is_file()]

    def rows(self, start: int) -> Iterator[tuple[int, _SdfRow]]:
        excluded = self._excluded()
        records = sdf_records(self._sdf, start)
        for row, line in islice(enumerate(self._lines()), start, None):
            block = next(records, None)
            if block is None:
                raise UserError(f"{self._sdf}: has {counted(row, 'record')}, {self._table.name} has more; fetch both files again")
            text = "" if self._smiles is None else line[self._smiles]
            name = block.split("\n", 1)[0].strip() or f"record {row + 1}"
            yield row, _SdfRow(text or name, text, block, [line[t] for t in self._targets], row + 1 in excluded)
        if next(records, None) is not None:
            raise UserError(f"{self._sdf}: has more records than {self._table.name} has rows; fetch both files again")

    def _lines(self) -> Iterator[list[str]]:
        self._blank = 0
        for line in full_rows(self._read):
            if line is None:
                self._blank += 1
            else:
                yield line

    def left_out(self) -> dict[str, int]:
        return {"blank": self._blank}

    def _excluded(self) -> set[int]:
        """Numbers, from 1, of the molecules that failed the data set's own consistency check."""
        if not self._excluded_file.is_file():
            return set()
        first = (line.split()[0] for line in TextFile(self._excluded_file).lines() if line.strip())
        return {int(word) for word in first if word.isdigit()}

    def structure(self, raw: _SdfRow) -> tuple[Chem.Mol, np.ndarray]:
        if raw.excluded:
            raise ValueError("listed in uncharacterized.txt: SMILES and structure disagree")
        mol = parse_molblock(raw.block, shown=raw.shown, hydrogens=True)
        if isinstance(mol, Failure):
            raise ValueError(mol.reason)
        numbers = numbers_of(mol)
        xyz = mol.GetConformer().GetPositions()
        if raw.smiles:
            return _matched(raw.smiles, numbers, xyz)
        if (reason := verify(mol, numbers, xyz, np.arange(len(numbers)))) is not None:
            raise ValueError(f"structure and bonds of the SD file do not match: {reason}")
        return mol, xyz


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_hydrogens(parser, "explicit")
    parser.add_argument(
        "--split-seed", type=seed, default=0, metavar="SEED", help="seed of the random split 110,000 : 10,000 : 10,831 (default 0)"
    )
    add_together(parser)


def _open(args: argparse.Namespace) -> Source:
    splitter = Splitter(kind="random", fractions=SPLITTER.fractions, seed=args.split_seed, together=args.split_together)
    return open_qm9(args.input, hydrogens=args.hydrogens == "explicit", splitter=splitter)


COMMAND = SourceCommand(
    name="qm9",
    summary="QM9: DFT structures and 12 targets",
    where="qm9pack (the installed package), a CSV file with its columns, or a folder with gdb9.sdf and gdb9.sdf.csv",
    add_arguments=_add_arguments,
    open=_open,
)
