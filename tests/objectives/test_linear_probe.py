"""Leave-one-out errors in closed form are those of leaving each molecule out; the fits are what they should be."""

import numpy as np
import pytest

from moleblend_fs.objectives import linear_probe
from moleblend_fs.objectives.linear_probe import STRENGTHS, logistic, ridge


def made(n: int, d: int, seed: int = 0):
    """(features far from their origin and of unlike size, values that follow them with noise)."""
    draw = np.random.default_rng(seed)
    x = 3 + draw.normal(size=(n, d)) * np.geomspace(1, 0.01, d)
    return x, 2 + x @ draw.normal(size=d) + 0.3 * draw.normal(size=n)


def solved(x, y, penalty):
    """Ridge regression by its normal equations."""
    a = np.column_stack([x, np.ones(len(y))])
    return np.linalg.solve(a.T @ a + penalty * np.diag([1.0] * x.shape[1] + [0.0]), a.T @ y)


@pytest.mark.parametrize(("n", "d"), [(40, 6), (12, 30)])
def test_ridge_leaves_each_molecule_out(n, d):
    x, y = made(n, d)
    found = ridge(x, y)
    total = ((x - x.mean(axis=0)) ** 2).sum()
    errors = []
    for strength in STRENGTHS:
        left_out = []
        for i in range(n):
            others = np.arange(n) != i
            coefficients = solved(x[others], y[others], strength * total)
            left_out.append(y[i] - x[i] @ coefficients[:-1] - coefficients[-1])
        errors.append(np.sqrt(np.mean(np.square(left_out))))
    assert found.error == pytest.approx(min(errors), rel=1e-6)
    assert found.strength == STRENGTHS[int(np.argmin(errors))]
    coefficients = solved(x, y, found.strength * total)
    assert found.weight == pytest.approx(coefficients[:-1], rel=1e-5, abs=1e-6)
    assert found.bias == pytest.approx(coefficients[-1], rel=1e-5)


@pytest.mark.parametrize(("n", "d"), [(60, 5), (40, 60)])
def test_logistic_leaves_each_molecule_out_nearly(n, d):
    x, value = made(n, d)
    y = (value + np.random.default_rng(1).normal(size=n) > np.median(value)).astype(float)
    found = logistic(x, y)
    penalty = found.strength * ((x - x.mean(axis=0)) ** 2).sum()
    p = 1 / (1 + np.exp(-(x @ found.weight + found.bias)))
    assert x.T @ (y - p) == pytest.approx(penalty * found.weight, abs=1e-5), "the gradient of the penalised cross-entropy is 0"
    assert (y - p).sum() == pytest.approx(0, abs=1e-6), "no penalty on the bias"
    left_out = []
    for i in range(n):
        others = np.arange(n) != i
        a = np.column_stack([x[others], np.ones(n - 1)])
        coefficients, _, _ = linear_probe._newton(a, y[others], np.zeros(d + 1), np.append(np.full(d, penalty), 0.0))
        logit = x[i] @ coefficients[:-1] + coefficients[-1]
        left_out.append(np.logaddexp(0, logit) - y[i] * logit)
    assert found.error == pytest.approx(np.mean(left_out), rel=0.05)
    trained = np.mean(np.logaddexp(0, x @ found.weight + found.bias) - y * (x @ found.weight + found.bias))
    assert found.error - trained > 5 * abs(found.error - np.mean(left_out)), "far from the error of training"


def test_what_tells_nothing_is_not_trusted():
    draw = np.random.default_rng(2)
    x, y = draw.normal(size=(50, 20)), draw.normal(size=50)
    assert np.abs(ridge(x, y).weight).sum() < 0.2 * np.abs(solved(x, y, 1e-9)[:-1]).sum()
    classes = (y > 0).astype(float)
    assert logistic(x, classes).error < 0.72, "that of saying the share of each class"


def test_classes_that_a_plane_parts_and_features_that_are_all_alike():
    x = np.concatenate([np.full((20, 3), 1.0), np.full((20, 3), -1.0)])
    found = logistic(x, (x[:, 0] > 0).astype(float))
    assert np.isfinite(found.weight).all()
    assert ((x @ found.weight + found.bias > 0) == (x[:, 0] > 0)).all()
    same = ridge(np.ones((10, 4)), np.arange(10.0))
    assert (same.bias, np.abs(same.weight).max()) == (4.5, 0)
