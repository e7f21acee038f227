"""`moleblend report` over logs, results and stores that are damaged: the page is made of the rest, and names what was left out."""

import collections
import json
import re

import numpy as np
import pytest

from moleblend_fs.cli.main import main
from moleblend_fs.errors import UserError
from moleblend_fs.report.prediction_panels import picture_sections, worst_sections
from moleblend_fs.report.results import as_text, result_rows
from moleblend_fs.report.runs import find_runs
from tests.cli.test_report import write_log, write_result
from tests.data.test_damage import damage

DAMAGED = 240


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A log and two results, as bytes."""
    folder = tmp_path_factory.mktemp("runs")
    write_log(folder / "a" / "train.log", {"loss": lambda u: 1 / u, "mae": lambda u: 3 + 1 / u})
    target = np.linspace(1, 2, 20)
    write_result(folder / "a" / "test.json", "gone", target + 0.1, target)
    return {name: (folder / "a" / name).read_bytes() for name in ("train.log", "test.json")}


def write(folder, contents):
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def test_damaged_logs_and_results(whole, tmp_path):
    """What is read is finite numbers and texts that can be written; what is not is told by the name of its file."""
    counts = collections.Counter()
    for seed in range(DAMAGED):
        rng, name = np.random.default_rng(seed), list(whole)[seed % 2]
        folder = write(tmp_path / str(seed), whole | {name: damage(whole[name], rng)})
        try:
            runs = find_runs(folder)
        except UserError as error:
            counts[f"{name}: nothing read"] += str(folder) in str(error)
            continue
        assert all(str(folder / name) in note for note in runs.notes), seed
        assert len(runs.evaluations) == (name != "test.json" or not runs.notes), seed
        for log in runs.logs:
            for updates, values in (*log.train.values(), *log.valid.values()):
                assert updates.dtype == np.int64
                assert np.isfinite(values).all()
        as_text(*result_rows(runs.evaluations)).encode()
        counts[f"{name}: {'noted' if runs.notes else 'read'}"] += 1
    print(f"\n{DAMAGED} damaged logs and results: {dict(sorted(counts.items()))}")
    assert sum(counts.values()) == DAMAGED
    assert counts["test.json: noted"] > DAMAGED // 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictions": [{"target": [1.0]}]}, "predictions without a target or prediction"),
        ({"predictions": [{"target": [1.0, 2.0], "prediction": [1.0, 2.0]}]}, "another length than there are metrics"),
        ({"predictions": {}}, "predictions is"),
        ({"predictions": [3]}, r"predictions\[0\] is 3"),
        ({"metrics": {"gap": [1]}}, r"metrics\.gap is"),
        ({"metrics": {"gap": {"mae": "x"}}}, r"metrics\.gap\.mae is"),
        ({"store": 3}, "store is 3"),
        ({"split": 3}, "split is 3"),
    ],
)
def test_results_of_another_form_are_noted(whole, tmp_path, change, message):
    raw = json.loads(whole["test.json"]) | change
    runs = find_runs(write(tmp_path, whole | {"b/test.json": json.dumps(raw).encode()}))
    assert len(runs.evaluations) == 1
    [note] = runs.notes
    assert re.search(rf"b/test\.json: left out, it cannot be read \(.*{message}", note)


def test_awkward_names_and_numbers_can_be_drawn(whole, tmp_path, capsys):
    """Names that matplotlib would take for mathematics, halves of characters, numbers that no axis holds, no number at all."""
    raw = json.loads(whole["test.json"])
    raw["metrics"] = {"ga$p^_\ud800": raw["metrics"]["gap"]}
    raw["predictions"][0]["prediction"], raw["predictions"][1]["target"] = [1e308], [float("inf")]
    nothing = {**raw, "predictions": [{"target": [None], "prediction": [float("nan")]}]}
    log = whole["train.log"] + b'{"num_updates": "1e300", "loss": "1"}\n{"num_updates": 20, "loss": 1e999, "mae": "' + b"9" * 5000 + b'"}\n'
    write(
        tmp_path / "runs",
        {"a$b$c_/train.log": log, "a$b$c_/test.json": json.dumps(raw).encode(), "n/test.json": json.dumps(nothing).encode()},
    )
    (tmp_path / "runs" / "x.log").mkdir()
    (tmp_path / "runs" / "gone.json").symlink_to(tmp_path / "nowhere")
    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "page.html")]) == 0
    said = capsys.readouterr()
    assert f"note: {tmp_path / 'runs' / 'gone.json'}: left out, it cannot be read" in said.err
    assert "train.log: 1 line of it is damaged and left out" in said.err
    page = (tmp_path / "page.html").read_text()
    assert "ga$p^_?" in page
    assert "gone.json: left out" in page


def test_a_damaged_store_is_noted_and_the_page_made_without_its_picture(whole, qm9_store, tmp_path, capsys):
    folder = write(tmp_path / "runs", whole | {"store/manifest.json": (qm9_store.path / "manifest.json").read_bytes()[:-40]})
    assert main(["report", str(folder), "--output", str(tmp_path / "page.html")]) == 0
    assert "manifest.json: not a readable store manifest" in capsys.readouterr().err
    assert main(["report", str(folder), "--store", str(folder / "store"), "--output", str(tmp_path / "page.html")]) == 2


def test_pictures_of_nothing_are_nothing():
    assert picture_sections([]) == worst_sections([]) == []
