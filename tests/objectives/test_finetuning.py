"""Losses and scores of property prediction, with labels missing."""

import math

import numpy as np
import pytest
import torch

from moleblend_fs.data.logits import probability
from moleblend_fs.errors import UserError
from moleblend_fs.objectives.common.metrics import average, log_loss, mae, r2, rmse, roc_auc, scores
from moleblend_fs.objectives.finetuning import property_loss, shared_kind

PREDICTION = [[0.5, -1.0], [2.0, 3.0], [-0.7, 0.1]]
LABEL = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
PRESENT = [[True, False], [True, True], [False, True]]


@pytest.mark.parametrize(
    ("kind", "loss", "each"),
    [
        ("classification", "mse", lambda z, y: -(y * math.log(1 / (1 + math.exp(-z))) + (1 - y) * math.log(1 - 1 / (1 + math.exp(-z))))),
        ("regression", "mse", lambda z, y: (z - y) ** 2),
        ("regression", "mae", lambda z, y: abs(z - y)),
    ],
)
def test_only_labels_that_are_present_count(kind, loss, each):
    z, y, there = torch.tensor(PREDICTION, requires_grad=True), torch.tensor(LABEL, dtype=torch.float64), torch.tensor(PRESENT)
    total = property_loss(z, torch.where(there, y, 1e60), there, kind, loss)
    expected = sum(each(PREDICTION[i][k], LABEL[i][k]) for i in range(3) for k in range(2) if PRESENT[i][k])
    assert float(total.detach()) == pytest.approx(expected, rel=1e-6)
    total.backward()
    assert torch.equal(z.grad != 0, there)


def test_half_precision_losses_are_float32():
    z = torch.tensor(PREDICTION, dtype=torch.bfloat16)
    assert property_loss(z, torch.tensor(LABEL), torch.tensor(PRESENT), "regression", "mse").dtype == torch.float32


def pairwise_auc(score, label) -> float:
    """P(a positive scores above a negative), ties half."""
    pairs = [(p, n) for p, y in zip(score, label, strict=True) if y == 1 for n, x in zip(score, label, strict=True) if x == 0]
    return sum((p > n) + (p == n) / 2 for p, n in pairs) / len(pairs)


@pytest.mark.parametrize("seed", range(3))
def test_roc_auc_by_pairs(seed):
    generator = np.random.default_rng(seed)
    score, label = generator.integers(0, 6, 30).astype(float), generator.integers(0, 2, 30).astype(float)
    missing = generator.random(30) < 0.3
    there = label[~missing]
    assert roc_auc(score, np.where(missing, np.nan, label)) == pytest.approx(pairwise_auc(score[~missing], there))


def test_scores_of_tasks_without_both_classes_are_left_out_of_the_average():
    nan = float("nan")
    label = np.array([[1, 1, nan], [0, 1, nan], [1, nan, nan]])
    prediction = np.array([[2.0, 0, 0], [1.0, 0, 0], [3.0, 0, 0]])
    rows = scores(prediction, label, ("a", "b", "c"), "classification", only=("roc_auc",))
    assert rows == {"a": {"roc_auc": 1.0}, "b": {"roc_auc": None}, "c": {"roc_auc": None}}
    assert average(rows, "roc_auc") == 1.0
    assert average({"b": rows["b"]}, "roc_auc") is None


def test_scores_of_decisions_by_counting():
    """3 true and 1 false positive, 2 false and 4 true negatives; one label is missing."""
    label = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0, np.nan])
    logit = np.array([2.0, 0.5, 0.1, 3.0, -0.1, -4.0, -1.0, -2.0, -0.5, -3.0, 9.0])
    row = scores(logit[:, None], label[:, None], ("a",), "classification")["a"]
    assert row["balanced_accuracy"] == pytest.approx((3 / 5 + 4 / 5) / 2)
    assert row["f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert row["mcc"] == pytest.approx((3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6))
    # Positives stand at ranks 2, 3, 4, 5 and 10 of ten.
    assert row["pr_auc"] == pytest.approx((1 / 2 + 2 / 3 + 3 / 4 + 4 / 5 + 5 / 10) / 5)
    assert row["roc_auc"] == pytest.approx(pairwise_auc(logit[:10], label[:10]))
    p = probability(logit[:10])
    assert row["log_loss"] == pytest.approx(-np.where(label[:10] == 1, np.log(p), np.log(1 - p)).mean())


def test_log_loss_is_exact_for_any_logit_and_needs_no_second_class():
    assert log_loss(np.array([800.0, -800.0]), np.array([0.0, 0.0])) == 400.0
    assert log_loss(np.array([1.0]), np.array([np.nan])) is None
    assert probability(np.array([-1000.0, 0.0, 1000.0])).tolist() == [0.0, 0.5, 1.0]


def test_a_logit_that_is_no_number_makes_every_score_none():
    row = scores(np.array([[np.nan], [1.0]]), np.array([[0.0], [1.0]]), ("a",), "classification")["a"]
    assert all(math.isnan(value) for value in row.values())


def test_regression_scores():
    label, prediction = np.array([1.0, 2, 4, np.nan]), np.array([1.5, 2, 2, 9])
    assert mae(prediction, label) == pytest.approx(2.5 / 3)
    assert rmse(prediction, label) == pytest.approx(math.sqrt(4.25 / 3))
    assert r2(prediction, label) == pytest.approx(1 - 4.25 / (14 / 3))
    empty = np.full(4, np.nan)
    assert mae(prediction, empty) is rmse(prediction, empty) is r2(prediction, empty) is None


def test_mixed_kinds_are_told():
    with pytest.raises(UserError, match=r"a \(regression\), b \(classification\); choose with --targets"):
        shared_kind(("regression", "classification"), ("a", "b"))


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_losses_and_gradients_are_of_the_predictions_type(kind):
    """Labels are float64 in stores; a loss in float64 would be slow on GPUs, and is only what float64 models get."""
    for dtype in (torch.float32, torch.float64):
        z = torch.tensor(PREDICTION, dtype=dtype, requires_grad=True)
        total = property_loss(z, torch.tensor(LABEL, dtype=torch.float64), torch.tensor(PRESENT), kind, "mse")
        assert total.dtype == dtype
