"""Searches that really train: stopped, shared, pruned; and what test labels can reach."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="the search needs optuna (pip install 'moleblend-fs[tune]')")

from moleblend_fs.cli.main import main
from moleblend_fs.data.split_file import SplitFile
from moleblend_fs.errors import UserError
from moleblend_fs.finetune.progress import Progress
from moleblend_fs.finetune.settings import Settings
from moleblend_fs.tuning.run import Wanted, prepared, tune
from moleblend_fs.tuning.search import Search, Trial, scores_in
from moleblend_fs.tuning.space import space_of
from moleblend_fs.tuning.study import Study
from tests.finetune.conftest import ESOL
from tests.support.waiting import until
from tests.support.warm_likeness import VARIABLE

SPACE = ("lr=1e-4..1e-2", "batch-size=4,8")
SETTINGS = Settings(targets=("logS:regression",), split="random", arch="tiny", ensemble=1, epochs=12)
ROWS = [line.rsplit(",", 1) for line in ESOL.strip().splitlines()]


def write(path: Path, labels) -> Path:
    path.write_text("smiles,logS\n" + "".join(f"{smiles},{value}\n" for (smiles, _), value in zip(ROWS, labels, strict=True)))
    return path


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    yield
    os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(OMP_NUM_THREADS=before)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search whose process is killed in its first trial, and which two others end together; (folder of all, what they said)."""
    folder = tmp_path_factory.mktemp("search")
    table = write(folder / "table.csv", [value for _, value in ROWS])
    words = [word for text in SPACE for word in ("--space", text)] + ["--trials", "2", "--jobs", "1", *SETTINGS.words()]
    command = [sys.executable, "-P", "-m", "moleblend_fs.cli.main", "tune", str(table), str(folder / "run"), *words]

    def started(**variables: str) -> subprocess.Popen:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | variables)

    first, log = started(**{VARIABLE: ""}), folder / "run" / "trials" / "trial0-fold0" / "train.log"
    until(lambda: log.exists() and '{"epoch": 2, "train_loss"' in log.read_text(), seconds=300, runs=lambda: first.poll() is None)
    first.send_signal(signal.SIGKILL)
    first.wait()
    both = [started(), started()]
    said = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    return folder, said


@pytest.mark.slow
def test_a_killed_search_goes_on_and_two_processes_share_it(searched):
    """No trial is lost or run twice, and the first one went on where it was."""
    folder, said = searched
    found = json.loads((folder / "run" / "trials.json").read_text())
    assert [(trial["number"], trial["state"]) for trial in found["trials"]] == [(0, "complete"), (1, "complete")]
    assert sorted(path.name for path in (folder / "run" / "trials").iterdir() if path.is_dir()) == ["trial0-fold0", "trial1-fold0"]
    output = (folder / "run" / "trials" / "trial0-fold0" / "output.log").read_text()
    assert re.search(r"@ [1-9]\d* updates", output), "it was resumed, not begun anew"
    epochs = re.findall(r'"epoch": (\d+), "train_loss"', (folder / "run" / "trials" / "trial0-fold0" / "train.log").read_text())
    assert set(epochs) == {str(i) for i in range(1, 13)}
    best = min(found["trials"], key=lambda trial: trial["score"])
    assert found["best"] == best["number"]
    assert not list((folder / "run" / "trials").rglob("*.pt")), "checkpoints of trials are not kept"
    for text in said:
        assert f"trial {best['number']} of 2 (2 complete) has the best validation rmse" in text
        assert "trained model" in text
    assert said[0].splitlines()[-3:] == said[1].splitlines()[-3:]


@pytest.mark.slow
def test_the_winner_is_an_ordinary_run_of_finetune(searched, capsys):
    """Of the same training and validation molecules and the winner's settings: the same command trains nothing again, and its model's
    validation score is the trial's."""
    folder, _ = searched
    found = json.loads((folder / "run" / "trials.json").read_text())
    out = folder / "run" / found["folder"]
    words = (out / "command.sh").read_text().splitlines()[1].split()
    assert words[:4] == ["moleblend", "finetune", str(folder / "table.csv"), str(out)]
    before = {path: path.stat().st_mtime_ns for path in out.glob("members/*/*.pt")}
    assert len(before) == 2
    assert main(words[1:]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("members/*/*.pt")} == before
    log = (out / "members" / "fold0-member0" / "train.log").read_text()
    assert float(re.findall(r'"valid_best_rmse": "([^"]+)"', log)[-1]) == found["trials"][found["best"]]["score"]
    inner, outer = (SplitFile.load(path).folds["fold0"] for path in (folder / "run" / "selection.json", out / "splits.json"))
    assert {name: rows.tolist() for name, rows in outer.items() if name != "test"} == {name: rows.tolist() for name, rows in inner.items()}
    assert "report.html" in capsys.readouterr().out


