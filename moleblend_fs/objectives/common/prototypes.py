"""Prototypes of molecules, in levels (GraphLoG): how they are found, and the file that they are kept in.

The lowest level is made of molecules' vectors, every higher one of the prototypes below it; each prototype has a parent one level up.
Shape legend: N vectors, K prototypes, d width.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moleblend_fs.data.typed_json import READING, from_json, read_json
from moleblend_fs.errors import UserError
from moleblend_fs.files import write_atomically

PROJECTION = "graphlog_projection"
"""The head whose vectors are compared with prototypes."""
FORMAT_VERSION = 1
STEP, RIVAL_STEP = 0.05, 0.05
"""How far a prototype goes towards what it is nearest to, and how far the second nearest is pushed away."""
PASSES, SWEEPS, BATCH = 5, 20, 512
"""Over all molecules, for the lowest level; over the prototypes of a level, for the next one; molecules of a batch."""
LEAST = 2
"""A prototype of the lowest level that is the nearest one less often is dropped."""


@dataclass(frozen=True, kw_only=True)
class Prototypes:
    """What a file of prototypes holds.

    Attributes:
        levels: from the lowest one up, (K, d) each, of length 1.
        parents: of each level but the highest, (K,) numbers of prototypes one level up.
        pooling: what stood for a molecule, see `views.POOLINGS`.
        molecules: how many they were found from; records_sha256: of their store; checkpoint: the model that gave the vectors.
    """

    levels: tuple[tuple[tuple[float, ...], ...], ...]
    parents: tuple[tuple[int, ...], ...]
    pooling: str
    molecules: int
    records_sha256: str
    checkpoint: str
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        sizes = [len(level) for level in self.levels]
        fits = all(sizes) and len({len(vector) for level in self.levels for vector in level}) == 1
        fits = fits and [len(each) for each in self.parents] == sizes[:-1]
        if not fits or any(set(each) != set(range(above)) for each, above in zip(self.parents, sizes[1:], strict=True)):
            raise ValueError("levels and parents do not fit together")
        if self.format_version != FORMAT_VERSION:
            raise ValueError(f"format {self.format_version}, not {FORMAT_VERSION}")

    @property
    def width(self) -> int:
        return len(self.levels[0][0])

    def save(self, path: Path) -> None:
        write_atomically(path, json.dumps(dataclasses.asdict(self)) + "\n")


def load_prototypes(path: str | Path) -> Prototypes:
    """UserError if a file does not hold prototypes."""
    try:
        return from_json(Prototypes, read_json(Path(path)))
    except READING as error:
        raise UserError(f"{path}: no file of prototypes ({error}); make one with `moleblend prototypes CHECKPOINT STORE {path}`") from error


def unit_rows(x_Nd: np.ndarray) -> np.ndarray:
    """Rows of length 1; one of length 0 stays."""
    return x_Nd / np.maximum(np.linalg.norm(x_Nd, axis=1, keepdims=True), 1e-6)


def lowest_level(vectors_Nd: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """(K, d), K <= count: in each of `PASSES` over the vectors, batch by batch in a random order, the nearest prototype (by cosine) goes
    `STEP` of the way to the mean of what it is nearest to. They begin uniform in [0, 1); those that are hardly ever nearest are dropped."""
    prototypes = random.uniform(size=(count, vectors_Nd.shape[1]))
    used = np.zeros(count, dtype=np.int64)
    for _ in range(PASSES):
        order = random.permutation(len(vectors_Nd))
        for start in range(0, len(order), BATCH):
            batch = np.asarray(vectors_Nd[np.sort(order[start : start + BATCH])], dtype=np.float64)
            nearest = (unit_rows(batch) @ unit_rows(prototypes).T).argmax(axis=1)
            found, members = np.unique(nearest, return_counts=True)
            means = np.zeros_like(prototypes)
            np.add.at(means, nearest, batch)
            prototypes[found] += STEP * (means[found] / members[:, None] - prototypes[found])
            used[found] += members
    return prototypes[used >= min(LEAST, used.max())]


def members(vectors_Nd: np.ndarray, prototypes_Kd: np.ndarray) -> np.ndarray:
    """(K,) int64, how many vectors each prototype is the nearest one of, by cosine."""
    counts, directions = np.zeros(len(prototypes_Kd), dtype=np.int64), unit_rows(prototypes_Kd).T
    for start in range(0, len(vectors_Nd), BATCH):
        batch = np.asarray(vectors_Nd[start : start + BATCH], dtype=np.float64)
        counts += np.bincount((unit_rows(batch) @ directions).argmax(axis=1), minlength=len(counts))
    return counts


def next_level(below_Nd: np.ndarray, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(K, d), K <= count, and (N,) the parent of each prototype below, by rival-penalised competition: in each of `SWEEPS`, for one
    prototype below after another, the nearest (by dot product) goes `STEP` of the way towards it, and the second nearest is pushed
    `RIVAL_STEP` away. Those that are nobody's parent are dropped."""
    prototypes = random.uniform(size=(count, below_Nd.shape[1]))
    for _ in range(SWEEPS):
        for vector in below_Nd[random.permutation(len(below_Nd))]:
            winner, *rivals = np.argsort(-(prototypes @ vector), kind="stable")[:2]
            for rival in rivals:
                prototypes[rival] -= RIVAL_STEP * (vector - prototypes[rival])
            prototypes[winner] += STEP * (vector - prototypes[winner])
    parents = (below_Nd @ prototypes.T).argmax(axis=1)
    kept, renumbered = np.unique(parents, return_inverse=True)
    return prototypes[kept], renumbered


def find_prototypes(vectors_Nd: np.ndarray, counts: Sequence[int], seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Levels of at most so many prototypes each, from the lowest one up, as vectors of length 1; and the parents of all but the highest."""
    random = np.random.default_rng(seed)
    levels, parents = [lowest_level(vectors_Nd, counts[0], random)], []
    for count in counts[1:]:
        level, parent = next_level(levels[-1], count, random)
        levels.append(level)
        parents.append(parent)
    return [unit_rows(level) for level in levels], parents
