"""Information, in nats: the bound that training logs, and the decomposition behind blending (paper, section 3.4)."""

import numpy as np


def entropy(counts: np.ndarray) -> float:
    """H of a discrete distribution given by non-negative weights of any shape, in nats; 0 for no weight at all."""
    weights = np.asarray(counts, dtype=np.float64).reshape(-1)
    total = weights.sum()
    if total == 0:
        return 0.0
    p = weights[weights > 0] / total
    return float(-(p * np.log(p)).sum())


def information_bound(class_counts: np.ndarray, cross_entropy: float) -> float:
    """H(target) - cross-entropy: a lower bound on I(target; input), in nats (Barber & Agakov 2003)."""
    return entropy(class_counts) - cross_entropy


def mutual_information(joint: np.ndarray, x: tuple[int, ...], y: tuple[int, ...], given: tuple[int, ...] = ()) -> float:
    """I(X; Y | Z) in nats, X, Y and Z being groups of axes of a joint distribution."""

    def h(axes: tuple[int, ...]) -> float:
        return entropy(joint.sum(axis=tuple(a for a in range(joint.ndim) if a not in axes)))

    return h(x + given) + h(y + given) - h(x + y + given) - h(given)


def blend_decomposition(joint: np.ndarray) -> tuple[float, float]:
    """Both sides of the decomposition of what the blend [A1, B2] tells of its hidden parts A2 and B1.

    I(A2; A1,B2) + I(B1; A1,B2) = 1/2 [I(A1;B1) + I(A2;B2) + I(A1;B1|B2) + I(A2;B2|A1)]
                                + 1/2 [I(A1;A2) + I(B1;B2) + I(A1;A2|B2) + I(B1;B2|A1)]

    Args:
        joint: distribution over (A1, A2, B1, B2), four axes; A is the 2D and B the 3D depiction of the two relations.
    """
    a1, a2, b1, b2 = (0,), (1,), (2,), (3,)
    i = mutual_information
    left = i(joint, a2, a1 + b2) + i(joint, b1, a1 + b2)
    across = i(joint, a1, b1) + i(joint, a2, b2) + i(joint, a1, b1, b2) + i(joint, a2, b2, a1)
    within = i(joint, a1, a2) + i(joint, b1, b2) + i(joint, a1, a2, b2) + i(joint, b1, b2, a1)
    return left, (across + within) / 2
