"""Molecules in whatever file they come, row by row, with all that the file says of them: for predictions, without a store."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rdkit import Chem

from moleblend_fs.chem.parse import EXTENSION, silence_rdkit
from moleblend_fs.chem.smiles_to_graph import BuildOptions, graph_from_smiles
from moleblend_fs.data.graph import Failure, MolecularGraph
from moleblend_fs.data.splits import Splitter
from moleblend_fs.errors import UserError
from moleblend_fs.sources.base import Source, build_options
from moleblend_fs.sources.compressed import SUFFIXES, read_blocks
from moleblend_fs.sources.csv_and_smiles import ROWS_WITH_CONFORMERS, SmilesRow
from moleblend_fs.sources.delimited import Row, Table, column_indices
from moleblend_fs.sources.excel_parquet import TextCopy, named
from moleblend_fs.sources.sdf import SdfRow, graph_of_mol, graph_of_record
from moleblend_fs.sources.sdf_records import detected, item_names, sdf_items, sdf_records
from moleblend_fs.sources.smiles_column import find_smiles_column, spellings
from moleblend_fs.sources.text import TextFile
from moleblend_fs.wording import counted

LIST_SUFFIXES = (".smi", ".smiles", ".ism")
NO_LABELS = np.zeros(0)
LACKING = "the model was trained on molecules with explicit hydrogens"
ROWS = ("frame", "index", "_molecules")
"""Attributes that hold rows given in memory."""


class IncomingRow(NamedTuple):
    """A row: the cells that it goes out with, and what `Incoming.parse` makes a molecule of."""

    cells: list[str]
    raw: Any


class Incoming(Source):
    """Rows of a file that become predictions, one each.

    Attributes:
        build: hydrogens and conformers, as a model wants them; see `want`. structures: whether structures of the file itself are read.
        columns: names of the cells of each row.
        smiles_place: which of the cells is to be filled with the SMILES that was made of the row; None for none.
        has_structures: whether the file may hold structures.
        given: the file as it was named; None where there is none. called: what messages call it.
        frame, index: of rows given in memory: their columns by name, and the index that pandas has for them; or None.
    """

    name = "incoming"
    labels = ()
    stored = False
    splitter = Splitter(kind="none")
    columns: Sequence[str] = ()
    smiles_place: int | None = None
    has_structures = False
    given: Path | None = None
    called: str = "the molecules"
    copy: TextCopy | None = None
    frame: Mapping[str, Sequence[Any]] | None = None
    index: Any = None

    build = BuildOptions(keyed=False)
    structures = False

    def __getstate__(self) -> dict[str, Any]:
        """What workers need: not the rows, of which they are sent what they parse."""
        return {name: value for name, value in self.__dict__.items() if name not in ROWS}

    def want(self, build: BuildOptions, *, structures: bool) -> None:
        """Say what molecules are to be made, before any is."""
        self.build, self.structures = replace(build, keyed=False), structures
        if build.conformers.count:
            self.chunk_rows, self.extra_seconds = ROWS_WITH_CONFORMERS, float(build.conformers.timeout)

    def files(self) -> list[Path]:
        return [] if self.given is None else [self.given]

    def options(self) -> dict[str, Any]:
        return build_options(self.build) | {"format": type(self).name, "structures": self.structures}

    @abstractmethod
    def incoming(self) -> Iterator[IncomingRow]:
        """All rows, in the order of the file."""

    def rows(self, start: int) -> Iterator[tuple[int, IncomingRow]]:
        for number, row in enumerate(self.incoming()):
            if number >= start:
                yield number, row

    def atom_order(self, row: int, atoms: int) -> np.ndarray | None:
        """Numbers that the atoms of a row's graph have in the molecule that was given, (atoms,); None where they stand in its order."""
        return None

    def count(self) -> int:
        """Rows, by reading them all."""
        return sum(1 for _ in self.incoming())

    def parse(self, raw: Any) -> MolecularGraph | Failure:
        if raw.problem:
            return Failure(input=raw.smiles, reason=raw.problem)
        return graph_from_smiles(raw.smiles, labels=NO_LABELS, options=self.build)


