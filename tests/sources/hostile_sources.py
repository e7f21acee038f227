"""Sources whose rows do harm to the process that parses them; apart, since every worker process imports this."""

import ctypes
import os
import signal
import threading
from collections.abc import Callable
from typing import ClassVar

from moleblend_fs.chem.smiles_to_graph import BuildOptions
from moleblend_fs.data.splits import Splitter
from moleblend_fs.errors import UserError
from moleblend_fs.sources.base import Source
from moleblend_fs.sources.csv_and_smiles import SmilesFile, SmilesRow, SmilesSource
from tests.support.waiting import until


class Hostile(Source):
    """300 numbers as rows, most of them alkanes, and what some of them do to the process that parses them."""

    name = "hostile"
    labels = ()
    splitter = Splitter(kind="none")
    deeds: ClassVar[dict[int, Callable]] = {}

    def files(self):
        return []

    def options(self):
        return {}

    def rows(self, start):
        return ((i, i) for i in range(start, 300))

    def parse(self, raw):
        if raw in self.deeds:
            self.deeds[raw](raw)
        return SmilesFile.parse(smiles_parser(), SmilesRow("C" * (1 + raw % 7), []))


def smiles_parser():
    source = SmilesFile.__new__(SmilesFile)
    SmilesSource.__init__(source, (), BuildOptions(), Splitter(kind="none"))
    return source


def crash(_):
    ctypes.string_at(0)


def be_killed(_):
    os.kill(os.getpid(), signal.SIGKILL)


def leave(_):
    os._exit(3)


def hang(_):
    threading.Event().wait()


class Deadly(Hostile):
    deeds: ClassVar[dict[int, Callable]] = {0: be_killed, 17: crash, 18: crash, 150: leave, 299: be_killed}


class Hanging(Hostile):
    deeds: ClassVar[dict[int, Callable]] = {5: hang, 260: hang}


class Patient(Hostile):
    """Its first row is done once another one is, far behind it."""

    chunk_rows = 1

    def __init__(self, mark):
        self.mark = mark

    def parse(self, raw):
        if raw == 250:
            self.mark.touch()
        elif raw == 0:
            until(self.mark.exists)
        return super().parse(raw)


def raising(error):
    def deed(_):
        raise error

    return deed


def recurse(n):
    return recurse(n + 1) + 1


class Raising(Hostile):
    deeds: ClassVar[dict[int, Callable]] = {
        1: raising(SystemError("error return without exception set")),
        2: raising(MemoryError()),
        3: recurse,
        4: raising(SystemExit(1)),
        5: raising(UserError("a message")),
        6: raising(OSError("two\nlines \ud83d")),
        7: lambda n: [][n],
        299: raising(AssertionError("x")),
    }


class Unborn(Hostile):
    """Ends the process that it comes to."""

    def __reduce__(self):
        return os._exit, (7,)
