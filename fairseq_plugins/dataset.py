"""A split of a store as a fairseq dataset."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fairseq.data import FairseqDataset, data_utils, iterators

from fairseq_plugins.loading import Loader
from moleblend_fs.data.batch import GROUP, MoleculeBatch, collate
from moleblend_fs.data.batching import BatchBudget, make_batches, training_order
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.runtime.epoch_position import pack, remaining, share, slots, unpack


class StoreDataset(FairseqDataset):
    """Molecules of one split.

    Args:
        store: where the records are.
        indices: (N,) molecule indices of the split.
        labels: columns of the store's labels to keep, in this order; all by default.

    Attributes:
        group: molecules that are kept together, see `BatchPlan`; None where each is on its own.
    """

    def __init__(self, store: Store, indices: np.ndarray, labels: Sequence[int] | None = None):
        self.store = store
        self.indices = np.asarray(indices)
        self.num_atoms = store.num_atoms[self.indices].astype(np.int64)
        self.labels = None if labels is None else list(labels)
        self.many_conformers = store.manifest.conformers > store.manifest.molecules_with_3d
        self.conformer_draw = 0
        self.group: int | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> bytes:
        return self.store.record(int(self.indices[index]))

    def __getitems__(self, index: Sequence[int]) -> list[bytes]:
        return self.store.records(self.indices[np.asarray(index, dtype=np.int64)])  # a rank without a batch asks for none

    def collater(self, samples: list[bytes]) -> dict[str, Any]:
        """The mini-batch that tasks and criterions see: {"batch": MoleculeBatch, "nsentences", "ntokens", "id"}."""
        if not samples:
            return {}
        batch = collate(samples, self.conformer_draw)
        if self.labels is not None:
            batch = select_labels(batch, self.labels)
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


class BatchPlan:
    """Callable that fairseq's iterator asks for the batches of an epoch: a pure function of (seed, epoch).

    Args:
        dataset: what is batched.
        budget: limits of a batch.
        pool_batches: batches' worth of molecules that are sorted by size together.
        seed: of the order; None for a fixed order by size (validation).
    """

    def __init__(self, dataset: StoreDataset, budget: BatchBudget, pool_batches: int, seed: int | None):
        self.dataset = dataset
        self.budget = budget
        self.pool_batches = pool_batches
        self.seed = seed

    def __call__(self, dataset: StoreDataset, epoch: int) -> list[np.ndarray]:
        everything = np.arange(len(dataset))
        if self.seed is None:
            order = np.argsort(dataset.num_atoms, kind="stable")
        else:
            pool = self.pool_batches * self._molecules_per_batch()
            order = training_order(everything, dataset.num_atoms, pool=pool, seed=self.seed * 1_000_003 + epoch)
        return self.cut(order)

    def cut(self, order: np.ndarray) -> list[np.ndarray]:
        """Batches of the molecules in an order."""
        return make_batches(order, self.dataset.num_atoms[order], self.budget, self.dataset.group or 1)

    def _molecules_per_batch(self) -> int:
        atoms = self.dataset.num_atoms
        limits = [
            self.budget.molecules,
            self.budget.tokens and self.budget.tokens / (atoms.mean() + 1),
            self.budget.pairs and self.budget.pairs / (atoms**2).mean(),
        ]
        return max(1, int(min(limit for limit in limits if limit)))


class MoleculeIterator(iterators.EpochBatchIterator):
    """fairseq's epoch iterator, with its position kept in molecules: an interrupted epoch is finished on any number of
    processes, with any batches, and each molecule is seen once.

    Attributes:
        update_batches: batches of an update over all processes.
    """

    batch_sampler: BatchPlan

    def __init__(self, dataset: StoreDataset, plan: BatchPlan, **options: Any):
        super().__init__(dataset=dataset, collate_fn=dataset.collater, batch_sampler=plan, **options)
        self.update_batches = self.num_shards
        self.before: tuple[int, np.ndarray] | None = None
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
        self.start = done * slots(self.update_batches, self.num_shards)
        return share(self.coming, self.update_batches, self.num_shards, self.shard_id)

    def _seen_before(self, epoch: int) -> np.ndarray | None:
        """What earlier runs saw of an epoch."""
        return self.before[1] if self.before is not None and self.before[0] == epoch else None

    def seen(self) -> np.ndarray:
        """(N,) bool, molecules of this epoch that were seen, by earlier runs and by this one on all processes."""
        before = self._seen_before(self.epoch)
        result = np.zeros(len(self.dataset), dtype=bool) if before is None else before.copy()
        updates = -(-(self.iterations_in_epoch - self.start) // slots(self.update_batches, self.num_shards))
        for batch in self.coming[: updates * self.update_batches]:
            result[batch] = True
        return result

    def state_dict(self) -> dict[str, Any]:
        """fairseq's state, and in mid-epoch the molecules seen."""
        state = super().state_dict()
        return {**state, "seen": pack(self.seen()), "molecules": len(self.dataset)} if state["iterations_in_epoch"] else state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the molecules seen; UserError if they are of another split."""
        self.epoch, self._next_epoch_itr, self.before = state_dict["epoch"], None, None
        if not state_dict["iterations_in_epoch"]:
            return
        if state_dict.get("molecules") != len(self.dataset):
            raise UserError(
                f"the checkpoint stopped in the middle of an epoch of {state_dict.get('molecules')} molecules, the training split has "
                f"{len(self.dataset)}; choose the store it was made with, or begin the epoch anew with --reset-dataloader"
            )
        self.before = self.epoch, unpack(state_dict["seen"], len(self.dataset))
        self.dataset.set_epoch(self.epoch)  # workers start below
        self._next_epoch_itr = self._get_iterator_for_epoch(self.epoch, state_dict["shuffle"])

    def _get_iterator_for_epoch(self, epoch: int, shuffle: bool, fix_batches_to_gpus: bool = False, offset: int = 0) -> Any:
        """A loader of what an epoch still has to come, counted from where it stands."""
        if self.reuse_dataloader and self.dataloader is not None:
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
