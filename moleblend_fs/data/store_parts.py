"""Stores made in parts: shards of a source's rows, each written by a process of its own, and their merge.

The shards of a store OUT lie in OUT.shards/I-of-N: the writer's tables and what they hold. A merged store has the records, splits,
statistics and failures of one that was made in one go.
"""

import hashlib
import heapq
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from moleblend_fs.data.encoded_molecule import EncodedMolecule
from moleblend_fs.data.graph import FEATURISATION_VERSION, Failure, LabelSpec
from moleblend_fs.data.lmdb_file import Damaged, LmdbFile
from moleblend_fs.data.manifest import Manifest
from moleblend_fs.data.partial_store import TABLES, full_disk_told, read_tables
from moleblend_fs.data.splits import Splitter
from moleblend_fs.data.typed_json import READING, from_json, read_json
from moleblend_fs.data.writer import StoreWriter
from moleblend_fs.errors import UserError
from moleblend_fs.files import resolved
from moleblend_fs.wording import counted, verb

SHARD_BLOCK = 256
"""Rows in a row that go to the same shard: few enough to spread easy and hard molecules, and what a worker takes at a time."""

INFO = "shard.json"
MERGE_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class ShardNumber:
    """Shard `index` of `count`, from 0."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "ShardNumber":
        """From "I/N" with I from 0 to N - 1."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not int(match[1]) < int(match[2]):
            raise UserError(f"--shard must be I/N with I from 0 to N-1, like 0/8, got {text!r}")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def takes(self, row: int) -> bool:
        """Whether a source row belongs to this shard: block after block, as cards are dealt."""
        return row // SHARD_BLOCK % self.count == self.index

    def path(self, out: str | os.PathLike) -> Path:
        """Where this shard of the store `out` lies."""
        return shards_folder(out) / f"{self.index}-of-{self.count}"


