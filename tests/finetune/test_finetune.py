"""`moleblend finetune` from a table to a folder: what is in it, that it agrees with itself, and that it goes on."""

import csv
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from moleblend_fs.checkpoint.read import load
from moleblend_fs.cli.main import main
from moleblend_fs.data.split_file import SplitFile, open_store
from moleblend_fs.finetune.run import finetune
from moleblend_fs.finetune.settings import Settings
from moleblend_fs.inference.predict import Runner
from moleblend_fs.objectives.common.metrics import rmse
from tests.finetune.conftest import QUICK


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_row_of_the_table_is_in_the_out_of_fold_file(finetuned, table):
    rows = read(finetuned.out / "predictions_oof.csv")
    assert [row["name"] for row in rows] == [row["name"] for row in read(table)]
    status = {row["name"]: row["status"] for row in rows}
    assert status["bad"].startswith("no molecule: ")
    assert "ring" in status["bad"].lower()
    assert status["text"].startswith("no molecule: label 'logS' is 'soluble'")
    assert status["empty"] in ("ok", "trained on: no out-of-fold prediction")
    assert finetuned.failed == 2
    valid = SplitFile.load(finetuned.out / "splits.json").folds["fold0"]["valid"].tolist()
    assert [int(row["row"]) for row in rows if row["status"] == "ok"] == valid
    assert all(row["logS (predicted)"] for row in rows if row["status"] == "ok")


def test_predictions_scores_and_members_agree(finetuned):
    """What is reported is the mean of what the members' checkpoints say, and its score is that of the table."""
    out = finetuned.out
    model = json.loads((out / "model.json").read_text())
    assert model["targets"] == [{"name": "logS", "kind": "regression", "unit": ""}]
    store = open_store(out / "store", out / "splits.json", "fold0")
    indices = store.split("test")
    members = [next(Runner().properties(load(out / m["checkpoint"]), store, indices)).values for m in model["members"]]
    assert len(members) == 2
    assert not np.allclose(members[0], members[1])
    rows = [row for row in read(out / "predictions_test.csv") if row["status"] == "ok"]
    predicted = np.array([float(row["logS (predicted)"]) for row in rows])
    assert predicted == pytest.approx(np.mean(members, axis=0)[:, 0], rel=1e-6)
    assert [float(row["logS (std)"]) for row in rows] == pytest.approx(np.std(members, axis=0)[:, 0], rel=1e-5)
    truth = np.array([float(row["logS"] or "nan") for row in rows])
    score = finetuned.metrics["models"]["moleblend"]["logS"]["rmse"]
    assert score["value"] == pytest.approx(rmse(predicted, truth), rel=1e-5)
    assert len(rows) == 2
    assert set(score) == {"value"}, "two molecules have no interval"
    names = {row["name"] for row in read(out / "predictions_test.csv")}
    assert names == {row["name"] for row in rows} | {"bad", "text"}


def test_scaling_is_of_the_training_molecules(finetuned):
    out = finetuned.out
    store = open_store(out / "store", out / "splits.json", "fold0")
    labels = store.labels(store.split("train"))[:, 0]
    about = load(out / "members" / "fold0-member0" / "checkpoint_best.pt").finetuned
    assert about.mean == pytest.approx([np.nanmean(labels)])
    assert about.std == pytest.approx([np.nanstd(labels)])


