"""Folds over one store: what a fold's test molecules can reach, and several targets of classes with missing values."""

import csv
import json

import numpy as np
import pytest
import torch

from moleblend_fs.checkpoint.read import load
from moleblend_fs.finetune.run import finetune
from moleblend_fs.finetune.settings import Settings
from tests.finetune.conftest import ESOL, QUICK

ROWS = [line.rsplit(",", 1) for line in ESOL.strip().splitlines()]


def write(path, labels):
    path.write_text("smiles,logS\n" + "".join(f"{smiles},{value}\n" for (smiles, _), value in zip(ROWS, labels, strict=True)))
    return path


def read(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two folds; and the same with absurd values for the test molecules of the first."""
    folder = tmp_path_factory.mktemp("folds")
    settings = Settings(**QUICK, targets=("logS:regression",), split="random", folds=2)
    labels = [float(value) for _, value in ROWS]
    plain = finetune(write(folder / "plain.csv", labels), folder / "plain", settings)
    test = json.loads((folder / "plain" / "splits.json").read_text())["folds"]["fold0"]["test"]
    poisoned = [1e7 * (i + 1) if i in test else value for i, value in enumerate(labels)]
    other = finetune(write(folder / "poisoned.csv", poisoned), folder / "poisoned", settings)
    return plain.out, other.out, test


def test_absurd_labels_of_a_folds_test_molecules_reach_nothing_of_it(runs):
    """Neither its scaling nor its weights, the epoch that is chosen, its predictions or their intervals."""
    plain, poisoned, test = runs
    models = [load(out / "members" / "fold0-member0" / "checkpoint_best.pt") for out in (plain, poisoned)]
    assert all(torch.equal(models[0].weights[name], models[1].weights[name]) for name in models[0].weights)
    assert models[0].finetuned == models[1].finetuned
    own = ("row", "logS (predicted)", "logS (low)", "logS (high)", "fold")
    lines = [
        [[row[name] for name in own] for row in read(out / "predictions_test.csv") if row["fold"] == "fold0"] for out in (plain, poisoned)
    ]
    assert lines[0] == lines[1]
    assert [int(line[0]) for line in lines[0]] == test
    # The other fold trained on them: there, and in what is said of new molecules, they show.
    others = [load(out / "members" / "fold1-member0" / "checkpoint_best.pt").finetuned.mean[0] for out in (plain, poisoned)]
    assert others[1] > 1e6 > abs(others[0])
    residuals = [json.loads((out / "calibration.json").read_text())["targets"]["logS"]["absolute_residuals"] for out in (plain, poisoned)]
    assert max(residuals[1]) > 1e6 > max(residuals[0])


def test_every_molecule_has_an_out_of_fold_prediction(runs):
    plain, _, _ = runs
    rows = read(plain / "predictions_oof.csv")
    assert [row["smiles"] for row in rows] == [smiles for smiles, _ in ROWS]
    assert {row["status"] for row in rows} == {"ok"}
    residuals = sorted(abs(float(row["logS"]) - float(row["logS (predicted)"])) for row in rows)
    found = json.loads((plain / "calibration.json").read_text())["targets"]["logS"]
    assert found["absolute_residuals"] == pytest.approx(residuals, rel=1e-5, abs=1e-5)
    assert found["scaled_residuals"] is None
    folds = json.loads((plain / "splits.json").read_text())["folds"]
    for fold, parts in folds.items():
        stored = load(plain / "members" / f"{fold}-member0" / "checkpoint_best.pt").trained_on
        assert stored.splits["train"].molecules == len(parts["train"])


def test_several_classes_with_missing_values(tmp_path):
    """Each target counts the molecules that have it; the mean is over targets; a class that none is predicted by has no score."""
    lines = ["smiles,a,b,c"]
    for i, (smiles, _) in enumerate(ROWS):
        lines.append(f"{smiles},{i % 2},{'' if i % 3 else i % 2},{'yes' if 'l' in smiles else 'no'}")
    (tmp_path / "classes.csv").write_text("\n".join(lines) + "\n")
    settings = Settings(**QUICK, targets=("*",), kind="classification", split="random", fractions=(0.5, 0.25, 0.25))
    outcome = finetune(tmp_path / "classes.csv", tmp_path / "run", settings)
    assert list(outcome.metrics["targets"]) == ["a", "b", "c"]
    rows = read(tmp_path / "run" / "predictions_test.csv")
    assert all(0 < float(row[f"{name} (predicted)"]) < 1 for row in rows for name in "abc")
    assert {"ECFP + random forest", "ECFP + logistic regression", "moleblend"} <= set(outcome.metrics["models"])
    labels = [row["c"] for row in rows]
    assert outcome.metrics["targets"]["c"] == {"kind": "classification", "unit": "", "tested": len(rows), "of_class_1": labels.count("yes")}
    assert outcome.metrics["not_calibrated"] == ["a", "b", "c"], "six validation molecules are too few"
    of = outcome.metrics["models"]["moleblend"]
    truth = {name: {row[name] for row in rows} - {""} for name in "ab"}
    for name in "ab":
        assert (of[name]["roc_auc"]["value"] is None) == (len(truth[name]) < 2)
    known = [of[name]["roc_auc"]["value"] for name in "abc" if of[name]["roc_auc"]["value"] is not None]
    assert of["mean"]["roc_auc"]["value"] == pytest.approx(np.mean(known))
