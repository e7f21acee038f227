"""Which molecules go into a batch together: every molecule exactly once per epoch, within a budget."""

from dataclasses import dataclass

import numpy as np

from moleblend_fs.errors import UserError

GROUP_SIZE = 256
"""Molecules that are compared with each other unless told otherwise: the batch of most publications."""


@dataclass(frozen=True, kw_only=True)
class BatchBudget:
    """Limits of one batch; None for no limit. A packed batch has no padding, so that costs are plain sums.

    Attributes:
        molecules: most molecules.
        tokens: most tokens (atoms, and one graph token per molecule).
        pairs: most ordered atom pairs.
    """

    molecules: int | None = None
    tokens: int | None = None
    pairs: int | None = None

    def group(self, asked: int, num_atoms: np.ndarray) -> int:
        """Molecules of a group that stays together: as many as are asked for, or of the default as many as surely fit.

        Args:
            asked: 0 for the default.
            num_atoms: (N,) atoms of all molecules.
        """
        if asked:
            if self.molecules is not None and self.molecules < asked:
                raise UserError(
                    f"--negatives-group {asked} is more than a batch holds (--batch-size {self.molecules}); raise --batch-size "
                    "(--update-freq makes up for fewer batches), or lower --negatives-group"
                )
            return asked
        largest = int(num_atoms.max(initial=1))
        limits = (GROUP_SIZE, self.molecules, self.tokens and self.tokens // (largest + 1), self.pairs and self.pairs // largest**2)
        fits = min(limit for limit in limits if limit is not None)
        if fits < 2:
            raise UserError(
                f"the objective compares molecules of a batch with each other, and two of {largest} atoms may not fit into one; raise "
                "--batch-size, --max-tokens or --max-pairs"
            )
        return fits


def make_batches(order: np.ndarray, num_atoms: np.ndarray, budget: BatchBudget, group: int = 1) -> list[np.ndarray]:
    """Cut an order of molecules into batches, each as full as the budget allows.

    Args:
        order: (N,) molecules in the order in which they fill batches.
        num_atoms: (N,) their atoms, in the same order.
        group: that many molecules of the order, from its first on, are kept together; the last of them may be fewer.

    Returns:
        Batches that hold every molecule of `order` exactly once.

    Raises:
        UserError: a molecule, or a group, that alone is over the budget.
    """
    if len(order) == 0:
        return []
    atoms = num_atoms.astype(np.int64)
    firsts = np.arange(0, len(order), group)
    limits = [(np.ones_like(atoms), budget.molecules, "--batch-size"), (atoms + 1, budget.tokens, "--max-tokens")]
    limits.append((atoms**2, budget.pairs, "--max-pairs"))
    costs = [(np.add.reduceat(cost, firsts), limit, name) for cost, limit, name in limits if limit is not None]
    if not costs:
        raise UserError("a batch needs a limit: --batch-size, --max-tokens or --max-pairs")
    for cost, limit, name in costs:
        if cost.max() > limit:
            worst = int(cost.argmax())
            if group == 1:
                what, remedy = f"molecule {order[worst]} of {atoms[worst]} atoms", f"raise {name}"
            else:
                what, remedy = (
                    f"a group of {group} molecules that are compared with each other",
                    f"raise {name}, or lower --negatives-group",
                )
            raise UserError(f"{what} alone is over {name} {limit} (it needs {cost[worst]}); {remedy}")
    # A limit beyond the sum is none; a huge one would overflow below.
    totals = [np.concatenate([[0], np.cumsum(cost)]) for cost, _, _ in costs]
    active = [(total, min(limit, int(total[-1]))) for total, (_, limit, _) in zip(totals, costs, strict=True)]
    batches, start = [], 0
    while start < len(firsts):
        stop = min(int(np.searchsorted(total, total[start] + limit, side="right")) - 1 for total, limit in active)
        batches.append(order[start * group : stop * group])
        start = stop
    return batches


def training_order(indices: np.ndarray, num_atoms: np.ndarray, *, pool: int, seed: int) -> np.ndarray:
    """A random order in which runs of `pool` molecules are sorted by size, so that batches hold molecules of similar size.

    Args:
        indices: (N,) what to order. num_atoms: (N,) atoms of each.
        pool: molecules per run; 1 or less for a plain permutation.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    order = random.permutation(len(indices))
    if pool > 1:
        # Stable sort within each run: key = run number, then size.
        order = order[np.lexsort((num_atoms[order], np.arange(len(order)) // pool))]
    return indices[order]
