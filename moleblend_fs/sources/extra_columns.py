"""What a source says of its rows besides molecules and labels: the user's own identifiers, for the tables that are made of a store."""

from collections.abc import Iterator
from pathlib import Path

from moleblend_fs.chem.parse import EXTENSION
from moleblend_fs.data.manifest import Manifest
from moleblend_fs.errors import UserError
from moleblend_fs.sources.base import content_hash
from moleblend_fs.sources.delimited import Table
from moleblend_fs.sources.excel_parquet import TextCopy, named
from moleblend_fs.sources.sdf_records import sdf_records
from moleblend_fs.sources.text import TextFile

Cells = Iterator[tuple[int, list[str]]]
"""(source row, its cells), rows ascending."""


def carried_columns(path: Path, manifest: Manifest) -> tuple[list[str], Cells]:
    """(column names, cells of every row) of the file that a store was made from.

    A table gives its columns, a list of SMILES the names behind them, an SD file the titles of its records.

    Raises:
        UserError: the store was made from another file, or from a source that has no such rows.
    """
    if not path.is_file():
        raise UserError(f"--source {path}: no such file; give the file that the store was made from")
    of_size = f"bytes:{path.stat().st_size}"  # which is what former versions noted of files over 1 GiB
    digest = of_size if of_size in manifest.inputs.values() else content_hash(path)
    if digest not in manifest.inputs.values():
        made_from = ", ".join(f"{name} ({other[:23]})" for name, other in manifest.inputs.items()) or "nothing that is known"
        raise UserError(f"--source {path}: not the file that the store was made from; it was {made_from}, this is {digest[:23]}")
    if manifest.source in ("csv", "moleculenet", "moses"):
        copy = TextCopy(path)
        with named(copy.path, path):
            table = Table(copy.path, [manifest.options["columns"][:1]])
        return table.header, _of_table(table, copy)
    if manifest.source == "smiles":
        return ["name"], _of_list(path)
    if manifest.source == "sdf":
        return ["title"], ((row, [record.split("\n", 1)[0].strip()]) for row, record in enumerate(sdf_records(path)))
    raise UserError(f"--source: a store made by `moleblend preprocess {manifest.source}` has no names or columns to carry; leave it out")


def _of_table(table: Table, copy: TextCopy) -> Cells:
    """Rows count without blank ones; cells that a row lacks are empty, and those that it has too many stand in the last one.

    Args:
        copy: that the table is read of, which is there as long as it is held.
    """
    for row, line in enumerate(line for line in table.rows() if line.cells):
        yield row, table.full_width(line.cells)


def _of_list(path: Path) -> Cells:
    """What stands behind the SMILES of each line, without an extension of CXSMILES."""
    for row, line in enumerate(TextFile(path).lines()):
        words = line.lstrip("\ufeff").split(maxsplit=1)
        if words and not words[0].startswith("#"):
            yield row, [EXTENSION.sub("", words[1], count=1).strip() if len(words) > 1 else ""]
