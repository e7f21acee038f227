"""Skeletons of the sets that `--exclude` names: stores, tables with a column of SMILES, lists of SMILES, SD files."""

from collections.abc import Iterator
from pathlib import Path

from rdkit import Chem

from moleblend_fs.chem.parse import parse_molblock, silence_rdkit
from moleblend_fs.chem.skeleton import skeleton, skeleton_of
from moleblend_fs.data.graph import Failure
from moleblend_fs.data.store import Store
from moleblend_fs.data.stored_smiles import smiles_of_store
from moleblend_fs.errors import UserError
from moleblend_fs.sources.delimited import Table
from moleblend_fs.sources.excel_parquet import TextCopy, named
from moleblend_fs.sources.sdf_records import sdf_records
from moleblend_fs.sources.text import TextFile
from moleblend_fs.wording import counted, verb

SMILES_COLUMNS = ("smiles", "mol", "canonical_smiles", "smi")
"""Names of a column of SMILES, in lower case."""
WRITTEN = tuple(write(name) for name in SMILES_COLUMNS for write in (str.lower, str.upper, str.capitalize))
SD_ENDS = (".sdf", ".sd", ".mol")


def skeletons_of(places: list[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """(skeleton -> name of the first set that has it, notes) of stores and files.

    Raises:
        UserError: one cannot be read, or has no molecule.
    """
    silence_rdkit()
    found: dict[str, str] = {}
    notes = []
    for place in map(Path, places):
        unreadable = total = 0
        for key in _skeletons(place):
            total += 1
            if key is None:
                unreadable += 1
            else:
                found.setdefault(key, place.name)
        if unreadable == total:
            raise UserError(
                f"--exclude {place}: no molecule could be read of {counted(total, 'row')}; it must be a store, a table, a "
                "list or an SD file"
            )
        if unreadable:
            notes.append(
                f"--exclude {place}: {unreadable:,} of {counted(total, 'row')} {verb(unreadable, 'is no molecule', 'are no molecules')}"
            )
    return found, tuple(notes)


def _skeletons(place: Path) -> Iterator[str | None]:
    if place.is_dir():
        yield from (skeleton_of(smiles) for _, smiles in smiles_of_store(Store(place)))
    elif any(name.lower() in SD_ENDS for name in place.suffixes[-2:]):
        for block in sdf_records(place):
            mol = parse_molblock(block, shown="")
            yield None if isinstance(mol, Failure) or not mol.GetNumAtoms() else skeleton(mol)
    else:
        yield from map(skeleton_of, _smiles(place))


def _smiles(given: Path) -> Iterator[str]:
    """The column of SMILES of a table, or the first words of a list."""
    copy = TextCopy(given)
    with named(copy.path, given):
        yield from _smiles_of_text(copy.path)


def _smiles_of_text(path: Path) -> Iterator[str]:
    table = Table(path, [WRITTEN])
    column = next((i for i, name in enumerate(table.header) if name.lower() in SMILES_COLUMNS), None)
    if column is not None:
        yield from (row.cells[column].strip() if len(row.cells) > column else "" for row in table.rows() if row.cells)
        return
    first = table.header[0].split()[:1]
    if len(table.header) > 1 and (not first or Chem.MolFromSmiles(first[0]) is None):
        raise UserError(f"--exclude {path}: no column of SMILES ({', '.join(SMILES_COLUMNS)}); it has: {', '.join(table.header[:20])}")
    for line in TextFile(path).lines():
        words = line.lstrip("\ufeff").split(maxsplit=1)
        if words and not words[0].startswith("#"):
            yield words[0]
