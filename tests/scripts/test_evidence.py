"""The grid of the evidence: every row of the data accounted for, the same splits for all, test labels that nothing reads, and one run."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moleblend_fs.chem.parse import parse_smiles
from moleblend_fs.chem.scaffold import murcko_scaffold
from moleblend_fs.errors import UserError

ROOT = Path(__file__).parents[2]
HERE = ROOT / "examples" / "evidence"
sys.path[:0] = [str(HERE), str(HERE.parent)]

import cells  # noqa: E402
import cleaning  # noqa: E402
import learners  # noqa: E402
import plan as plans  # noqa: E402

RINGS = ["c1ccccc1", "c1ccncc1", "C1CCCCC1", "c1ccsc1", "C1CCNCC1", "c1ccc2ccccc2c1", "c1ccoc1", "C1CCOC1"]


@pytest.fixture
def data(tmp_path):
    """ESOL and BBBP of made-up labels: 108 molecules of 36 scaffolds."""
    folder = tmp_path / "moleculenet"
    folder.mkdir()
    smiles = [f"{start}{a}CC{b}" for i, a in enumerate(RINGS) for b in RINGS[i:] for start in ("C", "CC", "O")]
    (folder / "esol.csv").write_text("smiles,logSolubility\n" + "".join(f"{s},{len(s) / 5 - i % 3}\n" for i, s in enumerate(smiles)))
    (folder / "bbbp.csv").write_text("num,name,p_np,smiles\n" + "".join(f"{i},n,{i % 2},{s}\n" for i, s in enumerate(smiles)))
    return folder


def test_every_row_is_accounted_for():
    nan = float("nan")
    rows = [
        ("CCO", [1.0]),
        ("OCC", [1.0]),
        ("CCN", [0.0]),
        ("NCC", [1.0]),
        ("not", [1.0]),
        ("CCC", [nan]),
        ("CCCl", [0.0]),
        ("C[C@H](F)Cl", [1.0]),
    ]
    found, kept, original = cleaning.clean(rows, "classification", 0)
    assert kept == [("CCO", [1.0]), ("CCCl", [0.0]), ("C[C@H](F)Cl", [1.0])]
    assert [number for number, _ in found.invalid] == [4]
    assert (found.rows, found.unlabelled, found.merged, found.conflicting, found.kept) == (8, 1, 1, 2, 3)
    assert found.rows == len(found.invalid) + found.unlabelled + found.merged + found.conflicting + found.kept
    assert len(original) == 6


def test_values_agree_within_a_tenth_of_their_scatter():
    rows = [("CCO", [0.0]), ("OCC", [0.2]), ("CCN", [0.0]), ("NCC", [0.5]), ("CCC", [10.0]), ("CCCC", [5.0])]
    found, kept, _ = cleaning.clean(rows, "regression", 0)  # their standard deviation is 3.81
    assert kept[:1] == [("CCO", [pytest.approx(0.1)])]
    assert (found.merged, found.conflicting) == (1, 2)
    two = [("CCO", [1.0, float("nan")]), ("OCC", [float("nan"), 0.0])]
    assert cleaning.clean(two, "classification", 0)[1] == [("CCO", [1.0, 0.0])]


def small(**changes):
    plan = plans.Plan("ci")
    plan.__dict__["scale"] = replace(plan.scale, molecules=0, **changes)
    return plan


def test_splits_are_of_whole_scaffolds_and_cover_all(data, tmp_path):
    plan = small(repeats=2, folds=3)
    cleaning.prepare(plan, data, tmp_path)
    smiles, _, names = cells.read_table(tmp_path / "data" / "esol-cleaned.csv")
    assert names == ["logSolubility"]
    scaffolds = np.array([murcko_scaffold(parse_smiles(text), chirality=True) for text in smiles])
    tested = {0: [], 1: []}
    of_set = [cell for cell in plan.cells if (cell.data, cell.method) == ("esol", "constant")]
    assert [cell.split for cell in of_set] == ["scaffold", *(f"repeat{r}-fold{k}" for r in range(2) for k in range(3))]
    for cell in of_set:
        parts = json.loads(cell.splits(tmp_path).read_text())["folds"]["fold0"]
        rows = [row for part in parts.values() for row in part]
        assert sorted(rows) == list(range(len(smiles)))
        assert all(len(part) for part in parts.values())
        shared = [set(scaffolds[part]) for part in parts.values()]
        assert sum(map(len, shared)) == len(set.union(*shared)), "no scaffold is in two parts"
        if cell.protocol == "B":
            tested[int(cell.split[6])] += parts["test"]
    assert [sorted(rows) for rows in tested.values()] == [list(range(len(smiles)))] * 2


@pytest.mark.parametrize("method", ["constant", "ecfp_linear", "descriptors_boosting"])
@pytest.mark.parametrize("name", ["esol", "bbbp"])
def test_test_labels_are_not_read(data, tmp_path, method, name):
    plan = small()
    cleaning.prepare(plan, data, tmp_path)
    cell = next(cell for cell in plan.cells if (cell.data, cell.method, cell.protocol) == (name, method, "B"))
    smiles, labels, names = cells.read_table(cell.table(tmp_path))
    parts = {k: np.array(rows) for k, rows in json.loads(cell.splits(tmp_path).read_text())["folds"]["fold0"].items()}
    kind = "regression" if name == "esol" else "classification"
    found = cells.classical(plan, tmp_path, cell, kind, smiles, labels, parts, names)
    spoiled = labels.copy()
    spoiled[parts["test"]] = np.nan
    again = cells.classical(plan, tmp_path, cell, kind, smiles, spoiled, parts, names)
    assert np.array_equal(found["test"], again["test"])
    assert found["settings"] == again["settings"]
    assert found["test"].shape == (len(parts["test"]), 1)


def test_the_first_trial_is_the_default_and_others_differ():
    for method in ("ecfp_forest", "ecfp_linear", "descriptors_boosting", "probe"):
        assert learners.drawn(method, 0, 3) == learners.DEFAULTS[method]
        tried = [str(learners.drawn(method, trial, 3)) for trial in range(8)]
        assert len(set(tried)) == 8, "none is tried twice"
        assert tried == [str(learners.drawn(method, trial, 3)) for trial in range(8)]
        assert set(learners.drawn(method, 1, 3)) == set(learners.DEFAULTS[method])


def test_a_frozen_encoder_is_a_method(data, tmp_path):
    from tests.inference.untrained_models import untrained

    plan = plans.Plan("cpu", str(untrained(tmp_path / "model")))
    plan.__dict__["scale"] = replace(plan.scale, data=("esol",), methods=("probe",), repeats=1)
    cleaning.prepare(plan, data, tmp_path)
    cell = plan.cells[-1]
    cells.run_cell(plan, tmp_path, cell)
    row = json.loads(cell.row(tmp_path).read_text())
    assert row["metric"] == "rmse"
    assert 0 < row["value"] < 5
    x = cells.embedded(plan, tmp_path, cell)
    assert x.shape[0] == len(cells.read_table(cell.table(tmp_path))[0])


def test_the_grid_names_what_it_leaves_out():
    assert plans.Plan("full").missing == ["finetuned", "probe", "ensemble"]
    assert plans.Plan("full", "weights.pt").missing == []
    for scale in ("ci", "cpu", "full"):
        plan = plans.Plan(scale, "weights.pt")
        assert {cell.method for cell in plan.cells} == set(plan.scale.methods)
        assert len({cell.row(Path("out")) for cell in plan.cells}) == len(plan.cells)
        assert plan.scale.ours_trials <= len(cells.TRIALS)
    with pytest.raises(UserError, match="--scale must be one of ci, cpu, full"):
        plans.Plan("huge").cells


def test_an_array_has_a_task_for_each_run(tmp_path):
    environment = os.environ | {"OUT": str(tmp_path / "out"), "GPUS": "0"}
    done = subprocess.run(
        [str(HERE / "run.sh"), "--scale", "ci", "--slurm", "--dry-run"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    submitted = [line for line in done.stdout.splitlines() if line.startswith("MOLEBLEND_STEP=")]
    assert [line.split()[0] for line in submitted] == [f"MOLEBLEND_STEP={step}" for step in ("stores", "run", "table")]
    assert f"--array=0-{len(plans.Plan('ci').cells) - 1}%" in submitted[1]
    assert "--dependency=afterok:STORES_JOB" in submitted[1]
    assert "--dependency=afterany:RUN_JOB" in submitted[2]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_scale_ci_from_end_to_end(data, tmp_path):
    environment = os.environ | {"OUT": str(tmp_path / "out"), "DATA": str(data), "OMP_NUM_THREADS": "1"}
    words = [str(HERE / "run.sh"), "--scale", "ci", "--jobs", "2"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with (tmp_path / "out" / "runs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(plans.Plan("ci").cells)
    assert {row["method"] for row in rows} == {plans.METHODS[name] for name in plans.Plan("ci").scale.methods}
    assert all(float(row["value"]) >= 0 and float(row["memory_mb"]) > 10 and len(row["split_hash"]) == 64 for row in rows)
    assert {float(row["value"]) for row in rows if row["metric"] == "roc_auc" and row["method"] == plans.METHODS["constant"]} == {0.5}
    text = (tmp_path / "out" / "evidence.md").read_text()
    assert "Of 1 data set, the best of ours against ECFP + random forest" in text
    assert "| esol | 108 |" in text
    assert (tmp_path / "out" / "evidence.html").read_text().count("<svg") >= 2
    assert not list((tmp_path / "out" / "finetune").rglob("*.pt")), "what was trained on the way is removed"
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "rows").rglob("*.json")}
    lost = next(path for path in times if "constant" in str(path))
    lost.unlink()
    again = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr[-3000:]
    assert {path for path, time in times.items() if path.stat().st_mtime_ns != time} == {lost}, "what is finished is not run again"
