"""Conformers that earlier runs made, by all that they depend on: the SMILES, the options and the versions.

FOLDER/conformers.sqlite   a line for each molecule and options, which any number of processes read and write

What is taken is, in every bit, what would have been made: results that a time limit may have shaped are not kept. The file may be deleted
at any time. Nothing that goes wrong with it keeps conformers from being made.
"""

import functools
import hashlib
import json
import os
import sqlite3
import time
import zlib
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import rdkit
from rdkit import Chem

from moleblend_fs import __version__
from moleblend_fs.chem.conformers import ConformerOptions, Embedded, embed

FILE = "conformers.sqlite"
LIMIT = 2_000_000_000
"""Bytes of the file, about; when there are more, the older half of the molecules goes."""
ENTRIES_BETWEEN_LOOKS = 4096
"""New molecules after which the size is looked at."""
PATIENCE = 5.0
"""Seconds to wait for other processes, which write for milliseconds."""
UNHURRIED = 0.25
"""Share of the time limit within which no result is shaped by it: attempts to embed end by themselves, and a minimisation that was given
fewer steps for lack of time would have taken a third of it."""
TABLE = "CREATE TABLE IF NOT EXISTS made (key BLOB PRIMARY KEY, reason TEXT, converged INTEGER, coordinates BLOB, checksum INTEGER)"


def embed_once(mol: Chem.Mol, smiles: str, options: ConformerOptions, folder: Path | None) -> Embedded | str:
    """What `embed` gives, taken from the cache where it is there, and kept there otherwise.

    Args:
        folder: of the cache; None for none.
    """
    cache = None if folder is None else _opened(folder, os.getpid())
    if cache is None:
        return embed(mol, smiles, options)
    key = key_of(smiles, options)
    if (found := cache.taken(key, mol.GetNumAtoms())) is not None:
        return found
    begin = time.monotonic()
    made = embed(mol, smiles, options)
    if time.monotonic() - begin < UNHURRIED * options.timeout:
        cache.keep(key, made)
    return made


def key_of(smiles: str, options: ConformerOptions) -> bytes:
    """The hash of all that conformers depend on."""
    return hashlib.sha256(json.dumps([smiles, asdict(options), rdkit.__version__, __version__]).encode()).digest()


@functools.cache
def _opened(folder: Path, process: int) -> "_Cache | None":
    """The cache of a folder, once for each process, since connections must not be shared; None where there can be none."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _Cache(folder / FILE)
    except (OSError, sqlite3.Error):
        return None


class _Cache:
    """The file; what goes wrong with it is never raised, but for what does when it is opened."""

    def __init__(self, path: Path):
        self._path = path
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # locked, or not to be written: nothing is wrong with the file
                raise
            path.unlink()  # it is no such file, or damaged
            self._open()

    def _open(self) -> None:
        self._file = sqlite3.connect(self._path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        self._file.execute("PRAGMA synchronous = OFF")  # what a failing machine loses is made again; checksums tell what it damages
        self._file.execute(TABLE)

    def taken(self, key: bytes, atoms: int) -> Embedded | str | None:
        """Conformers of a molecule of so many atoms, or why there are none; None where that is not known."""
        with suppress(sqlite3.Error):
            line = self._file.execute("SELECT reason, converged, coordinates, checksum FROM made WHERE key = ?", (key,)).fetchone()
            return None if line is None else _read(line, atoms)
        return None

    def keep(self, key: bytes, made: Embedded | str) -> None:
        """For later runs."""
        reason, converged, coordinates = (made, 0, b"") if isinstance(made, str) else ("", made.converged, made.coordinates.tobytes())
        checksum = zlib.crc32(f"{reason} {converged} ".encode() + coordinates)
        with suppress(sqlite3.Error):
            line = (key, reason, converged, coordinates, checksum)
            place = self._file.execute("INSERT OR REPLACE INTO made VALUES (?, ?, ?, ?, ?)", line).lastrowid
            if place and place % ENTRIES_BETWEEN_LOOKS == 0:
                self._make_room()

    def _make_room(self) -> None:
        pages, free, size = (self._file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size"))
        if (pages - free) * size > LIMIT:
            self._file.execute(
                "DELETE FROM made WHERE rowid IN (SELECT rowid FROM made ORDER BY rowid LIMIT (SELECT count(*) / 2 FROM made))"
            )


def _read(line: tuple[object, ...], atoms: int) -> Embedded | str | None:
    """What a line says of a molecule of so many atoms; None where it is not what was written."""
    reason, converged, coordinates, checksum = line
    if not (isinstance(reason, str) and isinstance(converged, int) and isinstance(coordinates, bytes)):
        return None
    if checksum != zlib.crc32(f"{reason} {converged} ".encode() + coordinates) or (not reason and len(coordinates) % (12 * atoms)):
        return None
    return reason or Embedded(np.frombuffer(coordinates, np.float32).reshape(-1, atoms, 3).copy(), converged)
