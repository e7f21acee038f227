"""Which molecules go into a batch together: every molecule exactly once per epoch, within a budget."""

from dataclasses import dataclass

import numpy as np

from moleblend_fs.errors import UserError


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


def make_batches(order: np.ndarray, num_atoms: np.ndarray, budget: BatchBudget) -> list[np.ndarray]:
    """Cut an order of molecules into batches, each as full as the budget allows.

    Args:
        order: (N,) molecules in the order in which they fill batches.
        num_atoms: (N,) their atoms, in the same order.

    Returns:
        Batches that hold every molecule of `order` exactly once.

    Raises:
        UserError: a molecule that alone is over the budget.
    """
    if len(order) == 0:
        return []
    atoms = num_atoms.astype(np.int64)
    limits = [(np.ones_like(atoms), budget.molecules, "--batch-size"), (atoms + 1, budget.tokens, "--max-tokens")]
    limits.append((atoms**2, budget.pairs, "--max-pairs"))
    active = [(np.concatenate([[0], np.cumsum(cost)]), limit, name) for cost, limit, name in limits if limit is not None]
    if not active:
        raise UserError("a batch needs a limit: --batch-size, --max-tokens or --max-pairs")
    for total, limit, name in active:
        cost = np.diff(total)
        if cost.max() > limit:
            worst = int(cost.argmax())
            raise UserError(
                f"molecule {order[worst]} of {atoms[worst]} atoms alone is over {name} {limit} (it needs {cost[worst]}); raise {name}"
            )
    # A limit beyond the sum is none; a huge one would overflow below.
    active = [(total, min(limit, int(total[-1])), name) for total, limit, name in active]
    batches, start = [], 0
    while start < len(order):
        stop = min(int(np.searchsorted(total, total[start] + limit, side="right")) - 1 for total, limit, _ in active)
        batches.append(order[start:stop])
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
