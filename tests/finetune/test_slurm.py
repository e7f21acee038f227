"""What `--slurm` submits, with commands in place of Slurm's that note what they are given; tests/cluster has a real one."""

import ast
import json
import os
import shlex
import sys
from pathlib import Path

import pytest

from moleblend_fs.cli.main import main
from moleblend_fs.finetune.slurm import VARIABLES

SBATCH = """#!/usr/bin/env python3
import os, sys
number = str(7 + len(os.listdir({noted!r})))
with open(os.path.join({noted!r}, number), "w") as stream:
    stream.write(repr((sys.argv[1:], sys.stdin.read())))
print(number + ";cluster")
"""
SQUEUE = """#!/bin/sh
if [ -n "$ALIVE" ]; then printf 'RUNNING\\nPENDING\\nPENDING\\n'; exit; fi
echo 'slurm_load_jobs error: Invalid job id specified' >&2
exit 1
"""


@pytest.fixture
def noted(tmp_path, monkeypatch) -> Path:
    """The folder of what was submitted, a file for each job."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "noted").mkdir()
    for name, text in (("sbatch", SBATCH.format(noted=str(tmp_path / "noted"))), ("squeue", SQUEUE)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "noted"


def test_jobs_and_their_options(noted, table, tmp_path, monkeypatch, capsys):
    for name, value in {"PARTITION": "gpu", "GPUS": "1", "PARALLEL": "3", "SBATCH_OPTIONS": "--nice=5"}.items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "50%a b"
    words = ["finetune", str(table), str(out), "--target", "logS", "--split", "random", "--folds", "2"]
    assert main([*words, "--slurm", "--sbatch=--comment='two words'"]) == 0
    assert "submitted 4 members (jobs: prepare 7, work 8, collect 9)" in capsys.readouterr().out
    assert json.loads((out / "slurm" / "jobs.json").read_text()) == {"prepare": "7", "work": "8", "collect": "9"}
    jobs = [ast.literal_eval((noted / number).read_text()) for number in "789"]
    for (options, script), step in zip(jobs, ("prepare", "work", "collect"), strict=True):
        assert {"--partition=gpu", "--nice=5", "--comment=two words", "--time=04:00:00", "--cpus-per-task=4"} <= set(options)
        assert f"--chdir={os.getcwd()}" in options
        command = next(line for line in script.splitlines() if line.startswith(shlex.quote(sys.executable))).removesuffix(" </dev/null &")
        assert shlex.split(command)[4:] == [*words, "--jobs", "4", "--step", step]
    work = jobs[1][0]
    assert {"--array=0,1,2,3%3", "--gpus=1", "--signal=B:USR1@120", "--dependency=afterok:7"} <= set(work)
    assert f"--output={tmp_path}/50%%a b/slurm/work-%a.out" in work
    assert "--dependency=afterany:8" in jobs[2][0], "it tells of tasks that failed"
    assert not any(word.startswith("--gpus") for options, _ in (jobs[0], jobs[2]) for word in options)
    monkeypatch.setenv("ALIVE", "1")
    assert main([*words, "--slurm"]) == 0
    told = "0 of 4 members are trained; jobs: prepare: 1 running, 2 pending; work: 1 running, 2 pending"
    assert capsys.readouterr().out.startswith(told)
    assert len(list(noted.iterdir())) == 3
    monkeypatch.delenv("ALIVE")
    (out / "slurm" / "work-2.out").write_text("something\nout of memory\n\n")
    assert main([*words, "--slurm"]) == 0
    assert "work-2 of before did not finish: out of memory" in capsys.readouterr().err
    assert len(list(noted.iterdir())) == 6, "all jobs have ended, and nothing is there: they are submitted again"


def test_tune_submits_as_many_tasks_as_it_has_trials(noted, table, tmp_path, capsys):
    pytest.importorskip("optuna", reason="the search needs optuna")
    words = [
        "tune",
        str(table),
        str(tmp_path / "out"),
        "--target",
        "logS",
        "--split",
        "random",
        "--trials",
        "5",
        "--space",
        "lr=1e-4..1e-2",
    ]
    assert main([*words, "--slurm"]) == 0
    assert "submitted 5 tasks that run trials" in capsys.readouterr().out
    options, script = ast.literal_eval((noted / "8").read_text())
    assert "--array=0,1,2,3,4%32" in options
    assert "--trials 5 --space lr=1e-4..1e-2 --validation-folds 1 --jobs 4 --step work" in script


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "nothing"], "no column 'nothing'"),
        (["--target", "logS", "--sbatch=--comment='x"], '--sbatch "--comment=\'x": No closing quotation'),
    ],
)
def test_mistakes_are_told_before_anything_is_submitted(noted, table, tmp_path, capsys, words, message):
    assert main(["finetune", str(table), str(tmp_path / "out"), "--slurm", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(noted.iterdir())


@pytest.mark.parametrize("command", ["finetune", "tune"])
@pytest.mark.parametrize(("name", "value"), [("PARALLEL", "many"), ("PARALLEL", "0"), ("CPUS", "-1"), ("CPUS", "2.5"), ("WARN", "2m")])
def test_settings_that_are_no_numbers_are_told(noted, table, tmp_path, monkeypatch, capsys, command, name, value):
    """With no task at a time `tune` searched where it was called, as if all jobs had ended."""
    pytest.importorskip("optuna", reason="the search needs optuna")
    monkeypatch.setenv(name, value)
    assert main([command, str(table), str(tmp_path / "out"), "--target", "logS", "--slurm"]) == 2
    assert f"{name}={value}: the environment variable must be a whole number" in capsys.readouterr().err
    assert not list(noted.iterdir())


@pytest.mark.parametrize("content", ["{", "[]", '{"work": 8}'])
def test_a_damaged_list_of_jobs_is_told(noted, table, tmp_path, capsys, content):
    """They may be under way, and would be submitted a second time."""
    (tmp_path / "out" / "slurm").mkdir(parents=True)
    (tmp_path / "out" / "slurm" / "jobs.json").write_text(content)
    assert main(["finetune", str(table), str(tmp_path / "out"), "--target", "logS", "--slurm"]) == 2
    assert "jobs.json: cannot be read" in capsys.readouterr().err
    assert not list(noted.iterdir())


def test_where_there_is_no_slurm(table, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["finetune", str(table), str(tmp_path / "out"), "--target", "logS", "--slurm"]) == 2
    assert "--slurm: sbatch was not found: give the command where jobs are submitted" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
