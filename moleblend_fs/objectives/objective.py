"""What a pretraining objective is. Each is one file of this folder, found by `registry`; nothing else knows one by name.

An objective has options, says which heads the model carries for it, what the model is shown of a batch and what counts, and gives the
sums of its losses. Weighting, normalising over ranks and micro-batches (`loss`), logging and saving are not its business.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.manifest import Manifest
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.ops.layout import Layout


class Term(NamedTuple):
    """One of an objective's losses: its name in logs (as NAME_loss) and its weight."""

    name: str
    weight: float


@dataclass(slots=True)
class Prepared:
    """A micro-batch on its device, ready for the model.

    Attributes:
        batch, layout: the molecules.
        counts: (terms,) float64, how many places each loss is a sum over.
        parts: what the objective itself needs besides: what is shown, targets.
    """

    batch: MoleculeBatch
    layout: Layout
    counts: Tensor
    parts: Any


class Read(NamedTuple):
    """What was logged since the last line of the log, read back.

    Attributes:
        mean: term -> its mean loss. statistic: name of a statistic -> its sum, an array.
    """

    mean: Callable[[str], float]
    statistic: Callable[[str], np.ndarray]


class Objective(ABC):
    """A pretraining objective with its options.

    Attributes:
        name: in `--objective NAME`.
        Options: a dataclass of `moleblend_fs.options.option`s; they become options of the command line.
    """

    name: ClassVar[str]
    Options: ClassVar[type]

    def __init__(self, options: Any):
        self.options = options

    @abstractmethod
    def heads(self) -> tuple[str, ...]:
        """Names of the heads that the model carries: of `model.config.HEADS`, or made known by `model.heads.register_head`."""

    @abstractmethod
    def terms(self) -> tuple[Term, ...]:
        """The losses, in the order of `loss_sums` and of `Prepared.counts`."""

    def check(self, manifest: Manifest, store: str) -> None:  # noqa: B027  most need nothing
        """UserError if a store lacks what the objective needs."""

    @abstractmethod
    def prepare(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Prepared:
        """All of a micro-batch that needs no model. Draws are hashes of (seed, epoch, molecule, place), see `random_draws`."""

    @abstractmethod
    def loss_sums(self, model: MoleBlend, prepared: Prepared) -> Tensor:
        """(terms,) sums of the losses, float32 or wider, not divided by anything."""

    def statistics(self, prepared: Prepared) -> dict[str, Tensor]:
        """Vectors that are summed over batches and ranks, for `logged`; always the same names and sizes."""
        return {}

    def logged(self) -> dict[str, Callable[[Read], float]]:
        """Numbers that are logged beside the losses, and how they follow from what was summed."""
        return {}