class IncomingTable(Incoming):
    """A table with a column of SMILES."""

    name = "csv"

    def __init__(self, table: Table, smiles_column: str):
        self._table, self.columns = table, table.header
        (self._smiles,) = column_indices(table.path, table.header, [smiles_column])
        self.notes = (table.note,) if table.note else ()
        self._blank = 0

    def options(self) -> dict[str, Any]:
        return super().options() | {"smiles column": self.columns[self._smiles]}

    def left_out(self) -> dict[str, int]:
        return {"blank": self._blank}

    def incoming(self) -> Iterator[IncomingRow]:
        self._blank = 0
        for row in self._table.rows():
            if row.cells:
                yield IncomingRow(self._table.full_width(row.cells), self._raw(row))
            else:
                self._blank += 1

    def _raw(self, row: Row) -> SmilesRow:
        problem = row.problem
        if not problem and len(row.cells) != len(self.columns):
            problem = f"the row has {counted(len(row.cells), 'column')}, the header {len(self.columns)}"
        return SmilesRow(",".join(row.cells)[:200] if problem else row.cells[self._smiles].strip(), [], problem=problem)


class IncomingList(Incoming):
    """A text file with one "SMILES name" a line; lines that are blank or begin with # are left out."""

    name = "smiles"
    columns = ("smiles", "name")

    def __init__(self, path: Path):
        self._text = TextFile(path)
        self.notes = (self._text.note(),) if self._text.notes else ()
        self._blank = 0

    def left_out(self) -> dict[str, int]:
        return {"blank or comment": self._blank}

    def incoming(self) -> Iterator[IncomingRow]:
        self._blank = 0
        for line in self._text.lines():
            words = line.lstrip("\ufeff").split(maxsplit=1)
            if not words or words[0].startswith("#"):
                self._blank += 1
                continue
            rest = words[1] if len(words) > 1 else ""
            extension = EXTENSION.match(rest)
            smiles = words[0] + (f" {extension[0]}" if extension else "")
            yield IncomingRow([smiles, EXTENSION.sub("", rest, count=1).strip() if extension else rest.strip()], SmilesRow(smiles, []))


class IncomingSdf(Incoming):
    """An SD file: titles and data items of its records, and SMILES made of them; every record is a row of its own."""

    name = "sdf"
    has_structures = True

    def __init__(self, path: Path):
        self._path = path
        item_names(path)  # says what is no SD file
        items = dict.fromkeys(name for record in sdf_records(path) for name in sdf_items(record))
        self._items = list(items)
        taken = {"name", "smiles"} & set(items)
        self.columns = [f"{name} (record)" if name in taken else name for name in ("name", "smiles")] + self._items
        self.smiles_place = 1
        self.notes = (note,) if (note := detected(path)) else ()

    def incoming(self) -> Iterator[IncomingRow]:
        for number, record in enumerate(sdf_records(self._path)):
            title, items = record.split("\n", 1)[0].strip(), sdf_items(record)
            cells = [" | ".join(dict.fromkeys(items.get(name, []))) for name in self._items]
            yield IncomingRow([title, "", *cells], SdfRow(title or f"record {number + 1}", record))

    def parse(self, raw: SdfRow) -> MolecularGraph | Failure:
        return graph_of_record(raw, self.build, labels=NO_LABELS, structures=self.structures, lacking=LACKING)


class IncomingSmiles(Incoming):
    """SMILES that are given one by one."""

    name = "given"
    columns = ("smiles",)

    def __init__(self, smiles: Sequence[str]):
        self._molecules = list(smiles)

    def incoming(self) -> Iterator[IncomingRow]:
        for text in self._molecules:
            yield IncomingRow([text], SmilesRow(text.strip(), []))


