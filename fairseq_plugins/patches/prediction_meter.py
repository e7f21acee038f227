"""Derives from `fairseq.logging.meters.MetersDict._DerivedMeter` (fairseq 0.12), the one kind that is not saved with a checkpoint."""

import numpy as np
from fairseq.logging import meters

PINS = {
    "fairseq.logging.meters.MetersDict": "b385a32cc926",
}


class PredictionMeter(meters.MetersDict._DerivedMeter):
    """Collects predictions and labels, for scores that are no means over batches.

    Of the kind that fairseq leaves out of its checkpoints: it makes those that it finds there again from classes of its own.
    """

    def __init__(self) -> None:
        super().__init__(lambda _: float(sum(len(p) for p in self.predictions)))
        self.reset()

    def reset(self) -> None:
        self.predictions: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []

    def update(self, prediction: np.ndarray, label: np.ndarray) -> None:
        self.predictions.append(prediction)
        self.labels.append(label)
