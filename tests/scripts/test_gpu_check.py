"""What awaits a GPU: all of it is rehearsed, a budget is kept, mistakes are told, loss curves are compared, rows are collected."""

import csv
import importlib
import io
import json
import os
import pkgutil
import signal
import subprocess
import sys
import tarfile
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks.harness import row
from moleblend_fs import ops
from moleblend_fs.ops import dispatch

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "gpu_check.sh"


def call(*arguments, **environment):
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, env=os.environ | {"PYTHON": sys.executable} | environment)


@pytest.fixture(scope="module")
def scripts():
    """The folder of scripts, to import from."""
    sys.path.insert(0, str(ROOT / "scripts"))
    yield importlib.import_module
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def helper(scripts):
    return scripts("gpu_check")


@pytest.fixture(scope="module")
def curves(scripts):
    return scripts("loss_curves")


def packed(out):
    """Name -> content of what a check brought back."""
    assert sorted(path.name for path in out.iterdir()) == ["gpu_results.tar.gz", "summary.txt"], "two files, whatever there is to tell"
    with tarfile.open(out / "gpu_results.tar.gz") as archive:
        return {Path(m.name).name: archive.extractfile(m).read().decode(errors="replace") for m in archive.getmembers() if m.isfile()}


def test_the_chunks_are_in_the_order_of_their_worth():
    names = [line.split()[0] for line in call("--list").stdout.splitlines()]
    assert names[:5] == ["doctor", "accuracy", "profile", "end_to_end", "kernels"]
    assert names[5:9] == ["sanitizer", "train", "train_bf16", "attention"]
    assert names[-1] == "attention_compiled", "which was still compiling when a machine was given back"
    assert {"relation_bias", "step", "pair_projection"} == set(names[9:-1])


def test_help_is_the_head_of_the_script():
    said = call("--help").stdout
    assert said.startswith("Everything that awaits a GPU")
    assert "--rehearse" in said
    assert "set -uo" not in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--speed"], "--speed is unknown"),
        (["--budget"], "needs a number of seconds, got ''"),
        (["--budget", "doctor"], "needs a number of seconds, got 'doctor'"),
        (["--rehearse", "--budget", "60", "speed"], "no chunk speed; they are: doctor"),
    ],
)
def test_mistakes(arguments, said, tmp_path):
    done = call(*arguments, OUT=str(tmp_path / "out"))
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(tmp_path):
    done = call("--budget", "60", "doctor", OUT=str(tmp_path / "out"))
    assert done.returncode == 1
    assert "torch sees no GPU" in done.stderr
    assert not (tmp_path / "out").exists()


def test_missing_packages_and_no_wheels(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    done = call("--budget", "60", PYTHON=str(tmp_path / "bare" / "bin" / "python"), WHEELS=str(tmp_path / "wheels"))
    assert done.returncode == 1
    assert "--wheels where there is a network" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_a_rehearsal_runs_every_chunk(tmp_path, helper, shared):
    done = call("--rehearse", "--budget", "3000", OUT=str(tmp_path), MOLEBLEND_SHARED=str(shared))
    assert done.returncode == 0, done.stdout + done.stderr
    found = packed(tmp_path)
    names = list(dict(helper.chunks()))
    assert [line.split(",")[0] for line in found["summary.txt"].splitlines()] == [f"passed: {name}" for name in names]
    assert {f"{name}.log" for name in names} <= set(found)
    assert found["doctor.log"].count("self-test passed") == len(dispatch.OPS)
    assert found["accuracy.log"].count("as plain torch in float64") == sum(room.ispkg for room in pkgutil.iter_modules(ops.__path__))
    cases = {each["case"] for each in json.loads(found["attention.json"])}
    assert len([case for case in cases if "kernels" in case and "best" not in case]) == 2, "both tables of launches"
    assert "predicted: launches, ms" in found["profile.log"]
    assert "profile.json.gz" in found
    assert "not run under compute-sanitizer: there is none" in found["sanitizer.log"] or "ERROR SUMMARY: 0 errors" in found["sanitizer.log"]
    for name in ("train", "train_bf16"):
        assert all(len(curve) == 2 for curve in json.loads(found[f"{name}.json"])["curves"])
    for name in ("end_to_end", "step", "relation_bias", "pair_projection", "profiled"):
        assert json.loads(found[f"{name}.json"])


def test_what_does_not_fit_is_skipped_and_said(tmp_path, helper):
    place = helper.Place("cuda", tmp_path / "results")
    assert helper.check(["kernels", "doctor"], 20, place, tmp_path / "out") == 0
    lines = packed(tmp_path / "out")["summary.txt"].splitlines()
    assert [line.split(",")[0] for line in lines] == ["skipped: doctor", "skipped: kernels"], "the most wanted first"
    chunk = dict(helper.chunks())["doctor"]
    assert helper.does_not_fit(chunk, chunk.seconds - 1, place) == f"it takes about {chunk.seconds} s and {chunk.seconds - 1} s are left"
    assert helper.does_not_fit(chunk, chunk.seconds, place) is None
    assert helper.limit_of(chunk, chunk.seconds + 10, place) == chunk.seconds + 10, "never more than what is left"
    assert helper.limit_of(chunk, 1e4, place) == helper.LATE * chunk.seconds


def test_a_chunk_that_takes_too_long_is_killed_with_all_that_it_started(tmp_path, scripts):
    read, write = os.pipe()  # closed when the last process that has it is gone

    def hang():
        print("begun", flush=True)
        subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], pass_fds=[write])
        return signal.pause()

    assert scripts("gpu_chunks").forked(hang, tmp_path / "log", 0.5) is None
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)
    assert scripts("gpu_chunks").forked(lambda: 3, tmp_path / "log", 60) == 3
    assert scripts("gpu_chunks").forked(lambda: 0, tmp_path / "log") == 0


