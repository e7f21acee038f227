"""What `moleblend evaluate --json` writes, for stores with awkward labels: JSON that any reader takes, and no score of nothing."""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from moleblend_fs.cli.main import main
from moleblend_fs.data.store import Store
from tests.fairseq_plugins.conftest import write_labelled, write_store
from tests.inference.untrained_models import untrained

NAN = float("nan")
SMILES = ("C", "CC", "CCC", "CCO", "CCN", "c1ccccc1", "CC(C)=O", "CCCl")


def strict(text: str) -> dict:
    """JSON as its definition has it: Python's reader takes NaN and Infinity as well."""

    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def evaluated(model: Path, store: Store, out: Path, *options: str) -> dict:
    assert main(["evaluate", str(model), str(store.path), "--json", str(out), *options]) == 0
    return strict(out.read_text())


def test_a_store_without_a_training_split(tmp_path, capsys):
    """The mean predictor says the mean that the model was trained on."""
    labels = (1.0, -2.0, 0.5, -1.0)
    store = write_labelled(tmp_path / "store", [(s, "test", [y]) for s, y in zip(SMILES, labels, strict=False)], {"y": "regression"})
    result = evaluated(untrained(tmp_path / "model", mean=0.25), store, tmp_path / "x.json")
    assert result["baseline"]["y"]["mae"] == pytest.approx(np.abs(np.array(labels) - 0.25).mean())
    assert result["baseline"]["y"]["rmse"] == pytest.approx(np.sqrt(np.square(np.array(labels) - 0.25).mean()))
    assert f"(mean predictor: mae {result['baseline']['y']['mae']:.4f})" in capsys.readouterr().out


def test_missing_and_constant_labels(tmp_path, capsys):
    molecules = [(s, "train" if i < 4 else "test", [0.1, NAN, float(i) if i % 2 else NAN]) for i, s in enumerate(SMILES)]
    store = write_labelled(tmp_path / "store", molecules, dict.fromkeys(("same", "none", "some"), "regression"))
    result = evaluated(untrained(tmp_path / "model", targets=("same", "none", "some")), store, tmp_path / "x.json")
    assert result["metrics"]["none"] == {"mae": None, "rmse": None, "r2": None}
    assert result["metrics"]["same"]["r2"] is None
    assert result["metrics"]["same"]["mae"] > 0
    assert [row["target"] for row in result["predictions"]] == [[0.1, None, None], [0.1, None, 5.0], [0.1, None, None], [0.1, None, 7.0]]
    assert result["baseline"]["some"]["mae"] == pytest.approx((3 + 5) / 2)  # the training molecules' mean is 2
    out = capsys.readouterr().out
    assert "none: mae -  rmse -  r2 -" in out
    assert "average over 2 of 3 targets: mae" in out
    assert "nan" not in out


def test_classes_are_given_as_probabilities_everywhere(tmp_path, capsys):
    molecules = [(s, "test", [float(i % 2), NAN, 1.0]) for i, s in enumerate(SMILES)]
    store = write_labelled(tmp_path / "store", molecules, dict.fromkeys(("a", "none", "one"), "classification"))
    model = untrained(tmp_path / "model", targets=("a", "none", "one"), kind="classification")
    result = evaluated(model, store, tmp_path / "x.json")
    assert main(["predict", str(model), str(store.path), str(tmp_path / "p.csv")]) == 0
    with open(tmp_path / "p.csv") as stream:
        table = [[float(row[name]) for name in ("a", "none", "one")] for row in csv.DictReader(stream)]
    written = np.array([row["prediction"] for row in result["predictions"]])
    np.testing.assert_allclose(written, table, rtol=1e-6)
    assert ((written > 0) & (written < 1)).all()
    truth, p = np.arange(8) % 2, written[:, 0]
    scores = result["metrics"]["a"]
    assert scores["log_loss"] == pytest.approx(-np.log(np.where(truth == 1, p, 1 - p)).mean())
    assert scores["balanced_accuracy"] == pytest.approx(((p[truth == 1] > 0.5).mean() + (p[truth == 0] <= 0.5).mean()) / 2)
    assert set(result["metrics"]["none"].values()) == {None}
    assert {name for name, value in result["metrics"]["one"].items() if value is not None} == {"log_loss"}
    assert "baseline" not in result
    out = capsys.readouterr().out
    assert "average over 1 of 3 targets: mcc" in out
    assert "average over 2 of 3 targets: log_loss" in out


def test_molecules_without_3d_are_counted(tmp_path, capsys):
    store = write_store(tmp_path / "store", [(s, i % 4 != 3, "test") for i, s in enumerate(SMILES)])
    result = evaluated(untrained(tmp_path / "model", inputs="2d+3d", unit="eV"), store, tmp_path / "x.json")
    assert result["molecules_from_2d_alone"] == 2
    assert "2 of 8 molecules have no 3D structure: scored from 2D alone" in capsys.readouterr().out
    assert evaluated(untrained(tmp_path / "flat", unit="eV"), store, tmp_path / "y.json")["molecules_from_2d_alone"] == 0
    assert main(["evaluate", str(untrained(tmp_path / "solid", inputs="3d", unit="eV")), str(store.path)]) == 2
    assert "2 of 8 molecules" in capsys.readouterr().err


def test_nothing_but_json_on_standard_output(tmp_path):
    store = write_labelled(tmp_path / "store", [(s, "test", [float(i)]) for i, s in enumerate(SMILES)], {"y": "regression"})
    words = [str(Path(sys.executable).parent / "moleblend"), "evaluate", str(untrained(tmp_path / "model")), str(store.path)]
    done = subprocess.run([*words, "--json", "/dev/stdout"], capture_output=True, text=True, check=True)
    assert len(strict(done.stdout)["predictions"]) == 8
    assert "y: mae" in done.stderr


def test_scores_of_classes_reach_the_report(tmp_path, capsys):
    molecules = [(s, "test", [float(i % 2)]) for i, s in enumerate(SMILES)]
    store = write_labelled(tmp_path / "store", molecules, {"a": "classification"})
    (tmp_path / "runs").mkdir()
    result = evaluated(untrained(tmp_path / "model", targets=("a",), kind="classification"), store, tmp_path / "runs" / "test.json")
    capsys.readouterr()
    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "page.html")]) == 0
    lines = capsys.readouterr().out.splitlines()
    titles = {
        "ROC-AUC": "roc_auc",
        "PR-AUC": "pr_auc",
        "balanced accuracy": "balanced_accuracy",
        "F1": "f1",
        "MCC": "mcc",
        "log loss": "log_loss",
    }
    for title, name in titles.items():
        (line,) = [line for line in lines if f" {title} " in line]
        assert float(line.split()[-1]) == pytest.approx(result["metrics"]["a"][name], abs=1e-3)
    page = (tmp_path / "page.html").read_text()
    assert all(title in page for title in titles)
    assert not math.isnan(result["metrics"]["a"]["mcc"])