class IncomingMols(Incoming):
    """RDKit molecules; the structures of their conformers are read where any has one, else conformers are made as of SMILES."""

    name = "mols"
    columns = ("smiles",)
    smiles_place = 0

    def __init__(self, mols: Sequence[Chem.Mol | None]):
        self._molecules = list(mols)
        self.has_structures = any(c.Is3D() for mol in self._molecules if mol is not None for c in mol.GetConformers())

    def incoming(self) -> Iterator[IncomingRow]:
        for number, mol in enumerate(self._molecules):
            yield IncomingRow([""], (f"molecule {number}", mol))

    def parse(self, raw: tuple[str, Chem.Mol | None]) -> MolecularGraph | Failure:
        shown, mol = raw
        if mol is None:
            return Failure(input=shown, reason="None is given")
        if mol.GetNumAtoms() and all(atom.HasQuery() for atom in mol.GetAtoms()):  # which do not say how many hydrogens they have
            return Failure(input=shown, reason="a pattern, as Chem.MolFromSmarts makes it, not a molecule; Chem.MolFromSmiles makes those")
        if self.build.conformers.count:
            return graph_from_smiles(Chem.MolToSmiles(Chem.RemoveHs(mol)), labels=NO_LABELS, options=self.build)
        return graph_of_mol(mol, self.build, shown=shown, structures=self.structures, lacking=LACKING)

    def atom_order(self, row: int, atoms: int) -> np.ndarray | None:
        mol = self._molecules[row]
        if mol is None or not self.build.conformers.count:
            return None
        bare = Chem.RemoveHs(mol)
        Chem.MolToSmiles(bare)  # which notes in what order it writes the atoms
        written = list(bare.GetPropsAsDict(includePrivate=True, includeComputed=True)["_smilesAtomOutputOrder"])
        return np.array([*written, *range(len(written), atoms)])


def open_incoming(path: Path, *, smiles_column: str | None = None, kind: str | None = None) -> Incoming:
    """Molecules of a file; what it is, is told from its content.

    Args:
        smiles_column: of a table; found by its name (`SMILES_NAMES`) where it is not given.
        kind: "csv", "smiles" or "sdf"; found where it is not given.

    Raises:
        UserError: the file is none of these, or its column of SMILES is not found.
    """
    copy = TextCopy(path)
    with named(copy.path, path):
        incoming = _open_text(copy.path, smiles_column, kind, table=copy.path != path)
    incoming.given, incoming.copy, incoming.called = path, copy, str(path)
    incoming.notes = tuple(line for line in (copy.note, *incoming.notes) if line)
    return incoming


def _open_text(path: Path, smiles_column: str | None, kind: str | None, *, table: bool) -> Incoming:
    """The same of a file that is text, perhaps packed. `table`: it is the copy of one."""
    if smiles_column is not None and kind in ("smiles", "sdf"):
        raise UserError(f"--smiles-column goes with tables, --format {kind} says that {path} is none; leave one of them out")
    if kind == "sdf" or (kind is None and smiles_column is None and not table and _is_sdf(path)):
        return IncomingSdf(path)
    if kind == "smiles":
        return IncomingList(path)
    names = [smiles_column] if smiles_column is not None else spellings()
    read = Table(path, [names])
    if smiles_column is not None:
        return IncomingTable(read, smiles_column)
    if (column := find_smiles_column(read.header)) is not None:
        return IncomingTable(read, column)
    if kind is None and (_bare_suffix(path) in LIST_SUFFIXES or _is_list(path)):
        return IncomingList(path)
    shown = ", ".join(read.header[:20]) + (f", ... ({len(read.header)} in all)" if len(read.header) > 20 else "")
    raise UserError(
        f"{path}: no column is called smiles; the first line has: {shown}. Name the column with --smiles-column, "
        "or give a list of SMILES (one a line, then its name), or an SD file"
    )


def _bare_suffix(path: Path) -> str:
    """The ending of a name, without that of a packed file."""
    return (path.with_suffix("") if path.suffix.lower() in SUFFIXES else path).suffix.lower()


def _is_sdf(path: Path) -> bool:
    """Whether a molecule of an SD file ends in its beginning, and that is no cell of a table, whose first line names a column of SMILES."""
    if b"M  END" not in next(read_blocks(path), b"").replace(b"\0", b""):  # in UTF-16, too
        return False
    with suppress(UserError):
        return find_smiles_column(Table(path, [spellings()]).header) is None
    return True


def _is_list(path: Path) -> bool:
    """Whether the first line that says something begins with a SMILES."""
    silence_rdkit()
    for line in TextFile(path).lines():
        words = line.lstrip("\ufeff").split()
        if words and not words[0].startswith("#"):
            return Chem.MolFromSmiles(words[0]) is not None
    return False
