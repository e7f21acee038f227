"""A split of a store as a fairseq dataset."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from fairseq.data import FairseqDataset

from moleblend_fs.data.batch import GROUP, MoleculeBatch, collate
from moleblend_fs.data.record import StoredRecord
from moleblend_fs.data.sidecar import Sidecar
from moleblend_fs.data.store import Store


class StoreDataset(FairseqDataset):
    """Molecules of one split.

    Args:
        store: where the records are.
        indices: (N,) molecule indices of the split.
        labels: columns of the store's labels to keep, in this order; all by default.
        sidecars: what else batches carry of each molecule, by name.
        conformers: how many of each molecule batches carry, see `joined`.

    Attributes:
        group: molecules that are kept together, see `batch_plan`; None where each is on its own.
    """

    def __init__(
        self,
        store: Store,
        indices: np.ndarray,
        labels: Sequence[int] | None = None,
        sidecars: Mapping[str, Sidecar] = MappingProxyType({}),
        conformers: int = 1,
    ):
        self.store = store
        self.sidecars = dict(sidecars)
        self.indices = np.asarray(indices)
        self.num_atoms = store.num_atoms[self.indices].astype(np.int64)
        self.labels = None if labels is None else list(labels)
        self.many_conformers = store.manifest.conformers > store.manifest.molecules_with_3d
        self.conformer_draw = 0
        self.conformers = conformers
        self.group: int | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> StoredRecord:
        return self.store.record(int(self.indices[index]))

    def __getitems__(self, index: Sequence[int]) -> list[StoredRecord]:
        return self.store.records(self.indices[np.asarray(index, dtype=np.int64)])  # a rank without a batch asks for none

    def collater(self, samples: list[StoredRecord]) -> dict[str, Any]:
        """The mini-batch that tasks and criterions see: {"batch": MoleculeBatch, "nsentences", "ntokens", "id"}."""
        if not samples:
            return {}
        batch = collate(samples, self.conformer_draw, self.conformers)
        if self.labels is not None:
            batch = select_labels(batch, self.labels)
        for name, sidecar in self.sidecars.items():
            if (values := sidecar.carried([record.molecule for record in samples])) is not None:
                batch.extra[name] = torch.from_numpy(values)
        if self.group is not None:
            batch.extra[GROUP] = torch.arange(len(batch)) // self.group
        return {
            "batch": batch,
            "nsentences": len(batch),
            "ntokens": int(batch.num_atoms.sum()) + len(batch),
            "id": batch.molecule_id,
        }

    def set_epoch(self, epoch: int) -> None:
        """Which conformers are drawn; 0 for the first of each molecule, as in evaluation."""
        self.conformer_draw = epoch

    def num_tokens(self, index: int) -> int:
        return int(self.num_atoms[index]) + 1

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        return self.num_atoms[indices] + 1

    def size(self, index: int) -> int:
        return int(self.num_atoms[index])


def select_labels(batch: MoleculeBatch, columns: list[int]) -> MoleculeBatch:
    """The batch with some of its label columns."""
    return batch.map(lambda name, x: x[:, columns] if name in ("labels", "has_label") else x)
