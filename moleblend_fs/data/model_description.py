"""What a model says of itself wherever it is kept, in a checkpoint or exported: what it predicts, and what it was trained on."""

from dataclasses import dataclass
from typing import Any, Protocol

from moleblend_fs.data.trained_on import TrainedOn

INPUTS = ("2d", "3d", "2d+3d", "2d+predicted3d")
"""What a finetuned model is shown of a molecule. The last: 2D, and the distances that a pretrained model predicts from 2D."""
PREDICTED = INPUTS[-1]


def reads_structures(inputs: str) -> bool:
    """Whether a model of these inputs looks at coordinates."""
    return "3d" in inputs.split("+")


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetunedFor:
    """How a finetuned model reads molecules and what its outputs mean.

    Attributes:
        inputs: one of `INPUTS`.
        targets: label names, one per output.
        kinds: "regression" or "classification", one per output. units: one per output.
        mean, std: what regression outputs are scaled by: value = mean + std * output; 0 and 1 for classification.
    """

    inputs: str
    targets: tuple[str, ...]
    kinds: tuple[str, ...]
    units: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Described(Protocol):
    """A model as far as molecules are prepared for it, and its numbers are read.

    Attributes:
        finetuned: what its property head is for, or None.
        trained_on: the store that it was trained on, or None where that is not known.
        about: where it comes from; "file" is its name in messages.
    """

    @property
    def finetuned(self) -> FinetunedFor | None: ...

    @property
    def trained_on(self) -> TrainedOn | None: ...

    @property
    def about(self) -> dict[str, Any]: ...