def shards_folder(out: str | os.PathLike) -> Path:
    """The folder of a store's shards."""
    path = resolved(out)
    return path.with_name(path.name + ".shards")


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePlan:
    """What a store is made from, before any molecule is in it; see `Manifest` for the fields."""

    source: str
    options: dict[str, Any]
    inputs: dict[str, str]
    labels: tuple[LabelSpec, ...]
    splitter: Splitter
    versions: dict[str, str]
    notes: tuple[str, ...] = ()
    featurisation: int = FEATURISATION_VERSION

    def request(self) -> dict[str, Any]:
        """What a resumed run must agree in."""
        return {
            "source": self.source,
            "options": self.options,
            "inputs": self.inputs,
            "split": self.splitter.describe(),
            "featurisation": self.featurisation,
        }

    def finish(self, writer: StoreWriter, source_rows: int, left_out: dict[str, int]) -> Manifest:
        """The store of all that the writer has, once it is clear that this is all that the source gave."""
        return writer.finish(
            source=self.source,
            options=self.options,
            inputs=self.inputs,
            labels=self.labels,
            splitter=self.splitter,
            versions=self.versions,
            notes=self.notes,
            source_rows=source_rows,
            left_out=left_out,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInfo:
    """What a shard says of itself.

    Attributes:
        rows: source rows that went into it, as molecules or failures.
        source_rows: rows that the source gave in all, those of the other shards as well.
        left_out: what of the whole input became no row, by why.
        molecules, failures: as in the manifest of a store.
        records_sha256: hash over its records' bytes in order.
        plan: of the store that it is a part of.
    """

    rows: int
    source_rows: int
    molecules: int
    failures: int
    records_sha256: str
    plan: StorePlan
    left_out: dict[str, int] = field(default_factory=dict)


class _Count:
    """Counts and hashes a shard's results as they pass, to be compared with what it says of itself; `Damaged` for a row of another one."""

    def __init__(self, shard: ShardNumber, path: Path) -> None:
        self._shard, self._path = shard, path
        self.rows = self.molecules = self.failures = 0
        self._last_row, self._digest = -1, hashlib.sha256()

    def __call__(self, results: Iterator[tuple[int, EncodedMolecule | Failure]]) -> Iterator[tuple[int, EncodedMolecule | Failure]]:
        for row, result in results:
            if not self._shard.takes(row):
                told = f"holds row {row}, which is not of shard {self._shard}: it was copied or renamed; delete it and make it again"
                raise Damaged(f"{self._path}: {told}")
            self.rows += row != self._last_row
            self._last_row = row
            if isinstance(result, Failure):
                self.failures += 1
            else:
                self.molecules += 1
                self._digest.update(result.record)
            yield row, result

    def found(self) -> dict[str, Any]:
        return {"rows": self.rows, "molecules": self.molecules, "failures": self.failures, "records_sha256": self._digest.hexdigest()}


def finish_shard(writer: StoreWriter, shard: ShardNumber, plan: StorePlan, source_rows: int, left_out: dict[str, int]) -> ShardInfo:
    """Close a shard and rename it into place."""
    count = _Count(shard, writer.path)
    for _ in count(writer.results()):
        pass
    info = ShardInfo(**count.found(), source_rows=source_rows, left_out=left_out, plan=plan)
    writer.seal(INFO, json.dumps(asdict(info), indent=1) + "\n")
    return info


def merge_shards(out: str | os.PathLike, *, keep: bool = False) -> Manifest:
    """The store that all shards of `out` together are.

    Args:
        out: the new store, as it was given to `moleblend preprocess ... OUT --shard I/N`.
        keep: leave the shards where they are.

    Raises:
        UserError: a shard is missing, unfinished, damaged, a copy of another one, or from another source, or a count does not agree.
    """
    folder = shards_folder(out)
    infos = _read_infos(folder)
    plan = infos[0].plan
    numbers = [ShardNumber(index, len(infos)) for index in range(len(infos))]
    paths = [number.path(out) for number in numbers]
    counts = [_Count(number, path) for number, path in zip(numbers, paths, strict=True)]
    with ExitStack() as files:
        shards = [files.enter_context(LmdbFile(path / TABLES, remedy=f"delete {path} and make it again")) for path in paths]
        begun = StoreWriter(out, plan.request() | {"merged shards": len(infos)})
        with begun as writer, _given_up_where_damaged(writer.partial), full_disk_told(out):
            merged = heapq.merge(*(count(read_tables(tables)) for count, tables in zip(counts, shards, strict=True)), key=itemgetter(0))
            rows = (list(results) for _, results in groupby(merged, key=itemgetter(0)))
            while chunk := list(islice(rows, MERGE_CHUNK)):
                if chunk[-1][0][0] >= writer.next_row:  # else in since before an interruption
                    results = [result for row in chunk if row[0][0] >= writer.next_row for result in row]
                    writer.add(results, results[-1][0] + 1)
            _check_counts(folder, infos, counts, writer)
            manifest = plan.finish(writer, infos[0].source_rows, infos[0].left_out)
    if not keep:
        shutil.rmtree(folder)
    return manifest


@contextmanager
def _given_up_where_damaged(partial: Path) -> Iterator[None]:
    """What was merged of a damaged shard must not stay, or a merge with the shard made again would go on with it."""
    try:
        yield
    except Damaged:
        shutil.rmtree(partial)
        raise


def _read_infos(folder: Path) -> list[ShardInfo]:
    """What all shards in a folder say of themselves; UserError unless they are all there, whole, and parts of one store."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; make shards with `moleblend preprocess SOURCE IN OUT --shard I/N`")
    found = {path.name: path for path in folder.iterdir() if re.fullmatch(r"\d+-of-\d+", path.name)}
    counts = {int(name.split("-of-")[1]) for name in found}
    if len(counts) != 1:
        raise UserError(f"{folder}: shards of {'no' if not counts else 'different'} number ({', '.join(sorted(found)) or 'empty'})")
    total = counts.pop()
    if beyond := sorted(name for name in found if int(name.split("-of-")[0]) >= total):
        raise UserError(f"{folder}: {', '.join(beyond)}: there are shards 0 to {total - 1}; delete what is none of them")
    missing = [f"{index}/{total}" for index in range(total) if f"{index}-of-{total}" not in found]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of {counted(total, 'shard')} {verb(len(missing), 'is', 'are')} missing or unfinished "
            f"({', '.join(missing[:16])}); "
            "run `moleblend preprocess ... --shard I/N` for them, then merge again"
        )
    infos = [_read_info(found[f"{index}-of-{total}"] / INFO) for index in range(total)]
    first = asdict(infos[0].plan)
    for index, info in enumerate(infos):
        other = asdict(info.plan)
        if differing := [name for name in first if first[name] != other[name] and name != "notes"]:  # which hold the path as it was given
            raise UserError(
                f"{folder}: shards 0 and {index} have different {', '.join(differing)}; make them with one command and installation"
            )
        if info.source_rows != infos[0].source_rows:
            raise UserError(
                f"{folder}: shard 0 saw {counted(infos[0].source_rows, 'row')} in the source, shard {index} {info.source_rows}; "
                "the source changed, or a copy of it is cut short: make the shards again"
            )
    if infos[0].plan.featurisation != FEATURISATION_VERSION:
        raise UserError(
            f"{folder}: featurisation {infos[0].plan.featurisation}, this version has {FEATURISATION_VERSION}; make the shards again"
        )
    rows = sum(info.rows for info in infos)
    if rows != infos[0].source_rows:
        raise UserError(
            f"{folder}: the source has {counted(infos[0].source_rows, 'row')}, the shards hold {rows} together; make the shards again"
        )
    return infos


def _read_info(path: Path) -> ShardInfo:
    try:
        return from_json(ShardInfo, read_json(path))
    except READING as error:
        raise UserError(f"{path}: not a readable shard ({error}); delete its folder and make it again") from error


def _check_counts(folder: Path, infos: list[ShardInfo], counts: list[_Count], writer: StoreWriter) -> None:
    """Raise unless each shard held what it said, and the store has all of it."""
    for index, (info, count) in enumerate(zip(infos, counts, strict=True)):
        said = {name: value for name, value in asdict(info).items() if name in count.found()}
        if said != count.found():
            raise Damaged(f"{folder}: shard {index} says {said}, but holds {count.found()}; it is damaged: delete it and make it again")
    wanted = (sum(info.molecules for info in infos), sum(info.failures for info in infos))
    if (writer.molecules, writer.failures) != wanted:
        raise UserError(
            f"{writer.partial}: {counted(writer.molecules, 'molecule')} and {counted(writer.failures, 'failure')}, but the "
            f"shards hold {wanted[0]} and "
            f"{wanted[1]}; it was begun with other shards: delete it and merge again"
        )
