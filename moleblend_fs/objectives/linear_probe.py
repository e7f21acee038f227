"""Linear models of one target on given features, regularised as strongly as leave-one-out errors of their molecules say.

Leaving a molecule out needs no second fit: with h its leverage, the residual of a ridge regression without it is r / (1 - h) (Golub, Heath
and Wahba, Technometrics 21, 1979, section 1). For a logistic regression one Newton step gives nearly the same (Rad and Maleki,
J. R. Stat. Soc. B 82, 2020, Eq. 8). All is float64.

Shape legend: n molecules, d features.
"""

from typing import NamedTuple

import numpy as np

STRENGTHS = 10.0 ** np.arange(2, -7.5, -0.5)
"""Ridge penalties that are tried, strongest first, of the features' summed squares around their mean."""
NEWTON_STEPS, CONVERGED = 50, 1e-9
LARGEST_STEP = 5.0
"""Of a logit in one step of Newton's method."""


class Linear(NamedTuple):
    """A linear model.

    Attributes:
        weight: (d,). bias: of the value, or of the logit.
        error: of leaving each molecule out: root mean square, or mean cross-entropy. strength: of the penalty, see `STRENGTHS`.
    """

    weight: np.ndarray
    bias: float
    error: float
    strength: float


class _Centred(NamedTuple):
    """Features around their mean in the axes of their covariance: z = (x - mean) @ axes, and the sums of its squares."""

    mean: np.ndarray
    axes: np.ndarray
    z: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, x_nd: np.ndarray) -> "_Centred":
        mean = x_nd.mean(axis=0)
        squares, axes = np.linalg.eigh((x_nd - mean).T @ (x_nd - mean))
        return cls(mean, axes, (x_nd - mean) @ axes, np.maximum(squares, 0))

    @property
    def total(self) -> float:
        """Of all squares; 1 where features are all alike, so that a penalty keeps their weights at 0."""
        return float(self.squares.sum()) or 1.0

    def linear(self, coefficients: np.ndarray, bias: float, error: float, strength: float) -> Linear:
        """The model with such coefficients of z, in terms of x."""
        weight = self.axes @ coefficients
        return Linear(weight, float(bias - self.mean @ weight), float(error), float(strength))


def ridge(x_nd: np.ndarray, y_n: np.ndarray) -> Linear:
    """Of values; the penalty spares the bias."""
    found, y = _Centred.of(x_nd), y_n - y_n.mean()
    of_y = found.z.T @ y
    best = None
    for strength in STRENGTHS:
        inverse = 1 / (found.squares + strength * found.total)
        leverage = found.z**2 @ inverse + 1 / len(y)
        error = np.sqrt(np.mean(((y - found.z @ (inverse * of_y)) / np.maximum(1 - leverage, 1e-12)) ** 2))
        if best is None or error < best.error:
            best = found.linear(inverse * of_y, y_n.mean(), error, strength)
    assert best is not None
    return best


def logistic(x_nd: np.ndarray, y_n: np.ndarray) -> Linear:
    """Of classes 0 and 1, both of which are there; the penalty spares the bias."""
    found = _Centred.of(x_nd)
    z = np.column_stack([found.z, np.ones(len(y_n))])
    coefficients = np.zeros(z.shape[1])
    coefficients[-1] = np.log(y_n.mean() / (1 - y_n.mean()))
    best = None
    for strength in STRENGTHS:
        penalty = np.append(np.full(len(found.squares), strength * found.total), 0.0)
        coefficients, hessian, slope = _newton(z, y_n, coefficients, penalty)
        leverage = np.einsum("nd,dn->n", z, np.linalg.solve(hessian, z.T))
        without = z @ coefficients - leverage / np.maximum(1 - leverage * slope, 1e-12) * (y_n - _sigmoid(z @ coefficients))
        error = np.mean(np.logaddexp(0, without) - y_n * without)
        if best is None or error < best.error:
            best = found.linear(coefficients[:-1], coefficients[-1], error, strength)
    assert best is not None
    return best


def _newton(z: np.ndarray, y: np.ndarray, coefficients: np.ndarray, penalty: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(coefficients of least penalised cross-entropy, its Hessian, p (1 - p) of each molecule)."""
    for _ in range(NEWTON_STEPS):
        p = _sigmoid(z @ coefficients)
        slope = np.maximum(p * (1 - p), 1e-12)
        hessian = (z.T * slope) @ z + np.diag(penalty)
        step = np.linalg.solve(hessian, z.T @ (y - p) - penalty * coefficients)
        change = np.abs(z @ step).max()
        if change < CONVERGED:
            break
        coefficients = coefficients + step * min(1.0, LARGEST_STEP / change)
    return coefficients, hessian, slope


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
