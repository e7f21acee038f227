"""Frozen probes: linear models on the mean of the atoms' representations, for checkpoints of a pretraining, on stores with labels.

A probe is fitted on molecules of a store's train split and scored on those of valid and test. No evaluation set takes part.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from moleblend_fs import Embedder
from moleblend_fs.checkpoint.read import load
from moleblend_fs.data.split_file import all_labels
from moleblend_fs.data.splits import TEST, TRAIN, VALID
from moleblend_fs.data.store import Store
from moleblend_fs.files import whole_file
from moleblend_fs.finetune.folds import smiles_of

COLUMNS = ("checkpoint", "updates", "store", "score", "value", "labels", "train", "tested")
MOST = 2_000
"""Molecules that a probe is fitted on, and that it is scored on, at most: the first of a random order."""


def probed(store: Store, embedder: Embedder) -> tuple[str, float, int, int, int]:
    """(score, its mean over labels, labels that it is defined for, molecules fitted on, scored on)."""
    kind = store.manifest.labels[0].kind
    draws = np.random.default_rng(0)
    train, tested = (
        np.sort(draws.permutation(np.concatenate([store.split(name) for name in names]))[:MOST]) for names in ((TRAIN,), (VALID, TEST))
    )
    x, y = ([embedder(smiles_of(store, part), "mean") for part in (train, tested)], [all_labels(store, part) for part in (train, tested)])
    values = []
    for column in range(len(store.manifest.labels)):
        known = [~np.isnan(labels[:, column]) for labels in y]
        (x_train, x_test), (y_train, y_test) = (
            [values[mask] for values, mask in zip(x, known, strict=True)],
            [labels[mask, column] for labels, mask in zip(y, known, strict=True)],
        )
        if min(len(np.unique(y_train)), len(np.unique(y_test))) < 2:
            continue
        if kind == "classification":
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)).fit(x_train, y_train)
            values.append(roc_auc_score(y_test, model.decision_function(x_test)))
        else:
            model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 5, 15))).fit(x_train, y_train)
            values.append(r2_score(y_test, model.predict(x_test)))
    score = "roc_auc" if kind == "classification" else "r2"
    return score, float(np.mean(values)) if values else float("nan"), len(values), len(train), len(tested)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="table; lines that it has are not computed again")
    parser.add_argument("--checkpoints", nargs="+", type=Path, required=True)
    parser.add_argument("--stores", nargs="+", type=Path, required=True)
    given = parser.parse_args()
    rows = list(csv.DictReader(given.out.open())) if given.out.is_file() else []
    done = {(row["checkpoint"], row["updates"], row["store"]) for row in rows}
    for path in dict.fromkeys(given.checkpoints):
        name, updates = f"{path.parent.name}/{path.name}", str(load(path).about["updates"])
        stores = [Store(place) for place in given.stores if (name, updates, place.name) not in done]
        if not stores:
            continue
        with Embedder(path, workers=0, tell=lambda line: None) as embedder:
            for store in stores:
                score, value, *counts = probed(store, embedder)
                told = (name, updates, store.path.name, score, f"{value:.4f}", *map(str, counts))
                rows.append(dict(zip(COLUMNS, told, strict=True)))
                print("  ".join(told))
        with whole_file(given.out) as stream:
            table = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
            table.writeheader()
            table.writerows(rows)


if __name__ == "__main__":
    main()
