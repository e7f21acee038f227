"""Parts of a source: a sample of its rows, and what is left when the molecules of other sets are left out."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from moleblend_fs.chem.skeleton import skeleton_of
from moleblend_fs.data.accounting import EXCLUDED
from moleblend_fs.data.graph import Failure, MolecularGraph
from moleblend_fs.errors import UserError
from moleblend_fs.sources.base import Source
from moleblend_fs.wording import counted, verb

NOT_SAMPLED = "not in the sample"
HASHED = 1024
"""Rows that are hashed at a time."""
_WORD = 1 << 64


class _Part(Source):
    """What is as in the whole source."""

    def __init__(self, whole: Source):
        self.whole = whole
        self.name, self.labels, self.splitter = whole.name, whole.labels, whole.splitter
        self.chunk_rows, self.extra_seconds, self.notes = whole.chunk_rows, whole.extra_seconds, whole.notes

    def files(self) -> list[Path]:
        return self.whole.files()

    def options(self) -> dict[str, Any]:
        return self.whole.options()

    def rows(self, start: int) -> Iterator[tuple[int, Any]]:
        return self.whole.rows(start)

    def parse(self, raw: Any) -> MolecularGraph | Failure:
        return self.whole.parse(raw)

    def shown(self, raw: Any) -> str:
        return self.whole.shown(raw)

    def num_rows(self) -> int | None:
        return self.whole.num_rows()

    def left_out(self) -> dict[str, int]:
        return self.whole.left_out()


@dataclass(frozen=True, slots=True)
class SampleSize:
    """How much to take: a number of rows, or a share of them."""

    rows: int | None = None
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> "SampleSize":
        """From "100000" (rows) or "0.1" (a share, with a point or an exponent)."""
        if re.fullmatch(r"[0-9]+", text) and int(text) > 0:
            return cls(rows=int(text))
        try:
            share = float(text) if re.search(r"[.e]", text) else 0.0
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            raise UserError(f"--sample must be a number of rows, like 100000, or a share of them, like 0.1, got {text!r}")
        return cls(share=share)


def row_hash(rows: np.ndarray, seed: int) -> np.ndarray:
    """(n,) uint64, a hash of (seed, row): the finaliser of SplitMix64, twice; different for different rows."""
    x = np.asarray(rows).astype(np.uint64)
    with np.errstate(over="ignore"):
        for salt in (seed, 0x6D6F6C65):
            x = x + np.uint64((salt * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % _WORD)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x = x ^ (x >> np.uint64(31))
    return x


class Sampled(_Part):
    """The rows whose hash is smallest: a smaller sample with the same seed is part of a larger one.

    Raises:
        UserError: more rows than there are, or a number of rows of a source that does not know how many it has.
    """

    def __init__(self, whole: Source, size: SampleSize, seed: int):
        super().__init__(whole)
        total = whole.num_rows()
        self._skipped = 0
        if size.rows is not None:
            if total is None:
                raise UserError(f"--sample {size.rows}: how many rows {whole.name} has is not known before they are read; give a share")
            if size.rows > total:
                raise UserError(f"--sample {size.rows}: there {verb(total, 'is', 'are')} only {counted(total, 'row')}")
            self._most = int(np.partition(row_hash(np.arange(total), seed), size.rows - 1)[size.rows - 1])
        else:
            self._most = min(_WORD - 1, int((size.share or 0.0) * _WORD))
        self._size, self._seed = size, seed

    def options(self) -> dict[str, Any]:
        taken = self._size.rows if self._size.rows is not None else self._size.share
        return super().options() | {"sample": {"size": taken, "seed": self._seed}}

    def num_rows(self) -> int | None:
        return self._size.rows

    def rows(self, start: int) -> Iterator[tuple[int, Any]]:
        # From the first one on, so that all that are left out are counted.
        self._skipped = 0
        rows = self.whole.rows(0)
        while part := list(islice(rows, HASHED)):
            taken = row_hash(np.array([row for row, _ in part]), self._seed) <= np.uint64(self._most)
            self._skipped += len(part) - int(taken.sum())
            yield from (pair for pair, take in zip(part, taken.tolist(), strict=True) if take and pair[0] >= start)

    def left_out(self) -> dict[str, int]:
        return super().left_out() | {NOT_SAMPLED: self._skipped}


class Excluding(_Part):
    """All but the molecules whose skeleton is in other sets; these are listed, and counted apart from failures.

    Args:
        whole: the source.
        skeletons: skeleton -> name of the set that it is in.
    """

    def __init__(self, whole: Source, skeletons: Mapping[str, str]):
        super().__init__(whole)
        self._skeletons = dict(skeletons)

    def options(self) -> dict[str, Any]:
        digest = hashlib.sha256("\n".join(sorted(self._skeletons)).encode()).hexdigest()
        names = sorted(set(self._skeletons.values()))
        return super().options() | {"exclude": {"sets": names, "skeletons": len(self._skeletons), "sha256": digest}}

    def parse(self, raw: Any) -> MolecularGraph | Failure:
        graph = self.whole.parse(raw)
        if isinstance(graph, Failure):
            return graph
        name = self._skeletons.get(skeleton_of(graph.smiles) or "")
        return graph if name is None else Failure(input=graph.smiles, reason=f"excluded: its skeleton is in {name}", left_out=EXCLUDED)
