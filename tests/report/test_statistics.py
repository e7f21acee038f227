"""Resampled scores are scikit-learn's with weights; intervals are repeatable and cover."""

import numpy as np
import pytest
from sklearn import metrics

from moleblend_fs.report.statistics import draws, interval, reliability, scores, weights


@pytest.mark.parametrize("ties", [False, True])
def test_weighted_scores_are_scikit_learns(ties):
    rng = np.random.default_rng(0)
    target = (rng.random(60) < 0.3).astype(np.float64)
    prediction = np.clip(0.3 * target + rng.random(60) * 0.7, 0, 1)
    prediction = np.round(prediction, 1) if ties else prediction
    weight = rng.multinomial(60, np.full(60, 1 / 60), size=5).astype(np.float64)
    found = scores(prediction, target, weight)
    said = prediction > 0.5
    for row, w in enumerate(weight):
        expected = {
            "roc_auc": metrics.roc_auc_score(target, prediction, sample_weight=w),
            "pr_auc": metrics.average_precision_score(target, prediction, sample_weight=w),
            "balanced_accuracy": metrics.balanced_accuracy_score(target, said, sample_weight=w),
            "f1": metrics.f1_score(target, said, sample_weight=w),
            "mcc": metrics.matthews_corrcoef(target, said, sample_weight=w),
            "mae": metrics.mean_absolute_error(target, prediction, sample_weight=w),
            "rmse": metrics.root_mean_squared_error(target, prediction, sample_weight=w),
            "r2": metrics.r2_score(target, prediction, sample_weight=w),
        }
        for name, value in expected.items():
            assert found[name][row] == pytest.approx(value, rel=1e-9, abs=1e-12), name
        inside = np.clip(prediction, 1e-9, 1 - 1e-9)
        loss = metrics.log_loss(target, inside, sample_weight=w)
        assert found["log_loss"][row] == pytest.approx(loss, rel=1e-6) or ties  # rounded predictions of 0 and 1 are surer than 1e-9


def test_intervals_are_those_of_the_seed_and_as_wide_as_theory_says():
    """The mean of |N(0, 1)| over n has the standard error sqrt((1 - 2 / pi) / n): the interval is 3.92 of these, within a tenth."""
    error = np.random.default_rng(1).normal(size=(2000, 1))
    first, again, other = (draws(error, np.zeros_like(error), seed=seed)[0]["mae"] for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    low, high = interval(first)
    assert low < np.abs(error).mean() < high
    assert high - low == pytest.approx(3.92 * np.sqrt((1 - 2 / np.pi) / 2000), rel=0.1)


def test_molecules_without_a_label_are_not_drawn_and_targets_share_their_molecules():
    rng = np.random.default_rng(2)
    target = rng.normal(size=(50, 1)).repeat(2, axis=1)
    prediction = target + rng.normal(size=(50, 1))
    holes = target.copy()
    holes[::2, 1] = np.nan
    whole, same = draws(prediction, target, seed=0)
    _, part = draws(prediction, holes, seed=0)
    np.testing.assert_allclose(whole["mae"], same["mae"])
    [alone] = draws(prediction[1::2, 1:], target[1::2, 1:], seed=0)
    assert part["mae"].mean() == pytest.approx(alone["mae"].mean(), abs=0.05)
    assert np.abs(whole["mae"] - part["mae"]).max() > 0.01


@pytest.mark.parametrize(
    "target", [np.zeros((0, 1)), np.full((5, 1), np.nan), np.zeros((5, 1)), np.ones((1, 1))], ids=["none", "missing", "one class", "one"]
)
def test_what_is_not_defined_has_no_interval(target):
    [found] = draws(np.full(target.shape, 0.3), target, seed=0)
    assert interval(found.get("roc_auc")) is None
    assert interval(found.get("r2")) is None


def test_large_splits_are_resampled_less_often():
    assert sum(len(part) for part in weights(40, 0)) == 1000
    assert sum(len(part) for part in weights(400_000, 0)) == 100


def test_reliability_counts_each_molecule_once():
    prediction = np.array([0.0, 0.05, 0.31, 0.39, 1.0])
    rows = reliability(prediction, np.array([0.0, 1.0, 0.0, 1.0, 1.0]))
    assert rows == [(pytest.approx(0.025), 0.5, 2), (pytest.approx(0.35), 0.5, 2), (1.0, 1.0, 1)]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_or_two_molecules_have_no_interval(count):
    [found] = draws(np.arange(count)[:, None] / 10, np.zeros((count, 1)), seed=0)
    assert (interval(found.get("mae")) is None) == (count < 3)
