"""Bytes of input files, unpacked; what a file is, is told from its content, since names lie (`.csv.GZ`, `.sdfgz`, none at all)."""

import bz2
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from moleblend_fs.errors import UserError
from moleblend_fs.files import why_no_file
from moleblend_fs.wording import counted

PACKED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
"""First bytes of a packed file -> what opens it."""
ZIP = b"PK\x03\x04"
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
"""Of ZIP archives, those that can be unpacked: not Deflate64, which Windows takes for large files."""
SUFFIXES = (".gz", ".gzip", ".xz", ".bz2", ".zip")

FOREIGN = {
    b"PK\x05\x06": "an empty ZIP archive",
    b"PAR1": "a Parquet file: save the table as CSV",
    b"ARROW1": "an Arrow file: save the table as CSV",
    b"FEA1": "a Feather file: save the table as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook of the old kind (.xls), or one with a password: save it as .xlsx without, or the sheet as CSV",
    b"SQLite format 3": "an SQLite database: export the table as CSV",
    b"\x89HDF": "an HDF5 file: save the table as CSV",
    b"\x93NUMPY": "a NumPy array: save it as CSV",
    b"%PDF": "a PDF",
    b"\x28\xb5\x2f\xfd": "packed by zstd: unpack it with `zstd -d`",
    b"7z\xbc\xaf": "a 7-Zip archive: unpack it",
    b"Rar!": "a RAR archive: unpack it",
    b"version https://git-lfs": "a pointer of Git LFS in place of the file: fetch that with `git lfs pull`",
    b"<!DOCTYPE": "a web page, not the file that it links to: download that",
    b"<!doctype": "a web page, not the file that it links to: download that",
    b"<html": "a web page, not the file that it links to: download that",
}
"""First bytes of what is no text -> what it is, and what to do."""
TAR_MARK = slice(257, 262)


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """A file opened for reading, unpacked (gzip, xz, bzip2, a ZIP archive of one file).

    Raises:
        UserError: it is not there, of another kind, damaged or cut short (also while it is read).
    """
    if why := why_no_file(path):
        raise UserError(f"{path}: {why}")
    try:
        with open(path, "rb") as raw:
            start = raw.read(32)
            raw.seek(0)
            _refuse_foreign(path, start)
            if start.startswith(ZIP):
                with zipfile.ZipFile(raw) as archive, archive.open(_only_member(path, archive)) as stream:
                    yield stream
                return
            opener = next((opener for magic, opener in PACKED.items() if start.startswith(magic)), None)
            if opener is None and start and path.suffix.lower() in SUFFIXES:
                raise UserError(f"{path}: not packed, although its name says so: damaged, or plain text: fetch it again, or rename it")
            if opener is None:
                yield raw
                return
            with opener(raw, "rb") as stream:
                yield stream
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path}: cannot be read to its end ({error}); the file is damaged or cut short, fetch it again") from error


def read_blocks(path: Path, size: int = 1 << 20) -> Iterator[bytes]:
    """The unpacked content of a file; UserError as in `open_bytes`, and for what only unpacking shows to be no text."""
    with open_bytes(path) as stream:
        first = True
        while block := stream.read(size):
            if first:
                _refuse_foreign(path, block)
                if block[TAR_MARK] == b"ustar":
                    raise UserError(f"{path}: a tar archive; unpack it and give the file in it")
                first = False
            yield block


def packing(path: Path) -> str:
    """How a file is packed where its name does not say so, for people; "" otherwise."""
    with open(path, "rb") as raw:
        start = raw.read(8)
    names = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", ZIP: "ZIP"}
    found = next((name for magic, name in names.items() if start.startswith(magic)), "")
    return found if path.suffix not in SUFFIXES else ""


def _refuse_foreign(path: Path, start: bytes) -> None:
    for magic, what in FOREIGN.items():
        if start.startswith(magic):
            raise UserError(f"{path}: not a text file but {what}")


def _only_member(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """The one file in an archive, without what macOS adds."""
    names = [info for info in archive.infolist() if not info.is_dir() and "__MACOSX" not in info.filename]
    names = [info for info in names if not info.filename.rsplit("/", 1)[-1].startswith(".")]
    if any(info.filename in ("[Content_Types].xml", "mimetype") for info in names):
        raise UserError(f"{path}: not a text file but an office document: save the sheet as CSV")
    if len(names) != 1:
        shown = ", ".join(info.filename for info in names[:5]) or "none"
        raise UserError(f"{path}: a ZIP archive of {counted(len(names), 'file')} ({shown}); unpack it and give one of them")
    if names[0].compress_type not in METHODS:
        raise UserError(f"{path}: a ZIP archive packed by a method that Python cannot read; unpack it and give the file in it")
    if names[0].flag_bits & 1:
        raise UserError(f"{path}: the ZIP archive has a password; unpack it and give the file in it")
    return names[0]
