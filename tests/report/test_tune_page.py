"""The page of a search: what is on it, and how it lies in a browser."""

import json
import shutil

import numpy as np
import pytest

from moleblend_fs.errors import UserError
from moleblend_fs.report.tune_page import places, write_page
from tests.report.layout import CHROMIUM, measured


@pytest.fixture
def folder(tmp_path):
    """A search of 30 trials, some pruned and one failed."""
    rng = np.random.default_rng(0)
    trials = []
    for number in range(30):
        state = "failed" if number == 7 else "pruned" if number % 3 == 2 else "complete"
        settings = {
            "lr": float(10 ** rng.uniform(-6, -3)),
            "weight_decay": float(10 ** rng.uniform(-7, -3)),
            "batch_size": int(rng.choice([32, 64])),
            "epochs": int(rng.integers(2, 99)),
            "arch": "tiny" if number % 2 else "small",
            "attention_dropout": 0.1,
        }
        score = None if state == "failed" else 1 + float(rng.random()) + 50 * (number == 4)
        trials.append(
            {
                "number": number,
                "state": state,
                "settings": settings,
                "score": score,
                "reason": "why <b>" if state == "failed" else "",
                "seconds": 61.4,
            }
        )
    best = min((trial for trial in trials if trial["state"] == "complete"), key=lambda trial: trial["score"])["number"]
    space = ["lr=1e-06..0.001", "epochs=2..99"]
    found = {"metric": "rmse", "higher_is_better": False, "space": space, "best": best, "folder": f"best-trial{best}", "trials": trials}
    (tmp_path / "trials.json").write_text(json.dumps(found))
    (tmp_path / found["folder"]).mkdir()
    score = {"y": {"rmse": {"value": 1.0, "low": 0.5, "high": 1.5}}, "mean": {"rmse": {"value": 1.0, "low": 0.5, "high": 1.5}}}
    metrics = {
        "targets": {"y": {"kind": "regression", "unit": ""}},
        "models": {"moleblend": score},
        "best": "moleblend",
        "first_line": "test rmse 1",
        "not_learned": [{"member": "fold0-member1", "skill": 0.01, "left_out": True}],
    }
    (tmp_path / found["folder"] / "metrics.json").write_text(json.dumps(metrics))
    return tmp_path


def test_every_trial_is_in_the_table_and_the_pictures(folder):
    found = json.loads((folder / "trials.json").read_text())
    write_page(folder)
    page = (folder / "report.html").read_text()
    best = next(trial for trial in found["trials"] if trial["number"] == found["best"])
    assert f"Trial {best['number']} of 30 has the best rmse on validation molecules, {best['score']:.4g}" in page
    assert page.count("<polyline") == sum(trial["state"] == "complete" for trial in found["trials"])
    assert page.count("<title>trial ") == 29 + page.count("<polyline"), "each scored trial is a point, each complete one a line"
    assert all(f'<td class="number">{trial["number"]}</td><td>{trial["state"]}</td>' in page for trial in found["trials"])
    assert "why &lt;b&gt;" in page
    assert "Test rmse 1. Member fold0-member1 learned next to nothing" in page
    lr = best["settings"]["lr"]
    assert f'<td>lr</td><td class="number">{lr:.4g}</td>' in page, "what was drawn, and --lr takes"
    assert f"{lr:.4g}" != f"{lr:.3g}"
    assert f'href="best-trial{best["number"]}/report.html"' in page


def test_places_on_a_line():
    assert places([1e-6, 1e-3, 1e-4, 1e-5, 1e-2, 1e-1]) == pytest.approx([0, 0.6, 0.4, 0.2, 0.8, 1])
    assert places([0.0, 10, 2, 4, 5, 1]) == pytest.approx([0, 1, 0.2, 0.4, 0.5, 0.1])
    assert places(["small", "tiny", "base"]) == [0.5, 1, 0]
    assert places([64, 32, 64]) == [1, 0, 1]
    assert places([3]) == [0.5]


def test_a_folder_without_a_search_is_told(folder):
    shutil.rmtree(next(folder.glob("best-*")))
    with pytest.raises(UserError, match="no finished run of `moleblend tune`"):
        write_page(folder)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed (apt-get install chromium)")
def test_it_lies_well_at_all_widths(folder, tmp_path):
    write_page(folder)
    for found in measured((folder / "report.html").read_text(), tmp_path):
        assert found["faults"] == [], found["width"]
        assert found["counts"]["pictures"] == 2
