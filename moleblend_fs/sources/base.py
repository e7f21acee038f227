"""What every source of molecules offers to `moleblend preprocess`."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moleblend_fs.chem.mol_to_graph import MAX_ATOMS
from moleblend_fs.chem.smiles_to_graph import BuildOptions
from moleblend_fs.data.graph import Failure, LabelSpec, MolecularGraph
from moleblend_fs.data.splits import Splitter


class Source(ABC):
    """Rows of raw molecules, read in the parent process, and how to turn one into a graph, in the workers.

    A source is pickled to the workers and must be small: no open files, no tables.

    Attributes:
        name: as in `moleblend preprocess NAME`.
        labels: label columns, in the order of every graph's labels.
        splitter: how the store is split.
        chunk_rows: rows that go to a worker, and into the store, at a time.
        notes: what was found out about the input that its user should be told, a sentence each.
        extra_seconds: what a row may take besides the time limit for rows, because of a time limit of its own.
        stored: whether the molecules go into a store.
    """

    name: str
    labels: tuple[LabelSpec, ...]
    splitter: Splitter
    chunk_rows: int = 256
    notes: tuple[str, ...] = ()
    extra_seconds: float = 0.0
    stored: bool = True

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

    def shown(self, raw: Any) -> str:
        """What failures.csv gives as the input of a row that `parse` did not come back from."""
        return str(raw[0] if isinstance(raw, tuple) and raw else raw)[:200]

    def num_rows(self) -> int | None:
        """Number of rows where that is known without reading everything."""
        return None

    def left_out(self) -> dict[str, int]:
        """What of the input became no row, by why ("blank"), as far as `rows` has been read."""
        return {}


def identify(files: Sequence[Path]) -> dict[str, str]:
    """File name -> "sha256:..." of its content.

    Files of one name in different folders are told apart by their folders' names.
    """
    names = [path.name for path in files]
    result = {}
    for path, name in zip(files, names, strict=True):
        shown = name if names.count(name) == 1 else f"{path.parent.name}/{name}"
        result[shown] = content_hash(path)
    return result


def content_hash(path: Path) -> str:
    """ "sha256:..." of a file's content."""
    with open(path, "rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def build_options(build: BuildOptions) -> dict[str, Any]:
    """Build options as JSON values."""
    conformers = asdict(build.conformers) if build.conformers.count else None
    limit = {} if build.max_atoms == MAX_ATOMS else {"max_atoms": build.max_atoms}
    return {"hydrogens": "explicit" if build.hydrogens else "none", "conformers": conformers} | limit
