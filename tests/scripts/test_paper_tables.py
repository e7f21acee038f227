"""The paper's tables as grids of runs: what they ask for exists, validation alone chooses, and one runs from end to end."""

import csv
import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moleblend_fs.errors import UserError

ROOT = Path(__file__).parents[2]
HERE = ROOT / "examples" / "paper"
TABLES = sorted(path.stem for path in (HERE / "grids").glob("*.toml"))
sys.path[:0] = [str(HERE), str(HERE.parent)]

import grid  # noqa: E402
import paper  # noqa: E402
import publish  # noqa: E402
import table  # noqa: E402


@pytest.mark.parametrize("name", TABLES)
def test_a_grid_is_the_papers_table(name):
    """All of its data sets, and rows of its names."""
    plan = grid.Plan(name, "paper")
    published = table.published(plan)
    assert {data.removeprefix(grid.QM9) for data in plan.grid.data} == {entry.data for entry in published} - {"average"}
    with (HERE / "published.csv").open(newline="", encoding="utf-8") as stream:
        methods = {row["method"] for row in csv.DictReader(stream) if f"table{row['table']}" == name}
    assert {row.published for row in plan.grid.rows} <= methods
    assert plan.cells
    keys = {(cell.row.pretraining, cell.data, cell.inputs, cell.trial, cell.seed) for cell in plan.cells}
    assert len({cell.folder(Path("out")) for cell in plan.cells}) == len(keys)


@pytest.mark.parametrize("name", TABLES)
def test_objectives_take_their_options(name):
    from fairseq import options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    from fairseq_plugins.pretraining_task import objective_of

    for row in grid.Plan(name, "cpu").pretrained:
        words = ["store", "--user-dir", str(ROOT / "moleblend_fs"), "--task", "moleblend", "--criterion", "pretrain"]
        words += ["--arch", "moleblend_tiny", "--optimizer", "adam", "--objective", row.objective, *row.options]
        parsed = options.parse_args_and_arch(options.get_training_parser(), words)
        assert objective_of(convert_namespace_to_omegaconf(parsed).task).terms()


def test_what_is_not_there_is_named():
    plan = grid.Plan("table1", "tiny")
    unknown = replace(plan.grid.rows[0], objective="of_tomorrow")
    changed = replace(plan.grid, rows=(unknown, *plan.grid.rows[1:]))
    plan.__dict__["grid"] = changed
    assert unknown in plan.missing
    assert all(cell.row != unknown for cell in plan.cells)
    page = table.page(plan, table.published(plan), [])
    assert f"<td>{unknown.published}</td><td>{table.ABSENT}</td>" in page
    with pytest.raises(UserError, match="there is no grid 'table8'; there are table1, table2"):
        grid.Plan("table8", "tiny")
    with pytest.raises(UserError, match="--scale must be one of tiny, cpu, paper"):
        grid.Plan("table1", "huge").scale


@pytest.mark.parametrize(("most", "options"), [(0, []), (2, ["--sample", "2"]), (3, []), (4, [])])
def test_a_set_smaller_than_the_scale_is_taken_whole(tmp_path, most, options):
    rows = 'smiles,name\nC,"methane,\ngas"\nCC,ethane\nCCC,propane\n'
    (tmp_path / "set.csv").write_text(rows)
    (tmp_path / "set.csv.gz").write_bytes(gzip.compress(rows.encode()))
    assert paper.sample_of(tmp_path / "set.csv", most) == paper.sample_of(tmp_path / "set.csv.gz", most) == options


def result(path, error, seed):
    """A result file of six molecules whose predictions are off by about so much."""
    path.parent.mkdir(parents=True, exist_ok=True)
    target = np.linspace(-2, 3, 6)
    prediction = target + error * (1 + 0.1 * seed) * np.array([1, -1, 1, -1, 1, -1])
    rmse = float(np.sqrt(np.mean((prediction - target) ** 2)))
    lines = [{"id": i, "smiles": "C", "target": [t], "prediction": [p]} for i, (t, p) in enumerate(zip(target, prediction, strict=True))]
    content = {"store": "s", "split": path.stem, "metrics": {"y": {"rmse": rmse}}, "units": {"y": ""}, "predictions": lines}
    path.write_text(json.dumps(content))
    return rmse


def test_validation_alone_chooses(tmp_path):
    """The trial that is better on validation molecules and worse on test molecules is the one that is told, with its test score."""
    plan = grid.Plan("table6", "cpu")
    plan.__dict__["scale"] = replace(plan.scale, trials=(("--lr", "1"), ("--lr", "2")))
    row = plan.grid.rows[-1]
    tests = []
    for cell in plan.cells:
        if cell.row == row and cell.data == "esol":
            result(cell.folder(tmp_path) / "valid.json", {0: 0.5, 1: 0.4}[cell.trial], cell.seed)
            value = result(cell.folder(tmp_path) / "test.json", {0: 0.2, 1: 0.9}[cell.trial], cell.seed)
            tests += [value] if cell.trial == 1 else []
    assert len(tests) == 3
    entry = table.ours(plan, tmp_path, row, "esol")
    assert (entry.trial, entry.seeds) == (1, 3)
    assert entry.value == pytest.approx(np.mean(tests))
    assert entry.std == pytest.approx(np.std(tests, ddof=1))
    assert entry.low <= entry.value <= entry.high
    assert not table.write(plan, tmp_path), "others have no result"
    with (tmp_path / "table6.csv").open(newline="") as stream:
        told = [line for line in csv.DictReader(stream) if line["source"] == table.OURS]
    assert [(line["method"], line["data"]) for line in told] == [("MOLEBLEND", "esol")]
    assert float(told[0]["value"]) == pytest.approx(entry.value, rel=1e-5)