@pytest.mark.slow
def test_absurd_test_labels_do_not_touch_selection(searched):
    """Trials score the same, to the last digit, whatever the test molecules' labels are; and no trial is told their rows."""
    folder, _ = searched
    test = SplitFile.load(folder / "run" / "splits.json").folds["fold0"]["test"].tolist()
    assert len(test) >= 2
    labels = [1e7 * (i + 1) if i in test else value for i, (_, value) in enumerate(ROWS)]
    poisoned = write(folder / "poisoned.csv", labels)
    assert tune(poisoned, folder / "poisoned", SETTINGS, Wanted(trials=2, space=SPACE), jobs=1, only_search=True) is None
    tried = studied(folder / "poisoned").tried()
    found = json.loads((folder / "run" / "trials.json").read_text())["trials"]
    assert [(each.settings, each.score) for each in tried] == [(trial["settings"], trial["score"]) for trial in found]
    selection = json.loads((folder / "poisoned" / "selection.json").read_text())["folds"]["fold0"]
    assert set(selection) == {"train", "valid"}
    assert not set(test) & {row for rows in selection.values() for row in rows}
    assert json.loads((folder / "poisoned" / "splits.json").read_text())["folds"]["fold0"]["test"] == test


def studied(folder: Path) -> Study:
    return Study(folder, space_of(SPACE, SETTINGS, 19, "regression"), maximise=False, seed=0, pruning=True)


def complete_far_better(study: Study, trials: int) -> None:
    """Trials that no other one can come near, at any step."""
    for _ in range(trials):
        claimed = study.claim(trials + 1)
        for step in range(1, 11):
            study.report(claimed, step, 1e-3)
        study.complete(claimed, 1e-3)


@pytest.mark.parametrize(("step", "stopped"), [(9, True), (10, False)])
def test_a_trial_that_was_scored_to_its_end_is_not_stopped(tmp_path, step, stopped):
    """It would count as ended early, though nothing is saved."""
    wanted, table = Wanted(trials=5, space=SPACE), write(tmp_path / "table.csv", [value for _, value in ROWS])
    begun, folds = prepared(table, tmp_path / "run", SETTINGS, wanted, progress=Progress(quiet=True), jobs=1)
    study = studied(begun.folder)
    complete_far_better(study, 4)
    claimed = study.claim(5)
    for passed in range(1, step + 1):
        study.report(claimed, passed, 9.0)
    search = Search(begun, folds, study, trials=5, jobs=1, metric="rmse", by_loss=False, show=lambda done, tried: None)
    with subprocess.Popen(["sleep", "600"]) as process:
        planned = search.planned(claimed)
        trial = Trial(claimed=claimed, planned=planned, epochs=12, slot=0, process=process, step=step)
        search._look(trial)
        process.kill()
    assert trial.hopeless == stopped


@pytest.mark.slow
def test_a_hopeless_trial_ends_early_and_cleanly(tmp_path):
    """Beside others that are far better at every step."""
    wanted, table = Wanted(trials=5, space=SPACE), write(tmp_path / "table.csv", [value for _, value in ROWS])
    begun, folds = prepared(table, tmp_path / "run", SETTINGS, wanted, progress=Progress(quiet=True), jobs=1)
    study = studied(begun.folder)
    complete_far_better(study, 4)
    Search(begun, folds, study, trials=5, jobs=1, metric="rmse", by_loss=False, show=lambda done, tried: None).run(to_the_end=True)
    last = study.tried()[4]
    assert last.state == "pruned"
    assert 2 <= max(last.steps) < 10
    folder = begun.folder / "trials" / "trial4-fold0"
    assert (folder / "preempted").exists()
    assert not list(folder.glob("*.pt"))
    assert "Traceback" not in (folder / "output.log").read_text()
    assert study.claim(5) is None


