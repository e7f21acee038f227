"""Methods of scikit-learn: what they see of a molecule, what they learn it with, and the settings that they may try."""

import warnings
from typing import Any

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from moleblend_fs.chem.descriptors import descriptors
from moleblend_fs.finetune.baselines import fingerprints

Settings = dict[str, Any]
DEFAULTS: dict[str, Settings] = {
    "constant": {},
    "ecfp_forest": {"max_features": 0.33, "min_samples_leaf": 1},
    "ecfp_linear": {"penalty": 10.0},
    "descriptors_boosting": {"learning_rate": 0.1, "max_leaf_nodes": 31, "l2_regularization": 0.0, "max_iter": 100},
    "probe": {"penalty": 10.0},
}
"""Of the first trial."""
HEADS: list[Settings] = [
    {"head": "linear", "penalty": 10.0},
    {"head": "support", "C": 1.0, "gamma": 1.0},
    {"head": "forest", "max_features": 0.33, "min_samples_leaf": 1},
    {"head": "perceptron", "alpha": 1e-4, "width": 512},
]
"""What learns from MiniMol's fingerprints, one after the other: with these settings first, then with drawn ones. `gamma` is a multiple of
1 / features."""
FORESTS: list[Settings] = [
    settings
    for share in (0.03, 0.1, 0.33, 1.0)
    for leaf in (1, 2, 4)
    if (settings := {"max_features": share, "min_samples_leaf": leaf}) != DEFAULTS["ecfp_forest"]
]
TREES, MINIMOL_WIDTH = 200, 512


def features(method: str, smiles: list[str]) -> np.ndarray:
    """(n, width) of molecules; embeddings are made elsewhere."""
    if method == "constant":
        return np.zeros((len(smiles), 1))
    if method == "descriptors_boosting":
        return np.stack([descriptors(text) for text in smiles])
    return fingerprints(smiles).astype(np.float32)


def drawn(method: str, trial: int, seed: int) -> Settings:
    """Of a trial: the defaults, then draws from each method's range."""
    if method == "minimol":
        return drawn_head(trial, seed)
    if trial == 0 or not DEFAULTS[method]:
        return DEFAULTS[method]
    if method == "ecfp_forest":  # one after the other of all that there are, in a seeded order, none twice
        order = np.random.Generator(np.random.PCG64(seed)).permutation(len(FORESTS))
        return FORESTS[order[(trial - 1) % len(FORESTS)]]
    draw = np.random.Generator(np.random.PCG64([seed, trial]))
    if method == "descriptors_boosting":
        return {
            "learning_rate": float(10 ** draw.uniform(-2, -0.5)),
            "max_leaf_nodes": int(draw.choice([7, 15, 31])),
            "l2_regularization": float(10 ** draw.uniform(-3, 1)),
            "max_iter": int(draw.choice([100, 200, 400])),
        }
    return {"penalty": float(10 ** draw.uniform(-1, 3))}


def drawn_head(trial: int, seed: int) -> Settings:
    """Of a trial of MiniMol."""
    settings = HEADS[trial % len(HEADS)]
    if trial < len(HEADS):
        return settings
    draw = np.random.Generator(np.random.PCG64([seed, trial]))
    if settings["head"] == "linear":
        return settings | {"penalty": float(10 ** draw.uniform(-1, 3))}
    if settings["head"] == "support":
        return settings | {"C": float(10 ** draw.uniform(-1, 2)), "gamma": float(10 ** draw.uniform(-1, 1))}
    if settings["head"] == "forest":
        return settings | FORESTS[int(draw.integers(len(FORESTS)))]
    return settings | {"alpha": float(10 ** draw.uniform(-5, -1)), "width": int(draw.choice([128, 256, 512, 1024]))}


def head(kind: str, settings: Settings, seed: int) -> Any:
    """An estimator on MiniMol's fingerprints: inputs standardised, and values too where it takes them as they are."""
    classes, name = kind == "classification", settings["head"]
    if name == "linear":
        found = LogisticRegression(C=1 / settings["penalty"], max_iter=500) if classes else Ridge(alpha=settings["penalty"])
    elif name == "support":
        options = {"C": settings["C"], "gamma": settings["gamma"] / MINIMOL_WIDTH}
        found = SVC(**options) if classes else SVR(**options)
    elif name == "forest":
        of = RandomForestClassifier if classes else RandomForestRegressor
        options = {key: settings[key] for key in ("max_features", "min_samples_leaf")}
        found = of(n_estimators=TREES, n_jobs=1, random_state=seed, **options)
    else:
        options = {"hidden_layer_sizes": (settings["width"],), "alpha": settings["alpha"], "early_stopping": True, "random_state": seed}
        found = (MLPClassifier if classes else MLPRegressor)(max_iter=200, **options)
    found = make_pipeline(StandardScaler(), found)
    return found if classes else TransformedTargetRegressor(found, transformer=StandardScaler())


def estimator(method: str, kind: str, settings: Settings, seed: int) -> Any:
    """A scikit-learn estimator, on one thread."""
    classes = kind == "classification"
    if method == "constant":
        return DummyClassifier(strategy="prior") if classes else DummyRegressor()
    if method == "minimol":
        return head(kind, settings, seed)
    if method == "ecfp_forest":
        of = RandomForestClassifier if classes else RandomForestRegressor
        return of(n_estimators=TREES, n_jobs=1, random_state=seed, **settings)
    if method == "descriptors_boosting":
        return (HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor)(random_state=seed, **settings)
    linear = LogisticRegression(C=1 / settings["penalty"], max_iter=500) if classes else Ridge(alpha=settings["penalty"])
    return make_pipeline(StandardScaler(), linear) if method == "probe" else linear


def fitted(method: str, kind: str, settings: Settings, seed: int, x: np.ndarray, y: np.ndarray) -> list[Any]:
    """An estimator for each target, on the molecules that have it; the constant one where only one class is there.

    Args:
        x: (molecules, width). y: (molecules, targets), NaN where missing.
    """
    found = []
    for column in y.T:
        known = ~np.isnan(column)
        here = method if len(np.unique(column[known])) > 1 else "constant"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found.append(estimator(here, kind, settings if here == method else {}, seed).fit(x[known], column[known]))
    return found


def predicted(models: list[Any], kind: str, x: np.ndarray) -> np.ndarray:
    """(molecules, targets) values, or probabilities of class 1."""
    if kind == "regression":
        return np.stack([model.predict(x) for model in models], axis=1)
    columns = []
    for model in models:
        classes = list(model.classes_)
        if not hasattr(model, "predict_proba"):  # a support vector machine tells distances from its boundary
            columns.append(1 / (1 + np.exp(-model.decision_function(x))))
            continue
        columns.append(model.predict_proba(x)[:, classes.index(1.0)] if 1.0 in classes else np.zeros(len(x)))
    return np.stack(columns, axis=1)
