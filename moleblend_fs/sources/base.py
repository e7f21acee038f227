"""What every source of molecules offers to `moleblend preprocess`."""

import bz2
import csv
import gzip
import hashlib
import lzma
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from moleblend_fs.chem.build import BuildOptions
from moleblend_fs.data.graph import Failure, LabelSpec, MolecularGraph
from moleblend_fs.data.splits import Splitter
from moleblend_fs.errors import UserError

HASH_LIMIT = 1 << 30
"""Larger input files are identified by their size alone."""

LONGEST_LINE = 16 << 20
"""Bytes; what has longer lines is no text file."""


class Source(ABC):
    """Rows of raw molecules, read in the parent process, and how to turn one into a graph, in the workers.

    A source is pickled to the workers and must be small: no open files, no tables.

    Attributes:
        name: as in `moleblend preprocess NAME`.
        labels: label columns, in the order of every graph's labels.
        splitter: how the store is split.
        chunk_rows: rows that go to a worker, and into the store, at a time.
    """

    name: str
    labels: tuple[LabelSpec, ...]
    splitter: Splitter
    chunk_rows: int = 256

    @abstractmethod
    def files(self) -> list[Path]:
        """The input files, for the manifest and to tell a resumed run from another one."""

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Every choice that shapes the store, as JSON values."""

    @abstractmethod
    def rows(self, start: int) -> Iterator[tuple[int, Any]]:
        """(row, raw data) from a row on, ascending; raw data are picklable."""

    @abstractmethod
    def parse(self, raw: Any) -> MolecularGraph | Failure:
        """The graph of one row. Bad rows are failures, not exceptions."""

    def num_rows(self) -> int | None:
        """Number of rows where that is known without reading everything."""
        return None


def open_bytes(path: Path) -> IO[bytes]:
    """A file opened for reading, unpacked if its name ends in .gz, .xz or .bz2; UserError if it is not there."""
    if not path.is_file():
        raise UserError(f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
    opener: Any = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}.get(path.suffix, open)
    return opener(path, "rb")


def read_blocks(path: Path, size: int = 1 << 20) -> Iterator[bytes]:
    """The unpacked content of a file; UserError if it is damaged or cut short."""
    try:
        with open_bytes(path) as stream:
            while block := stream.read(size):
                yield block
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, OSError) as error:
        raise UserError(f"{path}: cannot be read to its end ({error}); the file is damaged or cut short, fetch it again") from error


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a text file, with their line ends; bytes that are not UTF-8 become U+FFFD."""
    rest = b""
    for block in read_blocks(path):
        lines = (rest + block).split(b"\n")
        rest = lines.pop()
        if len(rest) > LONGEST_LINE:
            raise UserError(f"{path}: not a text file (a line of more than {LONGEST_LINE >> 20} MB)")
        for line in lines:
            yield line.decode("utf-8", errors="replace") + "\n"
    if rest:
        yield rest.decode("utf-8", errors="replace")


def read_csv(path: Path) -> Iterator[list[str]]:
    """Rows of a CSV file, the header first; empty lines are left out."""
    try:
        for row in csv.reader(read_lines(path)):
            if row:
                yield row
    except csv.Error as error:
        raise UserError(f"{path}: not a CSV file ({error})") from error


def csv_header(path: Path) -> list[str]:
    """Column names of a CSV file; UserError if it is empty or no text."""
    header = next(read_csv(path), None)
    if header is None:
        raise UserError(f"{path}: the file is empty")
    if any("\x00" in name or "\ufffd" in name for name in header):
        raise UserError(f"{path}: not a CSV file (its first line is no text)")
    header[0] = header[0].removeprefix("\ufeff")
    return header


def column_indices(path: Path, header: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Positions of columns; UserError that names the missing ones and those there are."""
    missing = [name for name in wanted if name not in header]
    if missing:
        shown = ", ".join(header[:20]) + (f", ... ({len(header)} in all)" if len(header) > 20 else "")
        raise UserError(f"{path}: no column {', '.join(map(repr, missing))}; the file has: {shown}")
    return [header.index(name) for name in wanted]


def identify(files: Sequence[Path]) -> dict[str, str]:
    """File name -> "sha256:..." of its content, or "bytes:..." for very large files.

    Files of one name in different folders are told apart by their folders' names.
    """
    names = [path.name for path in files]
    result = {}
    for path, name in zip(files, names, strict=True):
        size = path.stat().st_size
        shown = name if names.count(name) == 1 else f"{path.parent.name}/{name}"
        if size > HASH_LIMIT:
            result[shown] = f"bytes:{size}"
        else:
            with open(path, "rb") as stream:
                result[shown] = "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
    return result


def build_options(build: BuildOptions) -> dict[str, Any]:
    """Build options as JSON values."""
    conformers = asdict(build.conformers) if build.conformers.count else None
    return {"hydrogens": "explicit" if build.hydrogens else "none", "conformers": conformers}