def test_validation_folds_hold_each_molecule_out_once(tmp_path):
    """Of those that are not tested."""
    table = write(tmp_path / "table.csv", [value for _, value in ROWS])
    begun, folds = prepared(table, tmp_path / "run", SETTINGS, Wanted(folds=3), progress=Progress(quiet=True), jobs=1)
    test = set(begun.folds["fold0"].split("test").tolist())
    held = [fold.split("valid").tolist() for fold in folds.values()]
    assert sorted(chain(*held)) == sorted(set(range(len(begun.data.store))) - test)
    for fold in folds.values():
        parts = [set(fold.split(name).tolist()) for name in ("train", "valid")]
        assert not parts[0] & parts[1]
        assert parts[0] | parts[1] == set(chain(*held))


def test_a_validation_fold_that_cannot_learn_a_target_is_told_before_any_trial(tmp_path):
    """All trials failed at it, each after it had trained the folds before."""
    table = tmp_path / "table.csv"
    lines = [f"{smiles},{value},{'1.5' if i == 12 else ''}" for i, (smiles, value) in enumerate(ROWS)]
    table.write_text("smiles,logS,rare\n" + "\n".join(lines) + "\n")
    settings = replace(SETTINGS, targets=("logS:regression", "rare:regression"))
    words = {"progress": Progress(quiet=True), "jobs": 1}
    test = prepared(table, tmp_path / "one", settings, Wanted(), **words)[0].folds["fold0"].split("test")
    assert 12 not in test
    with pytest.raises(UserError, match=r"^validation fold\d: no training molecule has a value of rare; leave such targets out"):
        prepared(table, tmp_path / "run", settings, Wanted(folds=3), **words)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b'{"folds": 3, "settings": [], "data": 1}'])
@pytest.mark.parametrize(
    ("name", "remedy"),
    [("splits.json", "the same command makes it again"), ("selection.json", "makes it again"), ("request.json", "choose another OUT")],
)
def test_damaged_files_of_a_run_are_named(tmp_path, name, remedy, content):
    table = write(tmp_path / "table.csv", [value for _, value in ROWS])
    words = {"progress": Progress(quiet=True), "jobs": 1}
    prepared(table, tmp_path / "run", SETTINGS, Wanted(), **words)
    before = (tmp_path / "run" / name).read_bytes()
    (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: .*{remedy}"):
        prepared(table, tmp_path / "run", SETTINGS, Wanted(), **words)
    if name != "request.json":
        (tmp_path / "run" / name).unlink()
        prepared(table, tmp_path / "run", SETTINGS, Wanted(), **words)
        assert (tmp_path / "run" / name).read_bytes() == before


def test_trials_of_a_single_epoch_have_a_score(tmp_path):
    """Whose log has no best score of earlier epochs beside it; the trial's is that of the one validation."""
    table = write(tmp_path / "table.csv", [value for _, value in ROWS])
    tune(table, tmp_path / "run", replace(SETTINGS, epochs=1), Wanted(trials=1, space=SPACE), jobs=1, only_search=True)
    (tried,) = studied(tmp_path / "run").tried()
    log = (tmp_path / "run" / "trials" / "trial0-fold0" / "train.log").read_text()
    assert (tried.state, tried.reason) == ("complete", "")
    assert [tried.score] == [float(score) for score in re.findall(r'"valid_rmse": "([^"]+)"', log)]


@pytest.mark.parametrize("maximise", [True, False])
def test_a_score_that_is_no_number_is_not_the_best(tmp_path, maximise):
    """Where the first one was none, no later one was better."""
    scores = ("nan", "inf", "0.5", "0.7", "nan", "0.6")
    lines = [f'2026 | INFO | valid | {{"epoch": {i}, "valid_rmse": "{score}"}}' for i, score in enumerate(scores, 1)]
    (tmp_path / "train.log").write_text("\n".join(lines))
    found = [best for _, best in scores_in(tmp_path / "train.log", "rmse", maximise=maximise)]
    assert found[2:] == ([0.5, 0.7, 0.7, 0.7] if maximise else [0.5] * 4)
    assert not any(map(math.isfinite, found[:2]))


def test_other_arguments_are_refused_once_trials_have_begun(searched, tmp_path, capsys):
    folder, _ = searched
    words = ["tune", str(folder / "table.csv"), str(folder / "run"), *SETTINGS.words()]
    assert main([*words, "--space", "lr=1e-4..1e-2"]) == 2
    assert "--space lr=1e-4..1e-2 batch-size=4,8 there, lr=1e-4..1e-2 here" in capsys.readouterr().err
    assert main(["finetune", *words[1:]]) == 2
    assert "has a run of `moleblend tune`; choose another OUT" in capsys.readouterr().err
