"""Replaces the batches, loader and position of fairseq's `EpochBatchIterator` (0.12), which counts batches of one rank.

Here an epoch's position is kept in molecules: `moleblend_fs/runtime/epoch_position.py`.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from fairseq.data import data_utils, iterators

from fairseq_plugins.batch_plan import BatchPlan
from fairseq_plugins.dataset import StoreDataset
from fairseq_plugins.patches.loader_processes import Loader
from moleblend_fs.errors import UserError
from moleblend_fs.runtime.epoch_position import batches_of_rank, micro_batches, pack, remaining, unpack

PINS = {
    "fairseq.data.iterators.EpochBatchIterator": "6055c0c5c927",
    "fairseq.data.iterators.FrozenBatchSampler": "711832e46286",
    "fairseq.data.iterators.CountingIterator": "fd7fcdc5f4e7",
    "fairseq.data.iterators.GroupedIterator": "3f9a071432d5",
}


class StoredEpoch(NamedTuple):
    """Where a checkpoint was saved: the epoch, and (N,) bool, which molecules had been seen of it."""

    epoch: int
    seen: np.ndarray


class MoleculeIterator(iterators.EpochBatchIterator):
    """fairseq's epoch iterator, with its position kept in molecules: an interrupted epoch is finished on any number of
    processes, with any batches, and each molecule is seen once.

    Attributes:
        update_batches: batches of an update over all processes.
        most: batches of an epoch on each process, which then ends; None for all.
    """

    batch_sampler: BatchPlan

    def __init__(self, dataset: StoreDataset, plan: BatchPlan, **options: Any):
        super().__init__(dataset=dataset, collate_fn=dataset.collater, batch_sampler=plan, **options)
        self.update_batches = self.num_shards
        self.most: int | None = None
        self.stored: StoredEpoch | None = None
        self.coming: list[np.ndarray] = []
        self.start = 0
        self.dataloader: Loader | None = None
        self.epoch_batch_sampler: Any = None

    def ordered_batches(self, epoch: int, fix_batches_to_gpus: bool, shuffle: bool) -> list[Any]:
        """This rank's batches of what an epoch still has to come."""
        batches = list(self.frozen_batches)
        if shuffle:
            with data_utils.numpy_seed(self.seed + epoch):
                np.random.shuffle(batches)  # type: ignore[arg-type]  # noqa: NPY002  a list; the order is fairseq's own
        self.coming = remaining(batches, self._seen_before(epoch), self.batch_sampler.cut)
        done = max(0, len(batches) - len(self.coming)) // self.update_batches
        self.start = done * micro_batches(self.update_batches, self.num_shards)
        return batches_of_rank(self.coming, self.update_batches, self.num_shards, self.shard_id)[: self.most]

    def _seen_before(self, epoch: int) -> np.ndarray | None:
        """What earlier runs saw of an epoch."""
        return self.stored.seen if self.stored is not None and self.stored.epoch == epoch else None

    def seen(self) -> np.ndarray:
        """(N,) bool, molecules of this epoch that were seen, by earlier runs and by this one on all processes."""
        before = self._seen_before(self.epoch)
        result = np.zeros(len(self.dataset), dtype=bool) if before is None else before.copy()
        updates = -(-(self.iterations_in_epoch - self.start) // micro_batches(self.update_batches, self.num_shards))
        for batch in self.coming[: updates * self.update_batches]:
            result[batch] = True
        return result

    @property
    def updates_of_epoch(self) -> int:
        """How many updates a whole epoch has."""
        return math.ceil(len(self.frozen_batches) / self.update_batches)

    @property
    def updates_done(self) -> int:
        """How many updates of this epoch are done."""
        return math.ceil(self.iterations_in_epoch / micro_batches(self.update_batches, self.num_shards))

    def state_dict(self) -> dict[str, Any]:
        """fairseq's state, and in mid-epoch the molecules seen."""
        state = super().state_dict()
        return {**state, "seen": pack(self.seen()), "molecules": len(self.dataset)} if state["iterations_in_epoch"] else state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the molecules seen; UserError if they are of another split."""
        self.epoch, self._next_epoch_itr, self.stored = state_dict["epoch"], None, None
        if not state_dict["iterations_in_epoch"]:
            return
        if state_dict.get("molecules") != len(self.dataset):
            raise UserError(
                f"the checkpoint stopped in the middle of an epoch of {state_dict.get('molecules')} molecules, the training split has "
                f"{len(self.dataset)}; choose the store it was made with, or begin the epoch anew with --reset-dataloader"
            )
        self.stored = StoredEpoch(self.epoch, unpack(state_dict["seen"], len(self.dataset)))
        self.dataset.set_epoch(self.epoch)  # workers start below
        self._next_epoch_itr = self._get_iterator_for_epoch(self.epoch, state_dict["shuffle"])

    def _get_iterator_for_epoch(self, epoch: int, shuffle: bool, fix_batches_to_gpus: bool = False, offset: int = 0) -> Any:
        """A loader of what an epoch still has to come, counted from where it stands."""
        if self.reuse_dataloader and self.dataloader is not None:
            self.epoch_batch_sampler.shuffle = shuffle  # fairseq keeps the first epoch's, so that --curriculum never ends
            self.epoch_batch_sampler.make_batches_for_epoch(epoch)
        else:
            self.epoch_batch_sampler = iterators.FrozenBatchSampler(self.ordered_batches, epoch, fix_batches_to_gpus, shuffle, 0)
            self.dataloader = Loader(
                self.dataset,
                collate_fn=self.collate_fn,
                batch_sampler=self.epoch_batch_sampler,
                num_workers=self.num_workers,
                pin_memory=torch.cuda.is_available(),
                persistent_workers=self.persistent_workers,
                # Ranks that were spawned would spawn their workers too, which import everything again.
                multiprocessing_context="fork" if self.num_workers else None,
            )
        batches = iterators.BufferedIterator(self.buffer_size, self.dataloader) if self.buffer_size else self.dataloader
        return iterators.CountingIterator(batches, start=self.start, total=self.start + len(self.epoch_batch_sampler))


def epoch_iterator(
    dataset: StoreDataset, plan: BatchPlan, *, seed: int, num_shards: int, shard_id: int, num_workers: int, epoch: int, buffer_size: int
) -> MoleculeIterator:
    """fairseq's resumable, sharded iterator over the plan's batches."""
    return MoleculeIterator(
        dataset,
        plan,
        seed=seed,
        num_shards=num_shards,
        shard_id=shard_id,
        num_workers=num_workers,
        epoch=epoch,
        buffer_size=buffer_size,
        # Kept workers would not hear of the epoch that conformers are drawn with.
        persistent_workers=not dataset.many_conformers,
        reuse_dataloader=not dataset.many_conformers,
    )
