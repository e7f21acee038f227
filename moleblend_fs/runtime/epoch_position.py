"""Where an epoch stands, kept in molecules: which of them were seen, whatever batches and processes they came in."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Batches = Sequence[np.ndarray]


def remaining(batches: Batches, seen: np.ndarray | None, cut: Callable[[np.ndarray], list[np.ndarray]]) -> list[np.ndarray]:
    """The batches of an epoch that are still to come.

    Args:
        batches: of the whole epoch, in order.
        seen: (N,) bool, molecules seen before; None for none.
        cut: makes batches from an order of molecules.

    Returns:
        The epoch's own batches where each was seen wholly or not at all (nothing but the number of processes changed);
        else its unseen molecules in the same order, cut anew.
    """
    if seen is None or not seen.any():
        return list(batches)
    shares = [seen[batch].mean() for batch in batches]
    if all(share in (0.0, 1.0) for share in shares):
        return [batch for batch, share in zip(batches, shares, strict=True) if share == 0.0]
    order = np.concatenate(list(batches))
    return cut(order[~seen[order]])


def batches_of_rank(batches: Batches, update_batches: int, processes: int, rank: int) -> list[np.ndarray | list[int]]:
    """A rank's batches: of each update (`update_batches` of the epoch's) every `processes`-th, and empty ones where it has
    fewer than other ranks. Updates hold the same molecules on any number of processes."""
    result: list[np.ndarray | list[int]] = []
    for start in range(0, len(batches), update_batches):
        update = batches[start : start + update_batches]
        mine = list(update[rank::processes])
        result += [*mine, *([[]] * (micro_batches(len(update), processes) - len(mine)))]
    return result


def micro_batches(batches: int, processes: int) -> int:
    """Micro-batches of an update on each process."""
    return -(-batches // processes)


def pack(seen: np.ndarray) -> Tensor:
    """(N,) bool as bits: a byte for eight molecules."""
    return torch.from_numpy(np.packbits(seen))


def unpack(bits: Tensor, molecules: int) -> np.ndarray:
    """The inverse of `pack`."""
    return np.unpackbits(bits.numpy(), count=molecules).astype(bool)
