"""Logits of two classes as probabilities."""

import numpy as np


def probability(logit: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logit)), of class 1."""
    with np.errstate(over="ignore"):  # of very negative logits: 1 / (1 + inf) is right
        return 1 / (1 + np.exp(-logit))
