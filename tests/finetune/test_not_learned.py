"""Members that have learned next to nothing: found by their own training molecules, told first, and left out where others have learned."""

import csv
import json
import shutil

import numpy as np
import pytest

from moleblend_fs.cli.main import main
from moleblend_fs.files import as_json, write_atomically
from moleblend_fs.finetune import member_processes, members
from moleblend_fs.finetune.predicting import learned, skill
from moleblend_fs.finetune.progress import Progress
from moleblend_fs.finetune.run import begin
from moleblend_fs.finetune.settings import Settings
from moleblend_fs.predictions.api import Predictor
from tests.finetune.conftest import QUICK

OPTIONS = ["--target", "logS", "--split", "random", "--ensemble", "2", "--epochs", "40", "--batch-size", "8", "--arch", "tiny"]


def test_skill_is_one_for_what_is_right_and_none_above_zero_for_a_constant():
    label = np.array([[1.0, 0.0], [2.0, np.nan], [4.0, 1.0], [np.nan, 0.0]])
    assert skill(label, label, "regression") == 1
    assert skill(np.full((4, 2), 1.7), label, "regression") < 0
    best = np.tile(np.nanmean(label, axis=0), (4, 1))
    assert skill(best, label, "regression") == 0
    wrong = np.array([[1.0], [2.0], [3.0]])
    assert skill(wrong, wrong[::-1], "regression") == pytest.approx(1 - 8 / 2)
    classes = np.array([[0.0], [0.0], [1.0], [1.0]])
    assert skill(np.array([[-1.0], [0.0], [0.5], [3.0]]), classes, "classification") == 1
    assert skill(np.array([[-1.0], [0.5], [0.0], [3.0]]), classes, "classification") == pytest.approx(2 * 0.75 - 1)
    assert skill(np.zeros((4, 1)), classes, "classification") == 0


def test_skill_of_what_cannot_be_told():
    assert skill(np.zeros((2, 1)), np.full((2, 1), 3.0), "regression") is None
    assert skill(np.zeros((2, 1)), np.ones((2, 1)), "classification") is None
    missing = np.array([[np.nan], [1.0], [2.0]])  # no structure, for a model that reads nothing else
    assert skill(missing, np.array([[9.0], [1.0], [2.0]]), "regression") == 1


def test_who_is_left_out():
    assert learned({"a": 0.9, "b": 0.01, "c": 0.05}) == ("a", "c")
    assert learned({"a": 0.9, "b": -3.0}) == ("a",)
    assert learned({"a": 0.01, "b": 0.0}) == ("a", "b")
    assert learned({"a": None, "b": 0.0}) == ("a",)
    assert learned({"a": 0.9, "b": float("nan")}) == ("a",)


def test_a_member_that_never_learned_is_told_and_left_out(table, finetuned, tmp_path, capsys):
    """One of two is put there finished, of hardly any updates; the other is trained."""
    out = tmp_path / "run"
    settings = Settings(**QUICK | {"ensemble": 2, "epochs": 40}, targets=("logS",), split="random")
    _, second = begin(table, out, settings, progress=Progress(quiet=True)).members()
    folder = out / second.folder
    folder.mkdir(parents=True)
    shutil.copy(finetuned.out / "members" / "fold0-member1" / members.CHECKPOINT, folder)
    write_atomically(folder / member_processes.DONE, as_json({"words": list(second.words), "updates": second.updates}))

    assert main(["finetune", str(table), str(out), *OPTIONS]) == 0
    first_lines = capsys.readouterr().out.splitlines()[:2]
    told = "ember fold0-member1 learned next to nothing (it explains 0% of the variation of its own training labels) and is left out"
    assert told in first_lines[1]
    assert told in (out / "report.html").read_text()
    [about] = json.loads((out / "metrics.json").read_text())["not_learned"]
    assert (about["member"], about["left_out"]) == ("fold0-member1", True)
    assert about["skill"] < 0.05
    assert [member["name"] for member in json.loads((out / "model.json").read_text())["members"]] == ["fold0-member0"]
    with open(out / "predictions_test.csv", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["status"] == "ok"]
    assert [row["logS (std)"] for row in rows] == [""] * len(rows)

    texts = [row["smiles"] for row in rows]
    alone, both = (Predictor(path, similarity=False).predict(texts) for path in (out / "members/fold0-member0" / members.CHECKPOINT, out))
    np.testing.assert_array_equal(both["logS"], alone["logS"])
    assert both.std is None
    np.testing.assert_allclose([float(row["logS (predicted)"]) for row in rows], alone["logS"], rtol=1e-6)


def test_where_none_has_learned_none_is_left_out(finetuned):
    """Two epochs teach nothing: it is said of both."""
    assert [(about["member"], about["left_out"]) for about in finetuned.metrics["not_learned"]] == [
        ("fold0-member0", False),
        ("fold0-member1", False),
    ]
    assert "since no other member did better" in (finetuned.out / "report.html").read_text()
