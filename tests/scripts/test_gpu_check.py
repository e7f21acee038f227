"""What awaits a GPU: the chunks exist, mistakes are told, loss curves are compared, rows are collected."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from benchmarks.harness import row
from moleblend_fs.ops import dispatch

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "gpu_check.sh"


def call(*arguments, **environment):
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, env=os.environ | {"PYTHON": sys.executable} | environment)


@pytest.fixture(scope="module")
def helper():
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "scripts" / "gpu_check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_kernel_test_has_its_chunk_and_every_benchmark_its_file():
    chunks = [line.split()[0] for line in call("--list").stdout.splitlines()]
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests" / "ops" / "kernels").glob("test_*.py")}
    without_gpu = {"resources", "interpreter", "program_order"}
    assert {c.removeprefix("kernels_") for c in chunks if c.startswith("kernels_")} == tests - without_gpu
    for name in (c.removeprefix("bench_") for c in chunks if c.startswith("bench_")):
        assert (ROOT / "benchmarks" / f"{name}.py").is_file()


def test_help_is_the_head_of_the_script():
    said = call("--help").stdout
    assert said.startswith("Everything that awaits a GPU")
    assert "MOLEBLEND_DEVICE" in said
    assert "set -uo" not in said


def test_unknown_chunk():
    done = call("bench_speed")
    assert done.returncode == 2
    assert "no chunk bench_speed" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(tmp_path):
    done = call("environment", OUT=str(tmp_path / "out"))
    assert done.returncode == 1
    assert "torch sees no GPU" in done.stderr
    assert not (tmp_path / "out").exists()


def test_missing_packages_and_no_wheels(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    done = call("environment", PYTHON=str(tmp_path / "bare" / "bin" / "python"), WHEELS=str(tmp_path / "wheels"))
    assert done.returncode == 1
    assert "--wheels where there is a network" in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_a_chunk_leaves_its_log_and_its_exit_code(tmp_path):
    done = call("environment", MOLEBLEND_DEVICE="cpu", OUT=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed: environment" in done.stdout
    assert (tmp_path / "environment.log").read_text().count("self-test passed") == len(dispatch.OPS)
    done = call("environment", MOLEBLEND_DEVICE="cpu", OUT=str(tmp_path), MOLEBLEND_OPS="reference")
    assert done.returncode != 0
    assert "FAILED" in done.stdout


def log_of(path, values):
    lines = [f"2026-01-01 00:00:00 | INFO | train_inner | {json.dumps({'epoch': 1, 'loss': str(v)})}" for v in values]
    path.write_text("\n".join(["2026-01-01 | INFO | fairseq.trainer | begin", *lines]) + "\n")
    return str(path)


@pytest.mark.parametrize(("factor", "place", "passes"), [(1.0, 0, True), (1.009, 39, True), (1.011, 39, False), (0.9, 0, False)])
def test_curves_are_compared(helper, tmp_path, factor, place, passes):
    curve = [8 * 0.97**i for i in range(40)]
    other = [v * (factor if i == place else 1.0) for i, v in enumerate(curve)]
    logs = [log_of(tmp_path / "a", other), log_of(tmp_path / "b", curve)]
    options = ["--updates", "40", "--tolerance", "0.01", "--json", str(tmp_path / "out.json")]
    assert helper.main(["compare", *logs, *options]) == (0 if passes else 1)
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["all"] == pytest.approx(abs(factor - 1), abs=1e-9)
    assert result["first_ten"] == pytest.approx(abs(factor - 1) if place < 10 else 0, abs=1e-9)
    assert result["curves"] == [other, curve]


@pytest.mark.parametrize("values", [[8.0] * 9, [8.0] * 9 + [float("nan")]], ids=["too short", "not a number"])
def test_incomplete_runs_are_no_success(helper, tmp_path, values):
    logs = [log_of(tmp_path / "a", values), log_of(tmp_path / "b", [8.0] * 10)]
    with pytest.raises(SystemExit, match="the first run"):
        helper.main(["compare", *logs, "--updates", "10", "--tolerance", "0.01", "--json", str(tmp_path / "out.json")])


def test_rows_are_collected(helper, tmp_path):
    given = asdict(row("attention", "case", "metric", "ms", [1.0, 2.0, 3.0])) | {"commit": "", "device": "NVIDIA H200"}
    (tmp_path / "rows.json").write_text(json.dumps([given, given | {"commit": "abc1234"}]))
    assert helper.main(["collect", str(tmp_path / "rows.json"), "--table", str(tmp_path / "table.csv")]) == 0
    lines = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert [line["device"] for line in lines] == ["NVIDIA H200"] * 2
    assert lines[0]["commit"] != ""
    assert lines[1]["commit"] == "abc1234"