def log_of(path, values):
    lines = [f"2026-01-01 00:00:00 | INFO | train_inner | {json.dumps({'epoch': 1, 'loss': str(v)})}" for v in values]
    path.write_text("\n".join(["2026-01-01 | INFO | fairseq.trainer | begin", *lines]) + "\n")
    return path


@pytest.mark.parametrize(("factor", "place", "passes"), [(1.0, 0, True), (1.009, 39, True), (1.011, 39, False), (0.9, 0, False)])
def test_curves_are_compared(curves, tmp_path, factor, place, passes):
    curve = [8 * 0.97**i for i in range(40)]
    other = [v * (factor if i == place else 1.0) for i, v in enumerate(curve)]
    logs = [log_of(tmp_path / "a", other), log_of(tmp_path / "b", curve)]
    assert curves.compare_logs(logs, 40, 0.01, tmp_path / "out.json") == (0 if passes else 1)
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["all"] == pytest.approx(abs(factor - 1), abs=1e-9)
    assert result["first_ten"] == pytest.approx(abs(factor - 1) if place < 10 else 0, abs=1e-9)
    assert result["curves"] == [other, curve]


@pytest.mark.parametrize("values", [[8.0] * 9, [8.0] * 9 + [float("nan")]], ids=["too short", "not a number"])
def test_incomplete_runs_are_no_success(curves, tmp_path, values):
    logs = [log_of(tmp_path / "a", values), log_of(tmp_path / "b", [8.0] * 10)]
    with pytest.raises(SystemExit, match="the first run"):
        curves.compare_logs(logs, 10, 0.01, tmp_path / "out.json")


def test_rows_are_collected(helper, tmp_path):
    given = asdict(row("attention", "case", "metric", "ms", [1.0, 2.0, 3.0])) | {"commit": "", "device": "NVIDIA H200"}
    (tmp_path / "rows.json").write_text(json.dumps([given, given | {"commit": "abc1234"}]))
    with tarfile.open(tmp_path / "gpu_results.tar.gz", "w:gz") as archive:
        for name in ("rows.json", "curves.json"):
            content = (tmp_path / "rows.json").read_bytes() if name == "rows.json" else b'{"all": 0.001}'
            member = tarfile.TarInfo(f"gpu_results/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    given = [str(tmp_path / name) for name in ("rows.json", "gpu_results.tar.gz")]
    assert helper.main(["collect", *given, "--table", str(tmp_path / "table.csv")]) == 0
    lines = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert [line["device"] for line in lines] == ["NVIDIA H200"] * 4
    assert lines[0]["commit"] != ""
    assert lines[1]["commit"] == "abc1234"
