"""Borders of scores: the threshold of decisions, where none is defined, outputs that are no numbers. (Values: `test_finetuning`.)"""

import math

import numpy as np
import pytest

from moleblend_fs.data.logits import probability
from moleblend_fs.objectives.common.metrics import SCORES, average, log_loss, mae, r2, roc_auc, scores

NAN = float("nan")
LOGITS = np.array([2.0, -1.0, 0.5, -3.0, 9.0])
LABELS = np.array([1.0, 1.0, 0.0, 0.0, NAN])
"""Right, wrong, wrong, right, and one that counts for nothing."""


def test_a_decision_is_class_1_above_a_probability_of_one_half():
    """0 itself is not above."""
    logits, labels = np.array([0.0, 0.1, -0.1, 3.0]), np.array([0.0, 1.0, 0.0, 1.0])
    assert SCORES["classification"]["balanced_accuracy"](logits, labels) == 1.0
    assert SCORES["classification"]["mcc"](np.array([3.0, 0.9, -2.0]), np.array([0.0, 1.0, 0.0])) == pytest.approx(0.5)
    assert SCORES["classification"]["f1"](np.array([3.0, 0.9, -2.0]), np.array([0.0, 1.0, 0.0])) == pytest.approx(2 / 3)


def test_where_no_score_is_defined():
    missing = np.full(5, NAN)
    assert all(score(LOGITS, missing) is None for kind in SCORES.values() for score in kind.values())
    one_class = np.ones(5)
    undefined = {name for name, score in SCORES["classification"].items() if score(LOGITS, one_class) is None}
    assert undefined == set(SCORES["classification"]) - {"log_loss"}
    assert r2(np.array([1.0, 2.0]), np.array([3.0, 3.0])) is None
    assert r2(np.array([1.0, 7.0]), np.array([3.0, NAN])) is None
    assert mae(np.array([1.0, 7.0]), np.array([3.0, NAN])) == 2.0


def test_outputs_that_are_no_numbers_have_no_score_among_numbers():
    """NaN for a present label; an infinite logit only breaks what sorts by it; one without a label counts for nothing."""
    for broken in (NAN, np.inf):
        logits = LOGITS.copy()
        logits[0] = broken
        assert math.isnan(roc_auc(logits, LABELS))
    logits = LOGITS.copy()
    logits[4] = NAN
    assert roc_auc(logits, LABELS) == 3 / 4
    logits[0] = NAN
    with np.errstate(all="raise"):
        assert math.isnan(log_loss(logits, LABELS))


def test_probabilities():
    with np.errstate(all="raise"):
        assert probability(np.array([0.0, math.log(3), -1000.0])).tolist() == pytest.approx([0.5, 0.75, 0.0])


def test_scores_of_several_targets_and_their_average():
    prediction = np.array([[1, 5, 3], [2, 5, 3]], dtype=np.float32)
    label = np.array([[2, NAN, 1], [2, NAN, 3]], dtype=np.float32)
    found = scores(prediction, label, ("a", "b", "c"), "regression")
    assert list(found) == ["a", "b", "c"]
    assert found["a"] == {"mae": 0.5, "rmse": pytest.approx(math.sqrt(0.5)), "r2": None}
    assert found["b"] == {"mae": None, "rmse": None, "r2": None}
    assert found["c"]["r2"] == pytest.approx(1 - 4 / 2)
    assert average(found, "mae") == pytest.approx((0.5 + 1) / 2)
    assert average(found, "r2") == pytest.approx(-1)
    assert average({"b": found["b"]}, "mae") is None
    assert scores(prediction, label, ("a", "b", "c"), "regression", only=("mae",))["a"] == {"mae": 0.5}
    with pytest.raises(ValueError, match="zip"):
        scores(prediction, label, ("a", "b"), "regression")
