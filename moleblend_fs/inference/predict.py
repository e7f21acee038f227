"""Predictions and representations of the molecules of a store, without fairseq, a window of molecules at a time."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from moleblend_fs.checkpoint.read import Checkpoint, FinetunedFor
from moleblend_fs.data.batch import collate
from moleblend_fs.data.model_description import reads_structures
from moleblend_fs.data.record import decode
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.files import told
from moleblend_fs.inference.forward import Forward, ReadOff, graph_tokens, properties
from moleblend_fs.wording import counted, verb

WINDOW = 16_384
"""Molecules that are sorted by size and held in memory together, whatever the size of the store."""
FILES_PER_WORKER = 12
"""Pipes and files that a loader process opens, here and of its own, with some to spare."""
LOADER_TIMEOUT = 300
"""Seconds without a batch after which loader processes are given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What a model says of some molecules, in the order that was asked for.

    Attributes:
        rows: (n,) int64, their rows in the source.
        smiles: (n,) their SMILES.
        has_3d: (n,) bool, which have a structure.
        values: (n, k) predictions or representations; NaN where the model's inputs are 3D alone and the molecule has no structure.
    """

    rows: np.ndarray
    smiles: list[str]
    has_3d: np.ndarray
    values: np.ndarray

    def not_finite(self) -> np.ndarray:
        """(n,) bool, molecules with a value that is no number."""
        return ~np.isfinite(self.values).all(axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """How to run a model over a store.

    Attributes:
        device: "cpu", "cuda", ...
        tokens: most tokens in a batch.
        workers: loader processes.
        window: see `WINDOW`.
        precision: of `options.PRECISIONS`.
    """

    device: str = "cpu"
    tokens: int = 16_384
    workers: int = 0
    window: int = WINDOW
    precision: str = "float32"

    def properties(self, checkpoint: Checkpoint, store: Store, indices: np.ndarray) -> Iterator[Predicted]:
        """Float64 predictions in the targets' units; logits for classification.

        Raises:
            UserError: the checkpoint has no property head, weights that are not finite, or inputs that no molecule has.
        """
        about = property_head(checkpoint)
        check_structures(store, about.inputs, "the model was finetuned with", every=False)
        check_weights(checkpoint)
        mean, std = np.array(about.mean), np.array(about.std)
        parts = self._run(checkpoint, store, indices, about.inputs, len(about.targets), properties)
        return (replace(part, values=part.values * std + mean) for part in parts)

    def embeddings(self, checkpoint: Checkpoint, store: Store, indices: np.ndarray, inputs: str) -> Iterator[Predicted]:
        """(n, d) representations of the graph token; UserError for weights that are not finite, or inputs that a molecule lacks."""
        return self.read(checkpoint, store, indices, inputs, checkpoint.config.embed_dim, graph_tokens)

    def read(
        self, checkpoint: Checkpoint, store: Store, indices: np.ndarray, inputs: str, width: int, read_off: ReadOff
    ) -> Iterator[Predicted]:
        """(n, width) of whatever is read off a model for each molecule; UserError as `embeddings`."""
        check_structures(store, inputs, "what is asked for has", every=True)
        check_weights(checkpoint)
        return self._run(checkpoint, store, indices, inputs, width, read_off)

    def _run(
        self, checkpoint: Checkpoint, store: Store, indices: np.ndarray, inputs: str, width: int, read_off: ReadOff
    ) -> Iterator[Predicted]:
        """What is read off the model's outputs, window after window."""
        with Forward([checkpoint.build()], self.device, inputs, read_off, self.tokens, precision=self.precision) as forward:
            reads = self._load(_Records(store, indices, without_3d=inputs != "3d"), forward)
            begun = self._begun(reads, forward)
            for start in range(0, len(indices), self.window):
                molecules = min(self.window, len(indices) - start)
                part = Predicted(
                    rows=np.zeros(molecules, dtype=np.int64),
                    smiles=[""] * molecules,
                    has_3d=np.zeros(molecules, dtype=bool),
                    values=np.full((molecules, width), np.nan),
                )
                missing = molecules
                while missing:
                    read, values = next(begun)
                    places = read.positions - start
                    missing -= len(places)
                    part.rows[places], part.has_3d[places] = read.rows, read.has_3d
                    for place, text in zip(places.tolist(), read.smiles, strict=True):
                        part.smiles[place] = text
                    if values is not None:
                        part.values[places[read.used]] = values.result()[0]
                yield part

    def _begun(self, reads: Iterator["_Read"], forward: Forward) -> Iterator[tuple["_Read", "Future[np.ndarray] | None"]]:
        """Batches with the computation of their values, which is under way for some batches more than were asked for."""
        waiting: deque[tuple[_Read, Future[np.ndarray] | None]] = deque()
        for read in reads:
            waiting.append((read, None if read.arrays is None else forward.submit(read.arrays)))
            if len(waiting) > forward.ahead:
                yield waiting.popleft()
        yield from waiting

    def _batches(self, records: "_Records", forward: Forward) -> Iterator[list[int]]:
        """Places in what was asked for of each batch, molecules of similar size together, window after window."""
        for start in range(0, len(records.indices), self.window):
            for batch in forward.batches(records.store.num_atoms[records.indices[start : start + self.window]]):
                yield (start + batch).tolist()

    def _load(self, source: "_Records", forward: Forward) -> Iterator["_Read"]:
        """What the loader gives, in the order of the batches."""
        check_open_files(self.workers)
        loader = DataLoader(
            source,
            batch_sampler=self._batches(source, forward),  # type: ignore[arg-type]
            collate_fn=source.read,
            num_workers=self.workers,
            timeout=LOADER_TIMEOUT if self.workers else 0,
        )
        for read in loader:
            if isinstance(read, Exception):
                raise read
            yield read


