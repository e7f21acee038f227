"""How long to train and with what steps, by the number of molecules: what `moleblend finetune` chooses where it is not told."""

from typing import NamedTuple


class Recipe(NamedTuple):
    """How long and with what steps to train.

    Attributes:
        arch: size of a model that starts from random weights.
        batch_size: molecules in an update. epochs: passes over the training molecules.
        lr: the learning rate.
    """

    arch: str
    batch_size: int
    epochs: int
    lr: float


RECIPES = (
    (300, "tiny", (16, 120, 1e-3), (16, 40, 2e-4)),
    (1_000, "tiny", (16, 60, 1e-3), (32, 20, 2e-4)),
    (3_000, "tiny", (32, 40, 1e-3), (32, 20, 2e-4)),
    (10_000, "tiny", (32, 30, 1e-3), (32, 15, 1e-4)),
    (100_000, "small", (64, 20, 5e-4), (64, 15, 1e-4)),
    (float("inf"), "small", (128, 10, 5e-4), (128, 10, 1e-4)),
)
"""(most training molecules, size of random weights, (molecules of an update, epochs, learning rate) from random weights, and from others):
docs/finetune.md has the table, and what it was chosen on."""
FEW, FEW_QUANTITIES = 600, (16, 40, 5e-4)
"""Up to so many training molecules, quantities are learned from weights like this: 32 molecules an update, 20 times over, leave what grows
with the molecule half learned. Classes came out worse so."""


OUTPUT_SCALE = 10.0
"""Of a property head on pretrained weights (`ModelConfig.output_scale`): it knows nothing yet, and would learn as slowly as the encoder
should."""


def recipe_for(molecules: int, pretrained: bool, kind: str) -> Recipe:
    """The recipe of a number of training molecules with labels of a kind (`LabelSpec.kind`)."""
    _, arch, random, others = next(row for row in RECIPES if molecules <= row[0])
    if molecules <= FEW and kind == "regression":
        others = FEW_QUANTITIES
    return Recipe(arch, *(others if pretrained else random))