def test_a_members_command_trains_it_again(finetuned, tmp_path):
    """The script in a member's folder, in a folder that was moved, gives the very same weights."""
    moved = tmp_path / "moved"
    shutil.copytree(finetuned.out, moved)
    folder = moved / "members" / "fold0-member1"
    expected = load(folder / "checkpoint_best.pt").weights
    script = (folder / "command.sh").read_text()
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "command.sh").write_text(script)
    path = f"{Path(shutil.which('moleblend') or Path(os.sys.executable).parent / 'moleblend').parent}:{os.environ['PATH']}"
    done = subprocess.run(["sh", folder / "command.sh"], cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = load(folder / "checkpoint_best.pt").weights
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_same_command_trains_nothing_again_and_others_are_refused(finetuned, table, capsys):
    out = finetuned.out
    before = {path: path.stat().st_mtime_ns for path in out.glob("members/*/*.pt")}
    again = finetune(table, out, Settings(**QUICK | {"ensemble": 2}, targets=("logS",), split="random"))
    assert again.metrics == finetuned.metrics
    assert {path: path.stat().st_mtime_ns for path in out.glob("members/*/*.pt")} == before
    same = ["finetune", str(table), str(out), "--target", "logS", "--epochs", "3"]
    assert main(same) == 2
    error = capsys.readouterr().err
    assert "a run of other arguments" in error
    assert "--epochs 2 there, 3 here" in error
    full = out.parent / "other"
    full.mkdir(exist_ok=True)
    (full / "mine.txt").write_text("x")
    assert main(["finetune", str(table), str(full), "--target", "logS"]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_what_was_refused_before_training_can_be_asked_for_better(table, tmp_path, capsys):
    """A mistake in the first call does not hold the folder's name."""
    one = tmp_path / "one.csv"
    one.write_text("smiles,y\n" + "".join(f"{'C' * (i + 1)}O,{i}.5\n" for i in range(30)))
    out = tmp_path / "out"
    chosen = ["--target", "y", "--epochs", "1", "--weights", "none"]
    assert main(["finetune", str(one), str(out), *chosen]) == 2, "all molecules have one scaffold"
    assert "the train split is empty" in capsys.readouterr().err
    records = (out / "store" / "records.lmdb").stat().st_mtime_ns
    chosen += ["--ensemble", "1"]
    assert main(["finetune", str(one), str(out), *chosen, "--split", "random", "--split-fractions", "0.9,0.05,0.04"]) == 2
    assert main(["finetune", str(one), *chosen, "--split", "random", str(out)]) == 0
    assert (out / "metrics.json").is_file()
    assert (out / "store" / "records.lmdb").stat().st_mtime_ns == records, "the molecules are the same"


def test_a_folder_in_which_nothing_was_made_is_not_left(tmp_path, capsys):
    bad = tmp_path / "bad.csv"
    bad.write_text("")
    mine = tmp_path / "mine"
    mine.mkdir()
    for out in (tmp_path / "new", mine):
        assert main(["finetune", str(bad), str(out), "--target", "y"]) == 2
    assert sorted(tmp_path.iterdir()) == [bad, mine]
    assert not list(mine.iterdir())


def test_its_own_predictions_in_bfloat16_on_request(finetuned, table, tmp_path, capsys):
    """Near float32's, by the same members."""
    out = tmp_path / "run"
    shutil.copytree(finetuned.out, out)
    request = (out / "request.json").read_text()
    words = ["finetune", str(table), str(out), "--target", "logS", "--split", "random", "--epochs", "2", "--batch-size", "8"]
    words += ["--ensemble", "2", "--arch", "tiny", "--precision", "bf16"]
    assert main(words) == 2
    assert "--precision float32 there, bf16 here" in capsys.readouterr().err
    (out / "request.json").write_text(request.replace('"precision": "float32"', '"precision": "bf16"'))
    assert main(words) == 0
    exact, lowered = (
        np.array([float(row["logS (predicted)"]) for row in read(folder / "predictions_test.csv") if row["status"] == "ok"])
        for folder in (finetuned.out, out)
    )
    assert 0 < np.abs(lowered - exact).max() < 0.05 * np.ptp(exact)


def test_a_stopped_member_goes_on(finetuned, table, tmp_path):
    """A member that was finished stays, one that was not is trained; the result is the uninterrupted one."""
    out = tmp_path / "again"
    shutil.copytree(finetuned.out, out)
    shutil.rmtree(out / "members" / "fold0-member0")
    (out / "metrics.json").unlink()
    kept = (out / "members" / "fold0-member1" / "checkpoint_best.pt").stat().st_mtime_ns
    again = finetune(table, out, Settings(**QUICK | {"ensemble": 2}, targets=("logS",), split="random"))
    assert again.metrics == finetuned.metrics
    assert (out / "members" / "fold0-member1" / "checkpoint_best.pt").stat().st_mtime_ns == kept


def test_all_training_molecules_in_a_single_update(table, tmp_path):
    settings = Settings(**QUICK | {"epochs": 1, "batch_size": 100}, targets=("logS",), split="random")
    out = finetune(table, tmp_path / "run", settings).out
    assert load(out / "members" / "fold0-member0" / "checkpoint_best.pt").about["updates"] == 1


def test_what_is_ambiguous_is_asked_for(tmp_path, capsys):
    path = tmp_path / "active.csv"
    path.write_text("smiles,active\n" + "".join(f"{'C' * (i + 1)},{i % 2}\n" for i in range(12)))
    assert main(["finetune", str(path), str(tmp_path / "out"), "--target", "active"]) == 2
    assert "--target active:classification" in capsys.readouterr().err
    assert main(["finetune", str(path), str(tmp_path / "out2")]) == 2
    assert "Name it with --target; there are: active" in capsys.readouterr().err
    assert main(["finetune", str(path), str(tmp_path / "out3"), "--target", "aktiv"]) == 2
    assert "no column 'aktiv'; there are: active" in capsys.readouterr().err


def test_the_page_and_the_terminal_begin_with_who_wins(finetuned):
    first = finetuned.metrics["first_line"]
    models = finetuned.metrics["models"]
    best = min(models, key=lambda name: models[name]["mean"]["rmse"]["value"])
    assert finetuned.metrics["best"] == best
    assert first.startswith("a baseline wins") == (best != "moleblend")
    page = (finetuned.out / "report.html").read_text()
    assert first[1:50] in page
    assert "label &#x27;logS&#x27; is &#x27;soluble&#x27;" in page
    assert re.search(r"<title>\S+ \(row \d+\): true \S+, predicted ", page), "a point says its molecule"
