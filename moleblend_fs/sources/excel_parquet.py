"""Excel workbooks and Parquet files as text, row by row, for everything that reads tables; told from their content, perhaps packed."""

import importlib.util
import os
import shutil
import tempfile
import weakref
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import IO, Any

from moleblend_fs.errors import UserError
from moleblend_fs.files import CsvWriter, whole_file
from moleblend_fs.sources.compressed import PACKED, ZIP, open_bytes

READERS = {"excel": ("an Excel workbook", "openpyxl"), "parquet": ("a Parquet file", "pyarrow")}
"""Kind -> (what it is, the package that reads it)."""
WORKBOOK = "xl/workbook.xml"
"""What is in the archive that an Excel workbook is."""
PARQUET = b"PAR1"
BATCH = 4096
"""Rows of a Parquet file that are held in memory."""


class TextCopy:
    """A file as text: itself, or, of a workbook or Parquet file, a copy in a temporary folder, which lasts as long as this object.

    Attributes:
        path: of the text. note: what is to be said of it, "" for nothing.
    """

    def __init__(self, path: Path):
        if not frame_kind(path):
            self.path, self.note = path, ""
            return
        folder = tempfile.mkdtemp(prefix="moleblend.")
        try:
            # Its own ending: one of a packed file would have the text unpacked.
            self.path, self.note = as_text(path, Path(folder) / f"{path.name}.csv")
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        weakref.finalize(self, _remove, folder, os.getpid())


def _remove(folder: str, process: int) -> None:
    """Remove the folder of a copy when nothing reads it any more; not in a worker, which shares it."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def frame_kind(path: Path) -> str:
    """A key of `READERS`, or "" where a file is neither, or is not there."""
    if not path.is_file():
        return ""
    with open(path, "rb") as stream:
        start = stream.read(8)
    if start.startswith(PARQUET):
        return "parquet"
    if start.startswith(ZIP) and (names := _names(path)) is not None and WORKBOOK in names:
        return "excel"
    return "packed" if _holds_one(path, start) else ""


def _names(path: Path) -> list[str] | None:
    """What is in a ZIP archive; None where it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return None


def _holds_one(path: Path, start: bytes) -> bool:
    """Whether what is packed is a workbook or Parquet file."""
    if not start.startswith((ZIP, *PACKED)):
        return False
    try:
        with open_bytes(path) as stream:
            return stream.read(4) in (PARQUET, ZIP)
    except UserError:
        return False  # told by whoever reads it as text


def as_text(path: Path, copy: Path) -> tuple[Path, str]:
    """(the file itself, "") or, of a workbook or Parquet file, (`copy`, which is written as CSV, what is to be said of it).

    Numbers keep all their digits, dates are written as ISO 8601 has them, and empty cells are empty. Formulas that no program has computed
    stand in the copy as formulas, so that whoever reads the column says so.

    Raises:
        UserError: it is damaged, has no table, or the package that reads it is not installed.
    """
    kind = frame_kind(path)
    if not kind:
        return path, ""
    if kind == "packed":
        inner = copy.with_name(f"{copy.name}.unpacked")
        with open_bytes(path) as packed, whole_file(inner, "wb") as stream:
            shutil.copyfileobj(packed, stream)
        try:
            with named(inner, path):
                return as_text(inner, copy) if frame_kind(inner) in READERS else (path, "")
        finally:
            inner.unlink()
    what, package = READERS[kind]
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{path}: {what}; reading it needs {package}: pip install {package}, or save the table as CSV")
    # openpyxl refuses names with other endings, so that streams are given; one for values and one for formulas.
    with open(path, "rb") as one, open(path, "rb") as two, damage_told(path, what):
        rows, note = _workbook(path, (one, two)) if kind == "excel" else (_parquet(path), "")
        with whole_file(copy) as stream:
            CsvWriter(stream).writerows(_told(rows, path, what))
    return copy, note


@contextmanager
def damage_told(path: Path, what: str) -> Iterator[None]:
    """Whatever the libraries raise for a damaged file becomes a UserError; OSError too, which is not of the file that is written."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        told = str(error).splitlines()[0] if str(error) else repr(error)
        raise UserError(f"{path}: {what} that cannot be read ({told}); it is damaged, or save the table as CSV") from error


def _told(rows: Iterator[list[str]], path: Path, what: str) -> Iterator[list[str]]:
    with damage_told(path, what):
        yield from rows


@contextmanager
def named(copy: Path, path: Path | str) -> Iterator[None]:
    """Messages about the copy of a file name the file, or say what it is a copy of."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(str(copy), str(path))) from error


def _workbook(path: Path, streams: tuple[IO[bytes], IO[bytes]]) -> tuple[Iterator[list[str]], str]:
    """Rows of the first sheet that has any, from its header on; and which one that is, where there are several."""
    import openpyxl

    books = [openpyxl.load_workbook(stream, read_only=True, data_only=stream is streams[0]) for stream in streams]
    for sheet in (sheet for book in books for sheet in book.worksheets):
        sheet.reset_dimensions()  # which some programs write too small: cells beyond them would not be read
    filled = [name for name in books[0].sheetnames if _first(books[0][name]) is not None]
    if not filled:
        raise UserError(f"{path}: the workbook has no sheet with cells")
    note = f"{path}: sheet {filled[0]!r} is read; others are {', '.join(map(repr, filled[1:]))}" if len(filled) > 1 else ""
    sheets = [book[filled[0]] for book in books]
    return _trimmed(_cells(value, formula) for value, formula in zip(*(sheet.iter_rows() for sheet in sheets), strict=False)), note


def _first(sheet: Any) -> Any:
    """The first row of a sheet that has a value, None where there is none (or the sheet is a chart)."""
    rows = sheet.iter_rows(values_only=True) if hasattr(sheet, "iter_rows") else ()
    return next((row for row in rows if any(value is not None for value in row)), None)


def _cells(values: tuple[Any, ...], formulas: tuple[Any, ...]) -> list[str]:
    """A row as text."""
    return [_text(value if value.value is not None else formula) for value, formula in zip(values, formulas, strict=False)]


def _text(cell: Any) -> str:
    """What a cell holds; of a day that is shown without the time, which is midnight then, the day alone."""
    if cell.value is None:
        return ""
    if not isinstance(cell.value, datetime):
        return str(cell.value)
    return cell.value.isoformat(" ").removesuffix("" if "h" in cell.number_format.lower() else " 00:00:00")


def _trimmed(rows: Iterator[list[str]]) -> Iterator[list[str]]:
    """Rows from the header on, without empty cells beyond its end; an empty row is a blank line."""
    width = 0
    for row in rows:
        filled = max((place for place, cell in enumerate(row, 1) if cell), default=0)
        width = width or filled
        if width:
            yield [*row[: max(width, filled)], *[""] * (width - len(row))] if filled else []


def _parquet(path: Path) -> Iterator[list[str]]:
    """The names of the columns, then the rows."""
    from pyarrow import parquet

    file = parquet.ParquetFile(path)
    if not file.schema_arrow.names:
        raise UserError(f"{path}: a Parquet file without columns")
    batches = (zip(*map(_texts, batch.columns), strict=True) for batch in file.iter_batches(batch_size=BATCH))
    return chain([list(file.schema_arrow.names)], map(list, chain.from_iterable(batches)))


def _texts(column: Any) -> list[str]:
    """The cells of a column; of values that Arrow has no text for, as Python writes them."""
    import pyarrow

    try:
        values = column.cast(pyarrow.string()).to_pylist()
    except pyarrow.ArrowException:
        values = column.to_pylist()
    return ["" if value is None else str(value) for value in values]
