"""A list of small numbers for each molecule, of any length: two files, the lists end to end and where each begins."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from moleblend_fs.errors import UserError

LISTS, STARTS = "lists.u2", "starts.i8"
"""All lists end to end, uint16; and (molecules + 1,) int64, where in it each begins, and the end of the last."""


class ListFile:
    """Reads lists of a folder: safe in forked processes, and pickled by its path.

    Args:
        folder: where the files are. molecules: how many lists there are.

    Raises:
        ValueError: a file is missing, or not as long as it must be.
    """

    def __init__(self, folder: Path, molecules: int):
        self.folder = folder
        sizes = [path.stat().st_size if path.is_file() else -1 for path in (folder / STARTS, folder / LISTS)]
        if sizes[0] != 8 * (molecules + 1):
            raise ValueError(f"{STARTS} {_told(sizes[0])} instead of {8 * (molecules + 1)}")
        self._files: tuple[int, int] | None = None
        if sizes[1] != (wanted := 2 * self._start(molecules)):
            raise ValueError(f"{LISTS} {_told(sizes[1])} instead of {wanted}")

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_files": None}

    def _read(self, which: int, length: int, place: int) -> bytes:
        if self._files is None:
            self._files = os.open(self.folder / STARTS, os.O_RDONLY), os.open(self.folder / LISTS, os.O_RDONLY)
        read = os.pread(self._files[which], length, place)
        if len(read) != length:
            raise UserError(f"{self.folder / (STARTS, LISTS)[which]}: cut short while it was read; copy the store again")
        return read

    def _start(self, index: int) -> int:
        return int.from_bytes(self._read(0, 8, 8 * index), "little")

    def of(self, indices: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """The lists of some molecules, int32 each."""
        found = []
        for index in indices:
            start, end = np.frombuffer(self._read(0, 16, 8 * int(index)), "<i8").tolist()
            found.append(np.frombuffer(self._read(1, 2 * (end - start), 2 * start), "<u2").astype(np.int32))
        return found


def _told(size: int) -> str:
    return "is missing" if size < 0 else f"has {size} bytes"


def write_lists(folder: Path, lists: Iterable[Sequence[int]]) -> int:
    """The files of such a folder, from numbers below 65,536, molecule by molecule; how many molecules have none."""
    with open(folder / LISTS, "wb") as values, open(folder / STARTS, "wb") as starts:
        place = empty = 0
        starts.write(place.to_bytes(8, "little"))
        for numbers in lists:
            place, empty = place + len(numbers), empty + (not len(numbers))
            values.write(np.array(numbers, "<u2").tobytes())
            starts.write(place.to_bytes(8, "little"))
        for stream in (values, starts):
            stream.flush()
            os.fsync(stream.fileno())
    return empty


def padded(lists: Sequence[np.ndarray]) -> np.ndarray:
    """(n, longest) int32, a row for each list, 0 behind its end."""
    rows = np.zeros((len(lists), max((len(numbers) for numbers in lists), default=0)), np.int32)
    for row, numbers in zip(rows, lists, strict=True):
        row[: len(numbers)] = numbers
    return rows
