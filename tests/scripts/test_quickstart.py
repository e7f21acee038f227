"""The quickstart, from molecules to report, with a quarter of them and few updates."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FEWER = """() { command moleblend "$@" $([ "$1" != preprocess ] || echo --limit 1000); }"""
"""The command as the script's shell has it: a store is made of 1,000 rows of the sample."""
RUNS = [f"gap_{inputs}_{variant}" for inputs in ("2d", "2d+3d") for variant in ("scratch", "pretrained")]


def quickstart(out: Path) -> subprocess.CompletedProcess[str]:
    settings = {"OUT": str(out), "PRETRAIN_UPDATES": "16", "FINETUNE_UPDATES": "16"}  # 14 are an epoch: curves of two points
    settings["BASH_FUNC_moleblend%%"] = FEWER
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = ROOT / "examples" / "quickstart" / "run.sh"
    return subprocess.run([script], env=os.environ | settings | {"PATH": path}, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / """it's a "quick" $(touch marker);start *"""  # as people's folders may be called, and worse
    return out, quickstart(out)


@pytest.mark.slow
def test_quickstart_ends_with_a_table_and_a_report(finished):
    out, done = finished
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(out.parent.rglob("marker"))
    for inputs in ("2d", "2d+3d"):
        row = re.search(rf"gap_{re.escape(inputs)} +test +gap +MAE +meV +([\d.,]+) +([\d.,]+) +([\d.,]+)\n", done.stdout)
        assert row is not None, done.stdout
        shown = [float(number.replace(",", "")) for number in row.groups()]
        results = [json.loads((out / f"gap_{inputs}_{variant}" / "test.json").read_text()) for variant in ("scratch", "pretrained")]
        expected = [results[0]["baseline"]["gap"]["mae"], *(result["metrics"]["gap"]["mae"] for result in results)]
        assert shown == pytest.approx(expected, abs=0.06)  # shown with one digit after the point
        assert all(math.isfinite(mae) and 0 < mae < 10_000 for mae in expected)
        assert all(result["split"] == "test" and len(result["predictions"]) > 70 for result in results)
    page = (out / "report.html").read_text()
    for label in (
        "Shortest path distance",
        "Edges along the path",
        "3D displacement",
        "Noise on the coordinates",
        *RUNS,
        "drawn with the probabilities",
    ):
        assert label in page


@pytest.mark.slow
def test_pretrained_runs_begin_from_the_pretrained_weights(finished):
    out, _ = finished
    said = {name: "pretrained weights from" in (out / name / "output.txt").read_text() for name in RUNS}
    assert said == {name: name.endswith("pretrained") for name in RUNS}


@pytest.mark.slow
def test_second_call_trains_nothing_and_says_the_same(finished):
    out, first = finished
    checkpoints = {path: path.stat().st_mtime_ns for path in out.rglob("*.pt")}
    second = quickstart(out)
    assert second.returncode == 0, second.stderr
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.pt")} == checkpoints
    assert first.stdout[first.stdout.index("mean predictor") :].split("written")[0] in second.stdout
