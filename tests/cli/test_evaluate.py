"""`moleblend evaluate` and `moleblend predict` on models that fairseq-train made."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, log_loss

from moleblend_fs.cli.main import main
from moleblend_fs.data.store import Store
from moleblend_fs.objectives.common.metrics import roc_auc
from tests.conftest import preprocessed
from tests.fairseq_plugins.conftest import awkward_store  # noqa: F401  a fixture
from tests.fairseq_plugins.runs import ADAM, FINETUNE, PRETRAIN, SMALL, Run, train


def tuned(store: Store, folder: Path, *options: str) -> Run:
    return train(store.path, folder, *FINETUNE, *SMALL, *ADAM, "--batch-size", "16", "--max-epoch", "2", "--lr", "5e-3", *options)


@pytest.fixture(scope="module")
def gap(qm9_store, tmp_path_factory) -> Run:
    return tuned(qm9_store, tmp_path_factory.mktemp("gap"), "--targets", "gap,mu", "--inputs", "2d+3d")


def evaluated(run: Run, store: Store, split: str, folder: Path, *options: str) -> dict:
    out = folder / "scores.json"
    code = main(["evaluate", str(run.folder / "checkpoint_last.pt"), str(store.path), "--split", split, "--json", str(out), *options])
    assert code == 0
    return json.loads(out.read_text())


def test_scores_are_those_of_training_and_those_of_the_predictions(gap, qm9_store, tmp_path, capsys):
    result = evaluated(gap, qm9_store, "valid", tmp_path)
    scores = [result["metrics"][name]["mae"] for name in ("gap", "mu")]
    assert float(gap.logged("valid")[-1]["valid_mae"]) == pytest.approx(np.mean(scores), rel=1e-3)
    rows = qm9_store.split("valid")
    columns = [qm9_store.manifest.label_index(name) for name in ("gap", "mu")]
    labels = qm9_store.labels(rows)[:, columns]
    prediction = np.array([row["prediction"] for row in result["predictions"]])
    assert [row["id"] for row in result["predictions"]] == qm9_store.source_row[rows].tolist()
    assert np.abs(prediction - labels).mean(axis=0) == pytest.approx(scores, rel=1e-6)
    assert result["metrics"]["mu"]["rmse"] == pytest.approx(np.sqrt(np.square(prediction - labels).mean(axis=0))[1], rel=1e-6)
    assert result["units"] == {"gap": "meV", "mu": "D"}
    means = qm9_store.labels(qm9_store.split("train"))[:, columns].mean(axis=0)
    baseline = [result["baseline"][name]["mae"] for name in ("gap", "mu")]
    assert baseline == pytest.approx(np.abs(labels - means).mean(axis=0), rel=1e-5)
    assert result["molecules"] == len(rows)
    assert result["split_sha256"] == qm9_store.manifest.splits["valid"].sha256
    out = capsys.readouterr().out
    assert re.search(rf"gap: mae {scores[0]:.4f} .*meV +\(mean predictor: mae {baseline[0]:.4f}\)", out)


def test_batches_and_workers_do_not_matter(gap, qm9_store, tmp_path):
    whole = evaluated(gap, qm9_store, "test", tmp_path)
    small = evaluated(gap, qm9_store, "test", tmp_path, "--max-tokens", "20", "--workers", "2")
    first, second = (np.array([row["prediction"] for row in r["predictions"]]) for r in (whole, small))
    scale = [s.std for s in (qm9_store.manifest.statistics["train"][qm9_store.manifest.label_index(n)] for n in ("gap", "mu"))]
    assert (np.abs(first - second) / scale).max() < 1e-5
    assert len(first) == qm9_store.manifest.splits["test"].molecules


def test_a_converted_checkpoint_predicts_the_same(gap, qm9_store, tmp_path, capsys):
    checkpoint, folder = gap.folder / "checkpoint_last.pt", tmp_path / "ours"
    assert main(["convert", str(checkpoint), str(folder)]) == 0
    assert main(["convert", str(checkpoint), str(folder)]) == 2
    assert "exists already" in capsys.readouterr().err
    for source, name in ((checkpoint, "a.csv"), (folder, "b.csv")):
        assert main(["predict", str(source), str(qm9_store.path), str(tmp_path / name), "--split", "test"]) == 0
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    result = evaluated(gap, qm9_store, "test", tmp_path)
    with open(tmp_path / "a.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert [list(row) for row in rows[:1]] == [["row", "smiles", "gap", "mu", "status"]]
    for row, expected in zip(rows, result["predictions"], strict=True):
        assert (int(row["row"]), row["smiles"]) == (expected["id"], expected["smiles"])
        assert [float(row["gap"]), float(row["mu"])] == pytest.approx(expected["prediction"], rel=1e-5)


def test_classification_with_missing_labels(tox21_store, tmp_path, capsys):
    run = tuned(tox21_store, tmp_path / "run", "--max-epoch", "20")  # after 2, predictions differ in their last digits alone: no order
    result = evaluated(run, tox21_store, "valid", tmp_path)
    labels = tox21_store.labels(tox21_store.split("valid"))
    prediction = np.array([row["prediction"] for row in result["predictions"]])
    assert ((prediction > 0) & (prediction < 1)).all(), "probabilities, as `predict` gives them"
    assert np.isnan(labels).any(), "the test needs missing labels"
    expected = [roc_auc(p, y) for p, y in zip(prediction.T, labels.T, strict=True)]
    assert [row["roc_auc"] for row in result["metrics"].values()] == pytest.approx(expected)
    defined = [value for value in expected if value is not None]
    assert list(result["metrics"]["SR-p53"]) == ["roc_auc", "pr_auc", "balanced_accuracy", "f1", "mcc", "log_loss"]
    for row, p, y in zip(result["metrics"].values(), prediction.T, labels.T, strict=True):
        there = ~np.isnan(y)
        assert row["log_loss"] == pytest.approx(log_loss(y[there], p[there], labels=[0, 1]), rel=1e-6)
        if row["roc_auc"] is not None:
            assert row["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y[there], p[there] > 0.5))
            assert row["pr_auc"] == pytest.approx(average_precision_score(y[there], p[there]))
        else:
            assert row["pr_auc"] is row["balanced_accuracy"] is row["f1"] is row["mcc"] is None
    assert len(defined) < 12, "the test needs a task without both classes"
    assert float(run.logged("valid")[-1]["valid_roc_auc"]) == pytest.approx(np.mean(defined), abs=1e-3)
    said = capsys.readouterr().out
    assert f"average over {len(defined)} of 12 targets: roc_auc" in said
    assert "average over 12 of 12 targets: log_loss" in said
    out = tmp_path / "p.csv"
    assert main(["predict", str(run.folder / "checkpoint_last.pt"), str(tox21_store.path), str(out), "--split", "valid"]) == 0
    with open(out) as stream:
        probabilities = np.array([[float(row[name]) for name in result["metrics"]] for row in csv.DictReader(stream)])
    np.testing.assert_allclose(probabilities, prediction, rtol=1e-5)


@pytest.mark.parametrize("target", ["y", "c"])
def test_awkward_molecules(awkward_store, tmp_path, target):  # noqa: F811
    """Lone atoms, salts, 218 atoms, no coordinates: each gets a finite prediction, the same alone as together."""
    run = tuned(awkward_store, tmp_path / "run", "--targets", target, "--inputs", "2d+3d")
    together = evaluated(run, awkward_store, "test", tmp_path)["predictions"]
    alone = evaluated(run, awkward_store, "test", tmp_path, "--max-tokens", "1")["predictions"]
    assert len(together) == awkward_store.manifest.splits["test"].molecules
    for a, b in zip(together, alone, strict=True):
        assert np.isfinite(a["prediction"]).all()
        assert a["prediction"] == pytest.approx(b["prediction"], abs=1e-5), a["smiles"]


def test_embeddings(gap, qm9_store, tmp_path):
    out = tmp_path / "e.npy"
    assert main(["predict", str(gap.folder / "checkpoint_last.pt"), str(qm9_store.path), str(out), "--embeddings", "2d"]) == 0
    values = np.load(out)
    assert values.shape == (140, 16)
    assert values.std(axis=0).max() > 1e-3
    assert not np.allclose(values[0], values[1])


def test_official_pcqm4mv2_score(shared, tmp_path, capsys):
    """OGB's own evaluator gives the MAE that we give; a submission of a part of the split is refused."""
    store = preprocessed(tmp_path / "store", "pcqm4mv2", str(shared / "data" / "pcqm4mv2"), "--limit", "300")
    capsys.readouterr()
    if "valid" not in store.splits or store.manifest.splits["valid"].molecules == 0:
        store = preprocessed(tmp_path / "all", "pcqm4mv2", str(shared / "data" / "pcqm4mv2"))
    run = tuned(store, tmp_path / "run", "--max-update", "2")
    result = evaluated(run, store, "valid", tmp_path)
    assert result["ogb"]["mae"] == pytest.approx(result["metrics"]["homolumogap"]["mae"], rel=1e-5)
    assert "official OGB evaluator" in capsys.readouterr().out
    words = ["evaluate", str(run.folder / "checkpoint_last.pt"), str(store.path), "--ogb-submission", str(tmp_path / "sub")]
    assert main([*words, "--split", "valid"]) == 2
    assert "test-dev or test-challenge" in capsys.readouterr().err
    if "test-dev" in store.splits:
        assert main([*words, "--split", "test-dev"]) == 2
        assert "OGB refuses a submission" in capsys.readouterr().err


