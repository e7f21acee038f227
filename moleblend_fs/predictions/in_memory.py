"""Molecules as Python programs hold them: lists, arrays, and tables of pandas, polars and Arrow, none of which is imported."""

import numbers
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem

from moleblend_fs.errors import UserError
from moleblend_fs.sources.compressed import SUFFIXES
from moleblend_fs.sources.molecules_to_predict import LIST_SUFFIXES, Incoming, IncomingMols, IncomingSmiles, open_incoming
from moleblend_fs.sources.smiles_column import find_smiles_column
from moleblend_fs.wording import counted

FILE_ENDINGS = (".csv", ".tsv", ".tab", ".txt", ".xlsx", ".xls", ".parquet", ".sdf", ".sd", ".mol", *LIST_SUFFIXES, *SUFFIXES)
"""Of names, in lower case; no SMILES ends so."""
MISSING = ("NAType", "NaTType")
"""Types of pandas that stand for what is missing; comparing them gives no truth value."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Columns of one length by name, and the index that pandas has for their rows (else None)."""

    columns: dict[str, Sequence[Any]]
    index: Any = None

    def molecules(self) -> Sequence[Any]:
        """The column of SMILES, or where none is called so the only one of RDKit molecules.

        Raises:
            UserError: there is none.
        """
        name = find_smiles_column(list(self.columns))
        of_mols = [other for other, values in self.columns.items() if _are_mols(values)] if name is None else []
        if name is None and len(of_mols) != 1:
            raise UserError(
                f"the table has no column called smiles; it has: {', '.join(self.columns)}. Rename the one that has them, or give it alone"
            )
        return self.columns[name or of_mols[0]]


def is_missing(value: Any) -> bool:
    """Whether a value stands for none: None, NaN, and the like of pandas and NumPy."""
    if value is None or type(value).__name__ in MISSING:
        return True
    return isinstance(value, numbers.Number | Decimal | np.generic) and bool(value != value)


def frame_of(given: Any) -> Frame | None:
    """What is given as columns, or None where it is no table.

    Raises:
        UserError: columns of different lengths, or two of one name.
    """
    index = None
    if isinstance(given, Mapping):
        pairs = [(str(name), entries(values, f"column {str(name)!r}")) for name, values in given.items()]
    elif hasattr(given, "iloc") and hasattr(given, "columns"):  # pandas
        names = [_name(name) for name in given.columns]
        pairs, index = [(name, given.iloc[:, i].array) for i, name in enumerate(names)], given.index
    elif hasattr(given, "column_names") and hasattr(given, "column"):  # Arrow
        pairs = [(str(name), given.column(i).to_pylist()) for i, name in enumerate(given.column_names)]
    elif hasattr(given, "get_columns") and hasattr(given, "columns"):  # polars
        pairs = [(str(column.name), column.to_list()) for column in given.get_columns()]
    else:
        return None
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise UserError(f"the table has {counted(len(twice), 'name')} of columns twice: {', '.join(twice)}; give each a name of its own")
    if len({len(values) for _, values in pairs}) > 1:
        raise UserError(f"columns of different lengths: {', '.join(f'{name} ({len(values)})' for name, values in pairs)}")
    return Frame(dict(pairs), index)


def entries(given: Any, what: str = "the molecules") -> list[Any]:
    """What is given as a list: of a sequence, a column of a table, or an array of one column.

    Raises:
        UserError: it is no sequence, has no order, or has more columns.
    """
    if isinstance(given, str | bytes | set | frozenset | Mapping) or not isinstance(given, Iterable) or getattr(given, "ndim", 1) == 0:
        why = ", which has no order" if isinstance(given, set | frozenset) else ""
        raise UserError(f"{what}: a list or another sequence is needed, this is a {type(given).__name__}{why}")
    shape = getattr(given, "shape", (0,))
    if len(shape) > 1:
        if shape[1:] != (1,):
            raise UserError(f"{what}: an array of one column is needed, this has the shape {tuple(shape)}")
        given = np.asarray(given, dtype=object)[:, 0]
    for method in ("to_pylist", "to_list", "tolist"):  # Arrow, polars and pandas, NumPy
        if hasattr(given, method):
            return list(getattr(given, method)())
    return list(given)


def only_column(given: Any) -> list[Any]:
    """Molecules of a sequence, or of a table of one column, whatever that is called; UserError for a table of more."""
    frame = frame_of(given)
    if frame is None:
        return entries(given)
    if len(frame.columns) != 1:
        raise UserError(f"a table of one column of SMILES is needed, this has {len(frame.columns)}")
    return list(next(iter(frame.columns.values())))


def index_of(given: Any) -> Any:
    """The index that pandas has for rows; None for what is not of pandas."""
    return given.index if hasattr(given, "iloc") else None


def taken(molecules: Any) -> Incoming:
    """What was given, as rows: a SMILES or an RDKit molecule, a sequence of either, a table with a column of them, or the path of a file.

    Raises:
        UserError: it is none of these.
    """
    if isinstance(molecules, Incoming):
        return molecules
    if isinstance(molecules, os.PathLike) or (isinstance(molecules, str) and is_path(molecules)):
        return open_incoming(Path(molecules))
    if isinstance(molecules, str | bytes | Chem.Mol):
        molecules = [molecules]
    frame = frame_of(molecules)
    incoming = _incoming(entries(molecules) if frame is None else frame.molecules())
    incoming.frame, incoming.index = (None, index_of(molecules)) if frame is None else (frame.columns, frame.index)
    return incoming


def is_path(text: str) -> bool:
    """Whether a text names a file or, with a slash, a folder that is there, or ends as only names of files do."""
    return (os.path.exists(text) and (os.sep in text or not os.path.isdir(text))) or text.lower().endswith(FILE_ENDINGS)


def _incoming(given: Iterable[Any]) -> Incoming:
    """Rows of SMILES, or of RDKit molecules, some perhaps missing; UserError where there are both, or something else."""
    values = [_readable(each) for each in given]
    there = [(place, each) for place, each in enumerate(values) if each is not None]
    kind = Chem.Mol if there and isinstance(there[0][1], Chem.Mol) else str
    for place, each in there:
        if not isinstance(each, kind):
            wrong = f"number {place}, counted from 0, is of the type {type(each).__name__}"
            raise UserError(f"molecules must all be SMILES, or all be RDKit molecules; {wrong}")
    if kind is str:
        return IncomingSmiles(["" if each is None else str(each) for each in values])
    return IncomingMols(values)


def _readable(value: Any) -> Any:
    """None for what is missing, and text for bytes and numbers, which are then reported as no SMILES."""
    if is_missing(value):
        return None
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value) if isinstance(value, numbers.Number) else value


def text_of(value: Any) -> str:
    """A value as the cell of a table: empty where it is missing, floats with all their digits, RDKit molecules as SMILES."""
    if is_missing(value):
        return ""
    if isinstance(value, Chem.Mol):
        return Chem.MolToSmiles(value)
    if isinstance(value, float | np.floating):
        return repr(float(value))
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _name(name: Any) -> str:
    """A column's name as text; of several levels those that say something, with blanks between them."""
    return " ".join(str(part) for part in name if str(part)) if isinstance(name, tuple) else str(name)


def _are_mols(values: Sequence[Any]) -> bool:
    there = [each for each in values if not is_missing(each)]
    return bool(there) and all(isinstance(each, Chem.Mol) for each in there)
