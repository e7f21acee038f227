"""`moleblend finetune --slurm` and `moleblend tune --slurm` under a real Slurm: submitted, looked at, collected by the same command."""

import contextlib
import io
import json
import os
from dataclasses import dataclass
from unittest import mock

from moleblend_fs.cli.main import main
from tests.cluster.conftest import ENDED
from tests.finetune.conftest import ESOL

MODEL = ("--target", "logS", "--split", "random", "--arch", "tiny", "--epochs", "2")
SETTINGS = {"CPUS": "1", "PARTITION": "main", "TIME": "00:30:00"}


@dataclass(frozen=True)
class Done:
    """What a command said."""

    stdout: str
    stderr: str


def moleblend(cluster, *words, code=0):
    """A command in this process, with its exit code; jobs start processes of their own."""
    out, err = io.StringIO(), io.StringIO()
    variables = mock.patch.dict(os.environ, cluster.environment | SETTINGS, clear=True)
    with variables, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        found = main([str(word) for word in words])
    assert found == code, out.getvalue() + err.getvalue()
    return Done(out.getvalue(), err.getvalue())


def submitted(cluster, out):
    return json.loads((out / "slurm" / "jobs.json").read_text())


def test_finetune_and_tune_as_arrays(warm_cluster, tmp_path):
    table, out = tmp_path / "esol.csv", tmp_path / "run 1"
    table.write_text("smiles,logS\n" + ESOL)
    finetune = ("finetune", table, out, *MODEL, "--batch-size", "8", "--ensemble", "2", "--slurm", "--sbatch=--comment=ours")
    assert "no column 'logP'" in moleblend(warm_cluster, *finetune, "--target", "logP", code=2).stderr
    assert not out.exists(), "nothing is submitted that cannot be read"

    assert "submitted 2 members (jobs: prepare " in moleblend(warm_cluster, *finetune).stdout
    jobs = submitted(warm_cluster, out)
    assert list(jobs) == ["prepare", "work", "collect"]
    assert all(job["Comment"] == "ours" and job["Partition"] == "main" for job in warm_cluster.jobs(jobs["collect"]))
    assert "of 2 members are trained; jobs: " in moleblend(warm_cluster, *finetune).stdout, "it is told, and not submitted again"
    assert submitted(warm_cluster, out) == jobs
    collected = warm_cluster.wait(jobs["collect"], ENDED, seconds=900)[0]
    assert collected["JobState"] == "COMPLETED", (out / "slurm" / "collect.out").read_text()
    assert [task["JobState"] for task in warm_cluster.jobs(jobs["work"])] == ["COMPLETED"] * 2
    said = (out / "slurm" / "collect.out").read_text()
    assert "trained model" in said
    trained = {path: path.stat().st_mtime_ns for path in out.glob("members/*/checkpoint_best.pt")}
    assert len(trained) == 2
    shown = moleblend(warm_cluster, *finetune).stdout
    assert shown.splitlines()[:3] == [line for line in said.splitlines() if not line.startswith("moleblend ")][:3]
    assert {path: path.stat().st_mtime_ns for path in trained} == trained

    # A member that is lost is the only one that is submitted again.
    (out / "members" / "fold0-member1" / "finished.json").unlink()
    assert "submitted 1 members (jobs: work " in moleblend(warm_cluster, *finetune).stdout
    again = submitted(warm_cluster, out)
    assert warm_cluster.wait(again["collect"], ENDED, seconds=900)[0]["JobState"] == "COMPLETED"
    assert [task["ArrayTaskId"] for task in warm_cluster.jobs(again["work"])] == ["1"]

    searched = tmp_path / "tuned"
    tune = ("tune", table, searched, *MODEL, "--ensemble", "1", "--space", "lr=1e-4..1e-2", "--trials", "2", "--slurm")
    assert "submitted 2 tasks that run trials" in moleblend(warm_cluster, *tune).stdout
    assert warm_cluster.wait(submitted(warm_cluster, searched)["collect"], ENDED, seconds=900)[0]["JobState"] == "COMPLETED"
    assert "of 2 (2 complete) has the best validation rmse" in (searched / "slurm" / "collect.out").read_text()
    assert [trial["state"] for trial in json.loads((searched / "trials.json").read_text())["trials"]] == ["complete"] * 2
