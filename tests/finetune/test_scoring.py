"""Scores of folds and their bootstrap intervals."""

import numpy as np
import pytest

from moleblend_fs.finetune.metrics import MODEL_NAME, compared
from moleblend_fs.finetune.scoring import score_folds


def of_values(count: int, seed: int):
    """(numbers, predictions, labels) of molecules of one target."""
    generator = np.random.default_rng(seed)
    labels = generator.standard_normal((count, 1))
    return np.arange(count), labels + generator.standard_normal((count, 1)), labels


def width(found) -> float:
    return found["high"] - found["low"]


def test_testing_the_same_molecules_again_tells_no_more():
    """A score's interval is as wide after five repeats that test the same molecules: it is about these molecules."""
    once = of_values(60, seed=0)
    repeated = score_folds([once] * 5, ("y",), "regression", 0)["y"]["rmse"]
    assert repeated == pytest.approx(score_folds([once], ("y",), "regression", 0)["y"]["rmse"])
    others = [(60 * fold + np.arange(60), *of_values(60, seed=fold)[1:]) for fold in range(5)]
    assert width(score_folds(others, ("y",), "regression", 0)["y"]["rmse"]) < 0.6 * width(repeated), "five times as many molecules do"


def test_an_interval_is_of_the_score_that_is_told():
    """b has one molecule of class 1, which a third of the resamples lack: neither it nor the mean of both has an interval."""
    generator = np.random.default_rng(0)
    labels = np.stack([np.arange(40) % 2, np.arange(40) == 7], axis=1).astype(float)
    found = score_folds([(np.arange(40), labels + generator.standard_normal((40, 2)), labels)], ("a", "b"), "classification", 0)
    assert {"value", "low", "high"} == set(found["a"]["roc_auc"])
    for target in ("b", "mean"):
        assert set(found[target]["roc_auc"]) == {"value"}
    assert found["mean"]["roc_auc"]["value"] == pytest.approx(np.mean([found[name]["roc_auc"]["value"] for name in "ab"]))


def test_of_one_split_it_is_the_percentile_bootstrap():
    numbers, predictions, labels = of_values(50, seed=1)
    found = score_folds([(numbers, predictions, labels)], ("y",), "regression", 3)["y"]["mae"]
    generator, drawn = np.random.Generator(np.random.PCG64(3)), []
    for _ in range(1000):
        rows = generator.integers(50, size=50)
        drawn.append(np.abs(predictions[rows] - labels[rows]).mean())
    assert (found["low"], found["high"]) == pytest.approx(np.percentile(drawn, [2.5, 97.5]).tolist())


def test_predictions_that_are_no_numbers_win_against_nothing():
    """Of a model with one, "test rmse nan, better than every baseline"."""
    numbers, predictions, labels = of_values(20, seed=2)
    spoilt = predictions.copy()
    spoilt[3] = np.nan
    models = {
        name: score_folds([(numbers, said, labels)], ("y",), "regression", 0) for name, said in ((MODEL_NAME, spoilt), ("x", predictions))
    }
    found = compared({"score": "rmse", "models": models})
    assert found["best"] is None
    assert found["first_line"].startswith("no rmse: some predictions of test molecules are not finite")
    assert compared({"score": "rmse", "models": models | {MODEL_NAME: models["x"]}})["best"] == MODEL_NAME


def test_of_quantities_in_several_units_the_largest_does_not_decide():
    """A target in hundreds of kelvin hid all others."""

    def rmse(small, large):
        of = {"logS": {"rmse": {"value": small}}, "melting": {"rmse": {"value": large}}}
        return of | {"mean": {"rmse": {"value": (small + large) / 2}}}

    constant = "mean of the training molecules"
    metrics = {"score": "rmse", "targets": {"logS": {"unit": "log mol/L"}, "melting": {"unit": "K"}}}
    metrics["models"] = {MODEL_NAME: rmse(0.5, 61.0), constant: rmse(2.0, 80.0), "ECFP + random forest": rmse(1.5, 59.0)}
    found = compared(metrics)
    assert found["best"] == MODEL_NAME
    assert "rmse as a share of the constant's (mean over the targets) 0.5062, better than every baseline" in found["first_line"]
    assert "ECFP + random forest, 0.7438" in found["first_line"]
    metrics["targets"] = {name: {"unit": "kcal/mol"} for name in metrics["targets"]}
    assert compared(metrics)["best"] == "ECFP + random forest", "of one unit it is the mean of the values"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_or_two_molecules_have_no_interval(count):
    """Of one it was 0.4 (0.4 to 0.4), as if it were sure."""
    found = score_folds([of_values(count, seed=0)], ("y",), "regression", 0)["y"]["mae"]
    assert set(found) == ({"value", "low", "high"} if count == 3 else {"value"})
