"""Whether an exported model says what the model says that it was made from."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

import numpy as np

from moleblend_fs.data.record import summary
from moleblend_fs.errors import UserError

LIMIT = 1e-5
"""Largest difference, in units of what outputs are scaled by, or of the value where that is more: both compute in float32, in other
orders. Of models that amplify rounding more than that, see `check`."""
ROUNDINGS = 4
"""How many times the model's own rounding a difference may be."""


class Gives(Protocol):
    """`Forward` or `OnnxForward`."""

    def batches(self, num_atoms: np.ndarray) -> list[np.ndarray]: ...

    def submit_records(self, records: Sequence[bytes]) -> "Future[np.ndarray]": ...


def outputs_of(forward: Gives, records: Sequence[bytes]) -> np.ndarray:
    """(members, molecules, k)."""
    sizes = np.array([summary(record)[0] for record in records])
    begun = [(places, forward.submit_records([records[place] for place in places])) for places in forward.batches(sizes)]
    found: dict[int, np.ndarray] = {}
    for places, values in begun:
        found |= dict(zip(places.tolist(), np.moveaxis(values.result(), 1, 0), strict=True))
    return np.stack([found[place] for place in range(len(records))], axis=1)


def largest_difference(expected: np.ndarray, found: np.ndarray) -> float:
    """Of |found - expected| / max(1, |expected|); infinite where only one is a number."""
    if not np.array_equal(np.isfinite(expected), np.isfinite(found)):
        return float("inf")
    difference = np.abs(found - expected) / np.maximum(1, np.abs(expected))
    return float(np.nanmax(difference, initial=0.0))


def check(exact: np.ndarray, expected: np.ndarray, found: np.ndarray, name: str) -> None:
    """UserError where an exported model is further from the model in float64 than rounding of float32 in the model itself explains.

    Args:
        exact, expected: of the model, in float64 and in float32. found: of the exported one.
    """
    rounding, difference = largest_difference(exact, expected), largest_difference(exact, found)
    if not difference <= max(LIMIT, ROUNDINGS * rounding):
        raise UserError(
            f"{name}: the exported model's outputs differ from the model's by {difference:.2g}, where its own rounding is {rounding:.2g}; "
            "nothing was written. Please report it, with the versions that `moleblend doctor` prints"
        )