def test_intervals_where_a_resample_lacks_a_class(tmp_path):
    """Of two targets one has a single positive, which a third of the resamples lack: they are averaged over the other."""
    target = np.array([[i % 2, i == 0] for i in range(40)], float)
    prediction = np.linspace(0.2, 0.8, 80).reshape(40, 2)
    lines = [
        {"id": i, "smiles": "C", "target": list(t), "prediction": list(p)} for i, (t, p) in enumerate(zip(target, prediction, strict=True))
    ]
    metrics = {"a": {"roc_auc": 0.5}, "b": {"roc_auc": 0.0}}
    content = {"store": "s", "split": "test", "kind": "classification", "metrics": metrics, "predictions": lines}
    (tmp_path / "test.json").write_text(json.dumps(content))
    found = table.resampled(table.read_evaluation(tmp_path / "test.json", tmp_path), "ROC-AUC %")
    assert np.isfinite(found).all()
    drawn = table.draws(prediction, target, seed=0)
    alone = ~np.isfinite(drawn[1]["roc_auc"])
    assert 0.2 < alone.mean() < 0.5
    np.testing.assert_allclose(found[alone], 100 * drawn[0]["roc_auc"][alone])
    np.testing.assert_allclose(found[~alone], 50 * (drawn[0]["roc_auc"] + drawn[1]["roc_auc"])[~alone])


def test_a_published_table_says_what_its_file_says(tmp_path, monkeypatch):
    """The page's figures, their commit and their date are those of TABLE.csv; the page in docs/ is the one that the files give."""
    monkeypatch.setattr(publish, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(publish, "PAGE", tmp_path / "paper_tables.md")
    plan = grid.Plan("table6", "cpu")
    with pytest.raises(UserError, match="make it first"):
        publish.publish(plan, tmp_path)
    for cell in plan.cells:
        result(cell.folder(tmp_path) / "valid.json", 0.5, cell.seed)
        result(cell.folder(tmp_path) / "test.json", 0.25, cell.seed)
        (cell.folder(tmp_path) / table.COMMIT).write_text("abc1234\n")
    assert table.write(plan, tmp_path)
    publish.publish(plan, tmp_path)
    page = (tmp_path / "paper_tables.md").read_text()
    entry = table.ours(plan, tmp_path, plan.grid.rows[-1], "esol")
    assert f"**{entry.shown()}**" in page
    assert "commit abc1234;" in page
    assert f"Run {entry.date}" in page
    assert publish.entries_of(tmp_path / "results" / "cpu" / "table6.csv")[0].source == table.PUBLISHED


def test_rows_are_apart_where_their_intervals_are():
    def row(data, low, high):
        return table.Entry(method="m", source=table.OURS, data=data, metric="RMSE", value=low, low=low, high=high)

    same = [row("a", 1, 2), row("a", 2, 3), table.Entry(method="m", source=table.OURS, data="a", metric="RMSE", value=9)]
    assert publish.told_apart(same).endswith("overlap on every data set: this size does not tell them apart.")
    assert publish.told_apart([*same, row("b", 1, 2), row("b", 2.1, 3)]).endswith("overlap but for b.")


def test_the_page_in_docs_is_that_of_the_files():
    assert publish.PAGE.read_text(encoding="utf-8") == publish.page(publish.RESULTS)


def test_arrays_have_a_task_for_each_run(tmp_path):
    """Table 5 at scale cpu: one pretrained model; three targets, two kinds of inputs, three seeds. Each step after the one before."""
    environment = os.environ | {"OUT": str(tmp_path / "out")}
    words = [str(HERE / "run.sh"), "table5", "--scale", "cpu", "--slurm", "--dry-run"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    submitted = [line for line in done.stdout.splitlines() if line.startswith("MOLEBLEND_STEP=")]
    steps = [
        ("stores", "", ""),
        ("pretrain", "0-0%", "afterok:STORES"),
        ("finetune", "0-17%", "afterok:PRETRAIN"),
        ("table", "", "afterany:FINETUNE"),
    ]
    assert len(submitted) == len(steps)
    for line, (step, array, after) in zip(submitted, steps, strict=True):
        assert line.startswith(f"MOLEBLEND_STEP={step} sbatch")
        assert not array or f"--array={array}" in line
        assert not after or f"--dependency={after}_JOB" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_table_from_end_to_end(shared, tmp_path):
    environment = os.environ | {"OUT": str(tmp_path), "DATA": str(shared / "data" / "moleculenet"), "OMP_NUM_THREADS": "1"}
    words = [str(HERE / "run.sh"), "table11", "--scale", "tiny", "--jobs", "2"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with (tmp_path / "table11.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    ours = [line for line in lines if line["source"] == table.OURS]
    assert [(line["method"], line["data"]) for line in ours] == [("2D", "bbbp"), ("2D + 3D", "bbbp")]
    assert all(0 <= float(line["value"]) <= 100 for line in ours)
    assert {(line["method"], line["value"]) for line in lines if line["data"] == "bbbp" and line["source"] == table.PUBLISHED} == {
        ("2D", "73"),
        ("2D + 3D", "71.8"),
    }
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")}
    assert times
    again = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")} == times