@contextmanager
def loaders_told() -> Iterator[None]:
    """A loader process that died or hangs becomes a UserError; torch raises wherever this process happens to be, not in the loader alone.

    Raises:
        UserError: in place of torch's error.
    """
    try:
        yield
    except RuntimeError as error:
        said = str(error).strip().splitlines() or [""]
        if not any(line.startswith(("DataLoader worker", "DataLoader timed out")) for line in said):
            raise
        raise UserError(f"a loader process failed ({said[-1].strip()}); fewer --workers need less memory, --workers 0 none") from error


def property_head(checkpoint: Checkpoint) -> FinetunedFor:
    """What a checkpoint's property head is for; UserError if it has none."""
    if checkpoint.finetuned is None:
        raise UserError(f"{checkpoint.about.get('file')}: a pretrained model without a property head; finetune it first")
    return checkpoint.finetuned


def check_weights(checkpoint: Checkpoint) -> None:
    """UserError that names weights that are NaN or infinite."""
    bad = [(name, int((~torch.isfinite(value)).sum()), value.numel()) for name, value in checkpoint.weights.items()]
    bad = [entry for entry in bad if entry[1]]
    if bad:
        name, count, size = bad[0]
        more = f", and in {len(bad) - 1} more" if len(bad) > 1 else ""
        raise UserError(
            f"{checkpoint.about.get('file')}: {count} of {size} numbers in {name}{more} are NaN or infinite: training went wrong before it "
            "was saved; use an earlier checkpoint, or train again with a smaller --lr"
        )


def check_structures(store: Store, inputs: str, why: str, *, every: bool) -> None:
    """UserError if a store lacks the structures that some inputs need: any for "2d+3d", for "3d" all where `every` asks for it."""
    manifest = store.manifest
    lacking = manifest.molecules - manifest.molecules_with_3d
    if reads_structures(inputs) and manifest.molecules_with_3d == 0:
        raise UserError(f"{store.path} has no 3D structures, but {why} inputs {inputs}; preprocess a source with structures")
    if every and inputs == "3d" and lacking:
        those = f"{lacking:,} of {counted(manifest.molecules, 'molecule')} of {store.path} {verb(lacking, 'has', 'have')}"
        raise UserError(f"{those} no 3D structure, but {why} inputs 3d")


def check_open_files(workers: int) -> None:
    """UserError if loader processes need more open files than the limit leaves; told here, since they themselves could not tell it."""
    needed, held = FILES_PER_WORKER * workers, []
    try:
        for _ in range(needed):
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        raise UserError(f"--workers {workers} needs {needed} open files more than there are already: {told(error)}") from error
    finally:
        for descriptor in held:
            os.close(descriptor)


class _Read(NamedTuple):
    """One batch as it comes from a loader process.

    Attributes:
        positions: places of its molecules in what was asked for. rows, smiles, has_3d: of them, see `Predicted`.
        used: places in `positions` of the molecules that the model can read. arrays: their batch; None if there is none.
    """

    positions: np.ndarray
    rows: np.ndarray
    smiles: list[str]
    has_3d: np.ndarray
    used: np.ndarray
    arrays: dict[str, np.ndarray] | None


class _Records(torch.utils.data.Dataset):
    """Batches of a store's molecules: which go together, and reading them.

    Args:
        store: where they are. indices: which, in order.
        without_3d: whether the model reads molecules without a structure.
    """

    def __init__(self, store: Store, indices: np.ndarray, *, without_3d: bool):
        self.store, self.indices, self.without_3d = store, indices, without_3d

    def __getitems__(self, positions: list[int]) -> list[int]:
        return positions

    def read(self, positions: Sequence[int]) -> _Read | Exception:
        """A batch. A mistake or the system's error is returned: raised in a loader process, its message would hold a traceback."""
        try:
            places = np.asarray(positions)
            records = self.store.records(self.indices[places])
            about = [(row, graph.smiles, graph.coordinates is not None) for row, graph in map(decode, records)]
        except (UserError, OSError) as error:
            return error
        rows, smiles, has_3d = zip(*about, strict=True)
        used = np.flatnonzero(np.array(has_3d) | self.without_3d)
        arrays = collate([records[i] for i in used]).to_arrays() if len(used) else None
        return _Read(places, np.array(rows), list(smiles), np.array(has_3d), used, arrays)