def test_mistakes(gap, qm9_store, tox21_store, awkward_store, tmp_path, capsys):  # noqa: F811
    checkpoint = str(gap.folder / "checkpoint_last.pt")
    pretrained = train(qm9_store.path, tmp_path / "pre", *PRETRAIN, *SMALL, *ADAM, "--batch-size", "64", "--max-update", "1")
    unfinished = str(pretrained.folder / "checkpoint_last.pt")
    capsys.readouterr()
    for words, parts in (
        (["evaluate", str(tmp_path / "gone.pt"), str(qm9_store.path)], ["gone.pt: no such checkpoint"]),
        (["evaluate", checkpoint, str(tmp_path / "gone")], ["gone: no such store", "moleblend preprocess"]),
        (["evaluate", checkpoint, str(qm9_store.path), "--split", "dev"], ["no split 'dev'", "train, valid, test"]),
        (["evaluate", unfinished, str(qm9_store.path)], ["checkpoint_last.pt", "without a property head", "finetune"]),
        (["evaluate", checkpoint, str(tox21_store.path)], ["explicit hydrogens", "--allow-differences hydrogens"]),
        (["evaluate", checkpoint, str(tox21_store.path), "--allow-differences", "hydrogens"], ["no 3D structures", "2d+3d"]),
        (["predict", unfinished, str(qm9_store.path), str(tmp_path / "x.csv")], ["without a property head"]),
        (["predict", checkpoint, str(qm9_store.path), str(tmp_path / "x.csv"), "--device", "cuda"], ["--device cuda", "--device cpu"]),
        (
            [
                "predict",
                checkpoint,
                str(tox21_store.path),
                str(tmp_path / "x.npy"),
                "--embeddings",
                "3d",
                "--allow-differences",
                "hydrogens",
            ],
            ["no 3D structures", "inputs 3d"],
        ),
        (
            [
                "predict",
                checkpoint,
                str(awkward_store.path),
                str(tmp_path / "x.npy"),
                "--embeddings",
                "3d",
                "--allow-differences",
                "structures",
            ],
            ["of 34 molecules", "have no 3D structure"],
        ),
        (["convert", str(tmp_path / "gone.pt"), str(tmp_path / "y")], ["gone.pt: no such checkpoint"]),
    ):
        assert main(words) == 2, words
        said = capsys.readouterr().err
        assert said.startswith(f"moleblend {words[0]}: ")
        assert all(part in said for part in parts), (words, said)
    assert not (tmp_path / "x.csv").exists()
    assert not (tmp_path / "y").exists()


def test_a_mistake_made_with_the_command_itself(qm9_store, tmp_path):
    words = [str(Path(sys.executable).parent / "moleblend"), "evaluate", str(tmp_path / "gone.pt"), str(qm9_store.path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "gone.pt: no such checkpoint" in done.stderr
    assert "Traceback" not in done.stderr
