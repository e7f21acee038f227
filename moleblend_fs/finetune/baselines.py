"""What any model must beat, fitted on the same training molecules: the mean or majority, and fingerprints with two usual learners."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator
from scipy import sparse
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

BITS, RADIUS = 2048, 2
TREES = 200
MOST_FOR_FOREST = 20_000
"""Molecules that a forest's trees draw from, at most: more would take longer than training."""
PENALTIES = (1.0, 10.0, 100.0)
"""Of ridge (alpha) and logistic regression (1 / C); the best on the validation molecules is taken."""
SURE = 1e-6
"""Probabilities are kept so far from 0 and 1 that their logits are finite."""
NAMES = {
    "regression": ("mean of the training molecules", "ECFP + random forest", "ECFP + ridge regression"),
    "classification": ("share of the training molecules", "ECFP + random forest", "ECFP + logistic regression"),
}


def fingerprints(smiles: Sequence[str]) -> np.ndarray:
    """(n, 2048) uint8, ECFP4; no bit of a SMILES, as of a store that another version made, that this RDKit cannot read."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)
    result = np.zeros((len(smiles), BITS), dtype=np.uint8)
    for row, mol in zip(result, map(Chem.MolFromSmiles, smiles), strict=True):
        if mol is not None:
            row[:] = generator.GetFingerprintAsNumPy(mol)
    return result


def predictions(bits: dict[str, np.ndarray], labels: dict[str, np.ndarray], kind: str, *, seed: int, jobs: int) -> dict[str, np.ndarray]:
    """What each baseline says of the test molecules: (n, targets) values, or logits of class 1.

    Args:
        bits, labels: of the splits train, valid and test (fingerprints) or train and valid (labels, NaN where missing).
        kind: of all targets. seed: of the forest. jobs: its threads.
    """
    columns = []
    for column in range(labels["train"].shape[1]):
        known = {name: ~np.isnan(values[:, column]) for name, values in labels.items()}
        x = {name: bits[name][present] for name, present in known.items()} | {"test": bits["test"]}
        y = {name: labels[name][present, column] for name, present in known.items()}
        columns.append(_of_target(x, y, kind, seed, jobs))
    return {name: np.stack([column[i] for column in columns], axis=1) for i, name in enumerate(NAMES[kind])}


def _of_target(x: dict[str, np.ndarray], y: dict[str, np.ndarray], kind: str, seed: int, jobs: int) -> list[np.ndarray]:
    """Mean or majority, forest, linear."""
    count = len(x["test"])
    if kind == "classification":
        prior = DummyClassifier(strategy="prior").fit(np.zeros((len(y["train"]), 1)), y["train"])
        constant = np.full(count, _logit(prior.predict_proba(np.zeros((1, 1)))[0, prior.classes_.tolist().index(1.0)])
                           if 1.0 in prior.classes_ else _logit(0.0))  # fmt: skip
    else:
        constant = np.full(count, y["train"].mean())
    if len(np.unique(y["train"])) < 2:
        return [constant, constant, constant]
    return [constant, _forest(x, y, kind, seed, jobs), _linear(x, y, kind)]


def _forest(x: dict[str, np.ndarray], y: dict[str, np.ndarray], kind: str, seed: int, jobs: int) -> np.ndarray:
    drawn = min(len(y["train"]), MOST_FOR_FOREST)
    common: dict[str, Any] = {"n_estimators": TREES, "n_jobs": jobs, "random_state": seed, "max_samples": drawn}
    forest = RandomForestClassifier(**common) if kind == "classification" else RandomForestRegressor(max_features=1 / 3, **common)
    # scikit-learn sets the process' warning filters anew in each thread, which is not safe: they could stay empty after it, and every
    # tree of the next forest would warn of that. So they are put back, and nothing is shown.
    with warnings.catch_warnings(record=True):
        forest.fit(x["train"], y["train"])
    # Trees are summed in the order in which threads end; one thread, and the last digits are always the same.
    forest.set_params(n_jobs=1)
    return _logit(forest.predict_proba(x["test"])[:, 1]) if kind == "classification" else forest.predict(x["test"])


def _linear(x: dict[str, np.ndarray], y: dict[str, np.ndarray], kind: str) -> np.ndarray:
    """The penalty that is best on the validation molecules."""
    train, valid, test = (sparse.csr_matrix(x[name], dtype=np.float64) for name in ("train", "valid", "test"))
    best: tuple[float, np.ndarray] | None = None
    for penalty in PENALTIES:
        if kind == "classification":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model = LogisticRegression(C=1 / penalty, max_iter=200).fit(train, y["train"])
            score, found = model.decision_function, model.decision_function(test)
            loss = np.logaddexp(0, np.where(y["valid"] > 0.5, -1, 1) * score(valid)).mean() if len(y["valid"]) else penalty
        else:
            model = Ridge(alpha=penalty).fit(train, y["train"])
            found = model.predict(test)
            loss = np.square(model.predict(valid) - y["valid"]).mean() if len(y["valid"]) else penalty
        if best is None or loss < best[0]:
            best = float(loss), found
    assert best is not None
    return best[1]


def _logit(probability: Any) -> Any:
    kept = np.clip(probability, SURE, 1 - SURE)
    return np.log(kept / (1 - kept))
