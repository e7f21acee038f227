"""Which molecules go together in the batches of an epoch."""

import numpy as np

from fairseq_plugins.dataset import StoreDataset
from moleblend_fs.data.batching import BatchBudget, make_batches, training_order


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
