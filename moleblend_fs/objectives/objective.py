"""What a pretraining objective is. Each is one file of this folder, found by `registry`; nothing else knows one by name.

An objective has options, says which heads the model carries for it, what the model is shown of a batch and what counts, and gives the
sums of its losses. Weighting, normalising over ranks and micro-batches (`common/loss`), logging and saving are not its business.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.manifest import Manifest
from moleblend_fs.data.sidecar import SidecarManifest
from moleblend_fs.errors import UserError
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import Shown
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


NATS = "cross-entropy (nats)"
"""Unit of losses of classes."""


class Label(NamedTuple):
    """A label that batches carry for an objective: its column there, mean and standard deviation over the training split, and unit."""

    column: int
    mean: float
    std: float
    unit: str = ""


class Curve(NamedTuple):
    """How a report draws a loss.

    Attributes:
        title, unit: of the panel.
        uninformed: the loss of a predictor that knows nothing of its input, if that is a number.
        information: what is logged that, added to the loss, gives the entropy of the target, if anything is; about: of what.
    """

    title: str
    unit: str
    uninformed: float | None = None
    information: str | None = None
    about: str = ""


class Read(NamedTuple):
    """What was logged since the last line of the log, read back.

    Attributes:
        mean: term -> its mean loss. statistic: name of a statistic -> its sum, an array.
    """

    mean: Callable[[str], float]
    statistic: Callable[[str], np.ndarray]


class Pictured(NamedTuple):
    """What a report draws of molecules.

    Attributes:
        relations: (P,) uint8, which relations each pair shows the model, as `Shown.relations`.
        told: how they were chosen, to follow "shows the model one relation only, ".
    """

    relations: Tensor
    told: str


class Objective(ABC):
    """A pretraining objective with its options.

    Attributes:
        name: in `--objective NAME`; aliases: other names for it there.
        Options: a dataclass of `moleblend_fs.option_fields.option`s; they become options of the command line.
        curves: term -> how reports draw its loss.
        columns: option -> its heading in the reports' table of runs, of options that deserve a column.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    Options: ClassVar[type]
    curves: ClassVar[Mapping[str, Curve]] = {}
    columns: ClassVar[Mapping[str, str]] = {}

    def __init__(self, options: Any):
        self.options = options

    @abstractmethod
    def heads(self) -> tuple[str, ...]:
        """Names of the heads that the model carries: of `model.heads.HEADS`, or made known by `model.heads.register_head`."""

    @abstractmethod
    def terms(self) -> tuple[Term, ...]:
        """The losses, in the order of `loss_sums` and of `Prepared.counts`."""

    def check(self, manifest: Manifest, store: str) -> None:  # noqa: B027  most need nothing
        """UserError if a store lacks what the objective needs."""

    @property
    def passes(self) -> float:
        """Cost of a step: passes of the encoder over all molecules, forward and backward."""
        return 1.0

    def facts(self) -> dict[str, Any]:
        """What checkpoints and logs say of it, as JSON values: of each objective its name, weight, all of its options, and its terms with
        their weights; and the cost of a step."""
        return {"objectives": [self.own_facts(1.0)], "passes": self.passes}

    def own_facts(self, weight: float) -> dict[str, Any]:
        """Of one objective in a sum, see `facts`."""
        options = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self.options).items()}
        return {"name": self.name, "weight": weight, "options": options, "terms": {term.name: term.weight for term in self.terms()}}

    @property
    def group(self) -> int | None:
        """How many molecules compare themselves with each other; None where each is on its own. See `common/groups`."""
        return None

    @property
    def conformers(self) -> int:
        """How many conformers of each molecule batches are to carry, where there are so many; see `common/dual_views`."""
        return 1

    def labels(self, manifest: Manifest) -> tuple[str, ...]:
        """Names of the labels that batches are to carry; UserError if the store lacks one. None for what learns from molecules alone."""
        return ()

    def take_labels(self, labels: Mapping[str, Label]) -> None:  # noqa: B027  most need none
        """Where in a batch its labels are, and their scales."""

    def sidecars(self) -> tuple[str, ...]:
        """Names of the sidecars whose values batches are to carry, as `extra`, see `data.sidecar`."""
        return ()

    def take_sidecars(self, sidecars: Mapping[str, SidecarManifest]) -> None:  # noqa: B027  most need none
        """What is in them."""

    def config_fields(self) -> dict[str, Any]:
        """Fields of the model's configuration that follow from the data; after `take_sidecars`. Of new heads in its `sizes`."""
        return {}

    @property
    def prepares_on_device(self) -> bool:
        """Whether `prepare` is called with the batch on the device: then it never asks how many of something there are, which would wait
        for the update before. All others prepare on the CPU meanwhile, and `common/to_device` sends what they made."""
        return False

    def begin(self, model: MoleBlend) -> None:  # noqa: B027  most need nothing
        """Set what its heads begin with where that follows from data, before any training."""

    @abstractmethod
    def prepare(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Prepared:
        """All of a micro-batch that needs no model, places of what counts among it: nothing in `loss_sums` and `statistics` may wait for
        the device. Draws are hashes of (seed, epoch, molecule, place), see `common/hashed_draws`."""

    @abstractmethod
    def loss_sums(self, model: MoleBlend, prepared: Prepared) -> Tensor:
        """(terms,) sums of the losses, float32 or wider, not divided by anything."""

    def pictured(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Pictured | None:
        """What a report draws of molecules, as training shows them; None where all pairs show the same, and nothing is drawn."""
        return None

    @classmethod
    def weighing(cls, weights: Mapping[str, float]) -> "Objective":
        """The objective with these weights of its losses, by term: for files of golden numbers, which say no other options."""
        raise NotImplementedError

    def prepare_shown(self, batch: MoleculeBatch, layout: Layout, shown: Shown, noise: Tensor) -> Prepared:
        """As `prepare`, with what is shown and the noise (A, 3), Angstrom, given: for files of golden numbers."""
        raise NotImplementedError

    def statistics(self, prepared: Prepared) -> dict[str, Tensor]:
        """Vectors that are summed over batches and ranks, for `logged`; always the same names and sizes."""
        return {}

    def logged(self) -> dict[str, Callable[[Read], float]]:
        """Numbers that are logged beside the losses, and how they follow from what was summed."""
        return {}


def needs_structures(manifest: Manifest, store: str, objective: str) -> None:
    """UserError if a store has none."""
    if manifest.molecules_with_3d == 0:
        raise UserError(
            f"{store} has no 3D structures, and --objective {objective} learns from them; "
            "preprocess a source with structures (or with --conformers), or choose another objective"
        )
