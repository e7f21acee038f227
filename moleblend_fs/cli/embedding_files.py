"""Files of representations: arrays of NumPy, tables as text, Parquet."""

import bz2
import gzip
import io
import lzma
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from moleblend_fs.errors import UserError
from moleblend_fs.files import resolved, whole_file

ROW_GROUP = 1024
"""Lines that go into a Parquet file at a time."""
TEXTS = 256 << 20
"""Bytes that an array of texts may take before long ones are cut: NumPy gives each text the room of the longest one."""
NEVER_CUT = 256
"""Characters of a text that stay in any case."""
PACKED: dict[str, Callable[[IO[bytes]], Any]] = {
    ".gz": lambda stream: gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0),
    ".xz": partial(lzma.LZMAFile, mode="wb"),
    ".bz2": partial(bz2.BZ2File, mode="wb"),
}
"""Ending of a name -> a stream that packs into another."""
Rows = Iterator[tuple[Any, Any, str]]
"""(row, float32 values or None, status) of each row; see `embed.embedded_rows`."""


def write_npy(stream: IO[bytes], rows: Rows, shape: tuple[int, int]) -> int:
    """An array with a row for each row; returns how many are NaN."""
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    missing, failed, count = np.full(shape[1], np.nan, "<f4"), 0, 0
    for _, values, _ in rows:
        failed += values is None
        count += 1
        stream.write((missing if values is None else values).tobytes())
    if count != shape[0]:
        raise UserError(f"the input has {count} rows and had {shape[0]} when they were counted; was it changed while it was read?")
    return failed


def write_npz(stream: IO[bytes], rows: Rows, width: int, level: str, out: Path, *, of_store: bool) -> tuple[int, int]:
    """Arrays `values`, `smiles`, `status`, `row` of a store, and `starts` where a row has several; values go through a file beside, not
    through memory.

    Returns:
        (how many rows have no values, how many texts were cut).
    """
    smiles, statuses, numbers, starts, failed = [], [], [], [0], 0
    several = level in ("atom", "distances")
    with tempfile.TemporaryFile(dir=resolved(out).parent) as spool:
        for row, values, status in rows:
            failed += values is None
            smiles.append(row.smiles)
            statuses.append(status)
            if of_store:
                numbers.append(int(row.cells[0]))
            if values is None and not several:
                values = np.full(width, np.nan, "<f4")
            if values is not None:
                spool.write(values.tobytes())
            starts.append(starts[-1] + (0 if values is None else values.size // width))
        spool.flush()
        shape = (starts[-1], width)
        read = np.memmap(spool, "<f4", "r", shape=shape) if starts[-1] else np.zeros(shape, "<f4")
        arrays: dict[str, Any] = {"values": read, "smiles": texts(smiles), "status": texts(statuses)}
        if of_store:
            arrays["row"] = np.array(numbers, np.int64)
        if several:
            arrays["starts"] = np.array(starts)
        np.savez(stream, allow_pickle=False, **arrays)
        cut = sum(len(text) > room(len(starts) - 1) for text in (*smiles, *statuses))
    return failed, cut


def texts(given: Sequence[str]) -> np.ndarray:
    """(n,) texts; where a few long ones would make it larger than `TEXTS`, they are cut and end in three dots."""
    most = room(len(given))
    return np.array([text if len(text) <= most else f"{text[: most - 3]}..." for text in given], dtype=np.str_)


def room(count: int) -> int:
    """Characters that each of so many texts may have; NumPy takes four bytes for each."""
    return max(NEVER_CUT, TEXTS // (4 * max(1, count)))


PLACES = {"atom": ["atom"], "distances": ["atom", "other_atom"]}
"""Level -> columns that say which atom, or pair, a line is of."""


def columns_of(columns: Any, width: int, level: str) -> tuple[list[str], list[str], list[str]]:
    """Names of columns: the input's, places of atoms, numbers; the last one is `status`."""
    places = PLACES.get(level, [])
    names = ["distance"] if level == "distances" else [f"e{i}" for i in range(width)]
    return [f"{name} (input)" if name in {*places, *names, "status"} else name for name in columns], places, names


def lines_of(values: np.ndarray | None, width: int, level: str) -> Iterator[tuple[list[int | None], np.ndarray | None]]:
    """(place, numbers) of each line of a row; one without numbers where the row has no representation."""
    if values is None:
        yield [None] * len(PLACES.get(level, [])), None
        return
    each = values.reshape(-1, width)
    atoms = max(1, int(np.sqrt(len(each)))) if level == "distances" else 1
    for number, numbers in enumerate(each):
        where: dict[str, list[int | None]] = {"atom": [number], "distances": [number // atoms, number % atoms]}
        yield where.get(level, []), numbers


@contextmanager
def whole_text(path: Path) -> Iterator[IO[str]]:
    """A text stream to a file that is whole or not there, packed as its name says."""
    packer = PACKED.get(path.suffix.lower())
    if packer is None:
        with whole_file(path) as text:
            yield text
        return
    with (
        whole_file(path, "wb") as stream,
        packer(stream) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", errors="backslashreplace", newline="") as text,
    ):
        yield text


def write_text(write_row: Callable[[Iterable[Any]], object], rows: Rows, columns: Any, width: int, level: str) -> int:
    """The input's cells, numbers and a status; of atoms and pairs a line each. Returns how many rows have no numbers."""
    given, places, names = columns_of(columns, width, level)
    write_row([*given, *places, *names, "status"])
    failed = 0
    for row, values, status in rows:
        failed += values is None
        for place, numbers in lines_of(values, width, level):
            cells = [""] * width if numbers is None else [f"{value:.7g}" for value in numbers.tolist()]
            write_row([*row.cells, *("" if each is None else each for each in place), *cells, status])
    return failed


def write_parquet(stream: IO[bytes], rows: Rows, columns: Any, width: int, level: str) -> int:
    """The same as a Parquet file: the input's cells as text, places as int64, numbers as float32, null where there are none.

    Names that the input has twice are told apart: readers take no others.
    """
    import pyarrow
    from pyarrow import parquet

    from moleblend_fs.predictions.api import told_apart

    given, places, names = columns_of(columns, width, level)
    kinds = [pyarrow.string()] * len(given) + [pyarrow.int64()] * len(places) + [pyarrow.float32()] * width + [pyarrow.string()]
    schema = pyarrow.schema(list(zip(told_apart([*given, *places, *names, "status"]), kinds, strict=True)))
    failed = 0
    waiting: list[list[Any]] = []
    with parquet.ParquetWriter(stream, schema) as writer:

        def flush() -> None:
            arrays = [pyarrow.array(column, kind) for column, kind in zip(zip(*waiting, strict=True), kinds, strict=True)]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
            waiting.clear()

        for row, values, status in rows:
            failed += values is None
            for place, numbers in lines_of(values, width, level):
                waiting.append([*row.cells, *place, *([None] * width if numbers is None else numbers), status])
                if len(waiting) == ROW_GROUP:
                    flush()
        if waiting:
            flush()
    return failed
