"""The sidecars that there are: what is computed of a molecule, and how it is kept."""

import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from moleblend_fs.chem.automorphisms import automorphisms
from moleblend_fs.chem.descriptors import descriptor_names, descriptors
from moleblend_fs.chem.fragments import fragment_names, fragments
from moleblend_fs.chem.motifs import motif_tree
from moleblend_fs.data.encoded_molecule import EncodedMolecule
from moleblend_fs.data.graph import Failure
from moleblend_fs.data.motif_lists import MOTIFS, as_list, code_of
from moleblend_fs.data.ragged_lists import write_lists
from moleblend_fs.data.record import decode
from moleblend_fs.data.sidecar import FLAGS, LISTS, NO_FLAG, NUMBERS, VALUES, VOCABULARIES, Entry, column_statistics, values_hash
from moleblend_fs.data.splits import TRAIN, Splitter
from moleblend_fs.data.store import Store
from moleblend_fs.data.stored_smiles import smiles_of_store
from moleblend_fs.sources.base import Source
from moleblend_fs.sources.row_results import Results
from moleblend_fs.sources.workers import Chunk, WorkerPool

MOLECULES_AT_A_TIME = 4096


class Kind(Source):
    """A sidecar: what workers compute of each molecule (`parse`), and the file that results are appended to, in the store's order.

    Attributes:
        file: its name; kind: see `data.sidecar`; columns: names of the values.
        model_sha256: see `SidecarManifest`.
    """

    labels = ()
    splitter = Splitter(kind="none")
    chunk_rows = 32
    file: str
    kind: str
    columns: tuple[str, ...] = ()
    model_sha256: str = ""

    def files(self) -> list[Path]:
        return []

    def options(self) -> dict[str, Any]:
        return {}

    def rows(self, start: int) -> Iterator[tuple[int, Any]]:
        raise NotImplementedError  # molecules are those of a store, see `molecules`

    @abstractmethod
    def molecules(self, store: Store, part: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """(index, what workers need) of some of a store's molecules."""

    def results(self, store: Store, begin: int, end: int, workers: int) -> Generator[Results, None, None]:
        """(index, what is kept) of molecules from `begin` to before `end`, chunk after chunk, in their order."""
        with WorkerPool(self, workers) as pool:
            for _, found in pool.results(self._chunks(store, begin, end)):
                yield found

    def _chunks(self, store: Store, begin: int, end: int) -> Iterator[Chunk]:
        for start in range(begin, end, self.chunk_rows):
            part = range(start, min(end, start + self.chunk_rows))
            yield Chunk(list(self.molecules(store, part)), next_row=part.stop, rows_read=part.stop)

    @abstractmethod
    def parse(self, raw: Any) -> EncodedMolecule | Failure:  # type: ignore[override]
        """What is kept of a molecule, as the record."""

    @abstractmethod
    def appended(self, results: Sequence[EncodedMolecule | Failure]) -> bytes:
        """What the file gets of molecules that follow each other."""

    @abstractmethod
    def cut_to_whole(self, path: Path) -> int:
        """Take off the file what a stopped run left of something unfinished; how many molecules are in it."""

    @abstractmethod
    def contents(self, store: Store, folder: Path) -> dict[str, Any]:
        """What the manifest says of all molecules, of which the file in this folder is whole now."""


class Values(Kind):
    """A row of values for each molecule, from its SMILES.

    Args:
        function: of a SMILES; ValueError where it has none. The sidecar has its name.
        columns: their names.
        kind: numbers or flags.
    """

    def __init__(self, function: Callable[[str], np.ndarray], columns: tuple[str, ...], kind: str):
        self.name, self.function, self.columns, self.kind = function.__name__, function, columns, kind
        self.file, self.dtype = VALUES[kind]
        self.row_bytes = np.dtype(self.dtype).itemsize * len(columns)
        self.nothing = np.full(len(columns), np.nan if kind == NUMBERS else NO_FLAG, self.dtype).tobytes()

    def molecules(self, store: Store, part: Sequence[int]) -> Iterator[tuple[int, Any]]:
        return smiles_of_store(store, part)

    def parse(self, raw: str) -> EncodedMolecule | Failure:  # type: ignore[override]
        try:
            return EncodedMolecule(record=self.function(raw).astype(self.dtype).tobytes(), split=None, scaffold=None)
        except ValueError as error:
            return Failure(input=raw, reason=str(error))

    def appended(self, results: Sequence[EncodedMolecule | Failure]) -> bytes:
        return b"".join(self.nothing if isinstance(result, Failure) else result.record for result in results)

    def cut_to_whole(self, path: Path) -> int:
        with open(path, "ab") as stream:
            found = stream.tell() // self.row_bytes
            stream.truncate(found * self.row_bytes)
        return found

    def contents(self, store: Store, folder: Path) -> dict[str, Any]:
        values = np.memmap(folder / self.file, self.dtype, "r", shape=(len(store), len(self.columns)))
        blocks = [values[start : start + MOLECULES_AT_A_TIME] for start in range(0, len(store), MOLECULES_AT_A_TIME)]
        gone = np.concatenate([(np.isnan(b) if self.kind == NUMBERS else b == NO_FLAG).sum(axis=1) for b in blocks])
        found = {"missing": int(gone.sum()), "without": int((gone == len(self.columns)).sum()), "statistics": (), "statistics_of": ""}
        if self.kind == NUMBERS:
            split = TRAIN if TRAIN in store.splits and store.manifest.splits[TRAIN].molecules else ""
            rows = np.asarray(store.split(split)) if split else np.arange(len(store))
            found |= {"statistics": column_statistics(values, rows), "statistics_of": split}
        return found | {"values_sha256": values_hash(folder, self.kind, {})}


class Counting(Kind):
    """Vocabularies of what is in molecules, counted over the store; each chunk of molecules gives a line of counts.

    Attributes:
        names: of the vocabularies.
    """

    chunk_rows = 256
    file = "counts.jsonl"
    names: ClassVar[tuple[str, ...]]

    def molecules(self, store: Store, part: Sequence[int]) -> Iterator[tuple[int, Any]]:
        for index, record in zip(part, store.records(part), strict=True):
            graph = decode(record)[1]
            yield index, (graph.smiles, graph.atom_features, graph.bonds, graph.bond_classes)

    def line(self, found: Sequence[Any]) -> dict[str, Any]:
        """What a line has besides counts; None stands for a molecule that failed."""
        return {}

    def counted(self, found: Any) -> Mapping[str, Sequence[tuple[str, int, int]]]:
        """Vocabulary -> (name, code, how often) of what is in a molecule."""
        raise NotImplementedError

    def parse(self, raw: Any) -> EncodedMolecule | Failure:  # type: ignore[override]
        return EncodedMolecule(record=json.dumps(self.found(*raw[1:])).encode(), split=None, scaffold=None)

    @abstractmethod
    def found(self, atom_features: np.ndarray, bonds: np.ndarray, bond_classes: np.ndarray) -> Any:
        """What is in a molecule, as JSON; see `MolecularGraph` for the arrays."""

    def appended(self, results: Sequence[EncodedMolecule | Failure]) -> bytes:
        counts = {name: Counter[tuple[str, int]]() for name in self.names}
        found = [None if isinstance(result, Failure) else json.loads(result.record) for result in results]
        for each in found:
            if each is not None:
                _add(counts, self.counted(each))
        listed = {name: [[*entry, number] for entry, number in counter.items()] for name, counter in counts.items()}
        return json.dumps({"molecules": len(results)} | listed | self.line(found)).encode() + b"\n"

    def cut_to_whole(self, path: Path) -> int:
        molecules = whole = 0
        with open(path, "ab+") as stream:
            stream.seek(0)
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                molecules, whole = molecules + int(json.loads(line)["molecules"]), whole + len(line)
            stream.truncate(whole)
        return molecules

    def lines(self, folder: Path) -> Iterator[dict[str, Any]]:
        """What the file has."""
        with open(folder / self.file, "rb") as stream:
            for line in stream:
                yield json.loads(line)

    def contents(self, store: Store, folder: Path) -> dict[str, Any]:
        counts = {name: Counter[tuple[str, int]]() for name in self.names}
        for line in self.lines(folder):
            _add(counts, line)
        entries = {name: [Entry(name=text, code=code, count=n) for (text, code), n in found.items()] for name, found in counts.items()}
        for found in entries.values():
            found.sort(key=lambda entry: (-entry.count, entry.name))
            assert len({entry.code for entry in found}) == len({entry.name for entry in found}) == len(found), "two names with one code"
        vocabularies = {name: tuple(found) for name, found in entries.items()}
        about = {"missing": 0, "without": 0, "statistics": (), "statistics_of": "", "vocabularies": vocabularies} | self.kept(folder)
        about["values_sha256"] = values_hash(folder, self.kind, vocabularies)
        (folder / self.file).unlink()
        return about

    def kept(self, folder: Path) -> dict[str, Any]:
        """Write what is kept of each molecule, the lists of all lines; what the manifest says of it. Of vocabularies alone, nothing."""
        if self.kind != LISTS:
            return {}
        return {"without": write_lists(folder, (numbers for line in self.lines(folder) for numbers in line["lists"]))}


class Contexts(Counting):
    """Vocabularies of what is around atoms and bonds."""

    name = "contexts"
    kind = VOCABULARIES
    names: ClassVar[tuple[str, ...]] = ("atoms", "bonds")

    def found(self, atom_features: np.ndarray, bonds: np.ndarray, bond_classes: np.ndarray) -> Any:
        from moleblend_fs.chem.contexts import contexts  # here, since it loads torch, without which stores are made

        return contexts(atom_features[:, 0], bonds, bond_classes)

    def counted(self, found: Any) -> Mapping[str, Sequence[tuple[str, int, int]]]:
        return found  # type: ignore[no-any-return]


class Automorphisms(Counting):
    """Of each molecule the automorphisms besides the identity, see `automorphisms`: how many, and one after another; and how many
    molecules have how many of them."""

    name = automorphisms.__name__
    kind = LISTS
    names: ClassVar[tuple[str, ...]] = ("symmetries",)

    def found(self, atom_features: np.ndarray, bonds: np.ndarray, bond_classes: np.ndarray) -> Any:
        orders, more = automorphisms(atom_features[:, 0], bonds, bond_classes)
        return orders[1:].tolist(), more

    def counted(self, found: Any) -> Mapping[str, Sequence[tuple[str, int, int]]]:
        orders, more = found
        number = 1 + len(orders)
        return {self.names[0]: [(f"more than {number}" if more else str(number), number + more, 1)]}

    def line(self, found: Sequence[Any]) -> dict[str, Any]:
        lists = [each[0] if each is not None else [] for each in found]
        return {"lists": [[len(orders), *chain.from_iterable(orders)] if orders else [] for orders in lists]}

    def kept(self, folder: Path) -> dict[str, Any]:
        return super().kept(folder) | {"without": 0}


class Motifs(Counting):
    """The vocabulary of motifs, and of each molecule its motifs and their tree, see `data.motif_lists`."""

    name = MOTIFS
    kind = LISTS
    names: ClassVar[tuple[str, ...]] = (MOTIFS,)

    def found(self, atom_features: np.ndarray, bonds: np.ndarray, bond_classes: np.ndarray) -> Any:
        return motif_tree(atom_features, bonds, bond_classes)

    def counted(self, found: Any) -> Mapping[str, Sequence[tuple[str, int, int]]]:
        return {MOTIFS: [(name, code_of(name), times) for name, times in Counter(found[2]).items()]}

    def line(self, found: Sequence[Any]) -> dict[str, Any]:
        return {"lists": [[] if each is None else as_list(*each) for each in found]}


def _add(counts: dict[str, Counter[tuple[str, int]]], found: Mapping[str, Any]) -> None:
    for name, counter in counts.items():
        for text, code, number in found[name]:
            counter[text, code] += number


def kinds() -> dict[str, Kind]:
    """Name -> sidecar."""
    found: tuple[Kind, ...] = (
        Values(descriptors, descriptor_names(), NUMBERS),
        Values(fragments, fragment_names(), FLAGS),
        Contexts(),
        Automorphisms(),
        Motifs(),
    )
    return {kind.name: kind for kind in found}
