"""The decomposition of what a blend tells, and the bound that training logs."""

import numpy as np
import pytest

from moleblend_fs.objectives.common.information import blend_decomposition, entropy, information_bound, mutual_information

SHAPES = [(2, 2, 2, 2), (3, 2, 4, 5), (1, 3, 3, 2)]


def random_joint(shape, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    joint = generator.dirichlet(np.full(int(np.prod(shape)), 0.3)).reshape(shape)
    if seed % 2:
        joint[generator.random(shape) < 0.3] = 0  # impossible outcomes
    return joint / joint.sum()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_both_sides_agree(shape, seed):
    left, right = blend_decomposition(random_joint(shape, seed))
    assert left == pytest.approx(right, abs=1e-12)
    assert left > 0.01


@pytest.mark.parametrize("seed", range(4))
def test_each_side_by_sums_over_outcomes(seed):
    """Both sides once more from the definition sum p log p(x, y | z) / p(x | z) p(y | z), and the printed (mistyped) equation."""
    joint = random_joint((2, 3, 2, 3), seed)

    def i(x, y, z=()):
        def margin(axes):
            return joint.sum(axis=tuple(a for a in range(4) if a not in axes), keepdims=True)

        ratio = margin(x + y + z) * margin(z) / (margin(x + z) * margin(y + z) + 1e-300)
        return float((joint * np.log(np.where(joint > 0, ratio, 1))).sum())

    a1, a2, b1, b2 = (0,), (1,), (2,), (3,)
    left = i(a2, a1 + b2) + i(b1, a1 + b2)
    right = i(a1, b1) + i(a2, b2) + i(a1, b1, b2) + i(a2, b2, a1) + i(a1, a2) + i(b1, b2) + i(a1, a2, b2) + i(b1, b2, a1)
    assert blend_decomposition(joint) == pytest.approx((left, right / 2), abs=1e-12)
    assert mutual_information(joint, a1, b2, a2) == pytest.approx(i(a1, b2, a2), abs=1e-12)
    mistyped = right - i(b1, b2, a1) + i(b1, b2, a2)
    assert abs(mistyped / 2 - left) > 1e-3


def test_known_values():
    assert entropy(np.array([1, 1, 1, 1])) == pytest.approx(np.log(4))
    assert entropy(np.array([5, 0])) == 0
    assert entropy(np.zeros(3)) == 0
    copied = np.diag([0.25, 0.75])
    assert mutual_information(copied, (0,), (1,)) == pytest.approx(entropy(np.array([1, 3])))
    assert mutual_information(np.outer([0.3, 0.7], [0.5, 0.5]), (0,), (1,)) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("seed", range(5))
def test_the_bound_is_below_the_information_and_reached_by_the_true_posterior(seed):
    """H(target) - cross-entropy of any predictor <= I(target; input), with equality for p(target | input)."""
    generator = np.random.default_rng(seed)
    joint = generator.dirichlet(np.full(12, 0.5)).reshape(4, 3)  # input x target
    truth = mutual_information(joint, (0,), (1,))
    posterior = joint / joint.sum(axis=1, keepdims=True)

    def bound(prediction: np.ndarray) -> float:
        return information_bound(joint.sum(axis=0), float(-(joint * np.log(prediction + 1e-300)).sum()))

    assert bound(posterior) == pytest.approx(truth, abs=1e-12)
    for _ in range(20):
        prediction = generator.dirichlet(np.ones(3), size=4)
        assert bound(prediction) < truth
    assert bound(np.tile(joint.sum(axis=0), (4, 1))) == pytest.approx(0, abs=1e-12)
