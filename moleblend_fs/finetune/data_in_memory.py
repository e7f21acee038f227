"""Molecules and values of a Python program as the file that `finetune` reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem

from moleblend_fs.errors import UserError
from moleblend_fs.files import CsvWriter, whole_file
from moleblend_fs.predictions.in_memory import entries, frame_of, index_of, is_missing, text_of
from moleblend_fs.sources.smiles_column import find_smiles_column
from moleblend_fs.wording import counted

SMILES = "smiles"
"""What the column of molecules is called that have no table."""


def written(molecules: Any, y: Any, targets: Sequence[str], folder: Path, *, structures: bool) -> Path:
    """A table of all columns, or, where conformers of RDKit molecules are to be learned from, an SD file of them.

    Args:
        molecules, y: see `Finetuner.fit`. targets: names of y's columns.
        structures: whether the model reads structures.

    Raises:
        UserError: there are no molecules, or y does not fit them.
    """
    frame = frame_of(molecules)
    columns: dict[str, Sequence[Any]] = {SMILES: entries(molecules)} if frame is None else dict(frame.columns)
    rows = len(next(iter(columns.values()), ()))
    if not rows:
        raise UserError("no molecules were given")
    if y is None and frame is None:
        raise UserError(f"no values to learn from: give y, or a table with SMILES and {', '.join(targets)}")
    named = find_smiles_column(list(columns))
    if y is not None:
        if named in targets:
            raise UserError(f"{named!r} is the column of SMILES: give y's values another name as target")
        labels = labels_of(y, rows, targets, index_of(molecules))
        columns = {name: values for name, values in columns.items() if name not in labels} | labels
    if structures and (mols := _with_structures(columns[SMILES] if frame is None else frame.molecules())):
        return _write_sdf(folder / "molecules.sdf", mols, {name: values for name, values in columns.items() if name != named})
    with whole_file(folder / "molecules.csv") as stream:
        table = CsvWriter(stream)
        table.writerow(columns)
        table.writerows(zip(*([text_of(value) for value in values] for values in columns.values()), strict=True))
    return folder / "molecules.csv"


def labels_of(y: Any, rows: int, targets: Sequence[str], index: Any = None) -> dict[str, Sequence[Any]]:
    """Target -> the values of all rows. Columns of a table are taken by name, those of an array by their place.

    Args:
        index: that pandas has for the molecules, or None.

    Raises:
        UserError: there are not as many values as molecules and targets, or rows or columns may be meant in another order.
    """
    if index is not None and index_of(y) is not None and not index.equals(y.index) and set(index) == set(y.index):
        raise UserError("y has the index of the molecules in another order; put them in the same one: y.loc[molecules.index]")
    wanted = f"{counted(rows, 'molecule')} and {counted(len(targets), 'target')} ({', '.join(targets)})"
    frame = frame_of(y)
    if frame is not None:
        columns = frame.columns
        if len(targets) > 1 and set(columns) != set(targets):
            raise UserError(f"y has the columns {', '.join(columns)}, and the targets are called {', '.join(targets)}")
        if len(columns) != len(targets) or any(len(values) != rows for values in columns.values()):
            raise UserError(f"y has {counted(len(columns), 'column')} of {len(next(iter(columns.values()), ()))}, for {wanted}")
        return {name: columns[name] if name in columns else next(iter(columns.values())) for name in targets}
    if not hasattr(y, "__len__") and hasattr(y, "__iter__"):
        y = list(y)
    values = np.asarray(y, dtype=object)
    if values.shape not in ((rows, len(targets)), *([(rows,)] if len(targets) == 1 else [])):
        raise UserError(f"y has the shape {values.shape}, for {wanted}")
    return dict(zip(targets, values.reshape(rows, -1).T.tolist(), strict=True))


def _with_structures(molecules: Sequence[Any]) -> list[Chem.Mol]:
    """The molecules, empty ones in place of missing ones, where all are RDKit's and some have a 3D conformer; else none."""
    mols = [Chem.Mol() if is_missing(mol) else mol for mol in molecules]
    every = all(isinstance(mol, Chem.Mol) for mol in mols)
    return mols if every and any(mol.GetNumConformers() and mol.GetConformer().Is3D() for mol in mols) else []


def _write_sdf(path: Path, mols: Sequence[Chem.Mol], items: dict[str, Sequence[Any]]) -> Path:
    """Molecules with their structures, and columns as data items; RDKit molecules among these are left out."""
    with whole_file(path) as stream:
        for i, mol in enumerate(mols):
            stream.write(Chem.MolToMolBlock(mol))
            for name, values in items.items():
                if not isinstance(values[i], Chem.Mol):
                    stream.write(f">  <{name}>\n{' '.join(text_of(values[i]).split())}\n\n")
            stream.write("$$$$\n")
    return path
