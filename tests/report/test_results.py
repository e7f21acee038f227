"""What the table of results says of files: no result in another's place, digits that tell numbers apart, where a split comes from."""

import json
import re

import numpy as np
import pytest

from moleblend_fs.report.page import finetuning_section, split_made_by
from moleblend_fs.report.prediction_panels import class_panels, columns, told, worst_sections
from moleblend_fs.report.result_files import Evaluation
from moleblend_fs.report.results import result_rows, shown_number
from moleblend_fs.report.runs import find_runs
from moleblend_fs.report.training_logs import TrainingLog, read_log
from tests.fairseq_plugins.conftest import write_graphs
from tests.model.molecules import graph


def evaluation(target, prediction, **more) -> Evaluation:
    """Of one target, y, whose metrics are those of classes unless they are given."""
    both = {"target": np.reshape(target, (-1, 1)), "prediction": np.reshape(prediction, (-1, 1))}
    return Evaluation(**{"name": "run", "store": "", "split": "test", "metrics": {"y": {"roc_auc": 0.5}}, "baseline": {}} | both | more)


def test_several_results_of_a_folder_are_all_there(tmp_path):
    """Of two checkpoints on one split, one took the place of the other, in the mean over seeds as well."""
    for seed in (0, 1):
        for file, split, value in (("best", "test", 2.0), ("last", "test", 4.0), ("valid", "valid", 9.0)):
            result = {"store": "gone", "split": split, "metrics": {"y": {"mae": value + seed}}, "predictions": []}
            (tmp_path / f"seed{seed}").mkdir(exist_ok=True)
            (tmp_path / f"seed{seed}" / f"{file}.json").write_text(json.dumps(result))
    _, rows = result_rows(find_runs(tmp_path).evaluations)
    found = {(run, split): value for run, split, _, _, value in rows}
    assert found == {
        ("seed0/best", "test"): "2.000",
        ("seed0/last", "test"): "4.000",
        ("seed0", "valid"): "9.000",
        ("seed1/best", "test"): "3.000",
        ("seed1/last", "test"): "5.000",
        ("seed1", "valid"): "10.000",
        ("all seeds/best", "test"): "2.500 \u00b1 0.5000",
        ("all seeds/last", "test"): "4.500 \u00b1 0.5000",
        ("all seeds", "valid"): "9.500 \u00b1 0.5000",
    }


def test_small_numbers_keep_digits():
    """Errors of 0.00035 and 0.00044 were both 0.0004."""
    told = {0.0: "0.0000", 3.5e-4: "0.00035", 4.4e-4: "0.00044", 0.0123: "0.0123", 1.5: "1.500", 1234.56: "1,234.6", 3e-9: "3e-09"}
    assert {value: shown_number(value) for value in told} == told


def test_the_stores_split_is_not_told_of_a_result_on_another(tmp_path):
    """With --split-file the rows are others; their hash says so."""
    molecules = [(graph(smiles, row), "test") for row, smiles in enumerate(("CCO", "CCN"))]
    store = write_graphs(tmp_path / "data", molecules, ())
    own = store.manifest.splits["test"].sha256
    told = [split_made_by(evaluation([0.0], [0.0], about=about), store.manifest) for about in ({}, {"split_sha256": own})]
    assert told[0] == told[1] == store.manifest.split["kind"]
    assert "not the store's own" in split_made_by(evaluation([0.0], [0.0], about={"split_sha256": "f" * 64}), store.manifest)
    assert split_made_by(evaluation([0.0], [0.0]), None) == ""


def test_precision_is_drawn_in_the_steps_that_its_area_is_of():
    """Slopes between thresholds would show more than the average precision beside it."""
    rng = np.random.default_rng(0)
    truth = (rng.random(40) < 0.4).astype(float)
    [members] = columns([evaluation(truth, np.clip(0.3 * truth + 0.6 * rng.random(40), 0, 1))]).values()
    [panel] = [text for text in class_panels("y", members) if "precision over recall" in text]
    longest = max(re.findall(r'<path d="(M [^"]+)"', panel), key=len)
    points = np.array(re.findall(r"[ML] (\S+) (\S+)", longest), dtype=float)
    assert len(points) > 20
    assert np.abs(np.diff(points, axis=0)).min(axis=1).max() < 1e-6, "every part is level or upright"


@pytest.mark.parametrize("times", [1, 3])
def test_a_molecule_that_several_tests_have_is_one_of_the_worst_once(times):
    said = np.arange(12.0)
    rows = [str(row) for row in range(12)] * times
    made = evaluation(np.zeros(12 * times), np.tile(said, times), metrics={"y": {"mae": 1.0}}, rows=rows, smiles=["C"] * 12 * times)
    [section] = worst_sections([made])
    assert re.findall(r"\(row (\d+)\)", section) == [str(row) for row in range(11, 1, -1)]
    [[column]] = columns([made]).values()
    assert told(column) == "test, 12 molecules" + (", 36 predictions" if times == 3 else "")


@pytest.mark.parametrize("form", ["json", "simple"])
def test_curves_of_validation_are_of_the_first_split_that_was_validated_on(tmp_path, form):
    """In plain lines those of the last one stood in their place; in JSON a split that is not called "valid" had none."""
    lines = ["{'_name': None, 'common': {'_name': None, 'seed': 7}, 'dataset': {'_name': None, 'valid_subset': 'dev,test'}}"]
    for epoch, (dev, test) in enumerate(((2.0, 5.0), (1.0, 6.0)), 1):
        for split, value in (("dev", dev), ("test", test)):
            stats = {"epoch": epoch, f"{split}_mae": str(value), f"{split}_num_updates": str(10 * epoch)}
            plain = f"epoch {epoch:03d} | valid on '{split}' subset | mae {value} | num_updates {10 * epoch}"
            lines.append(json.dumps(stats) if form == "json" else plain)
    (tmp_path / "train.log").write_text("\n".join(lines) + "\n")
    log = read_log(tmp_path / "train.log", tmp_path)
    assert [part.tolist() for part in log.valid["mae"]] == [[10, 20], [2.0, 1.0]]


def test_runs_beyond_those_that_have_room_are_told():
    members = [evaluation([0.0, 1.0, 1.0], [0.2, 0.3, 0.9], name=f"run{i}") for i in range(10)]
    panels = {count: class_panels("y", columns(members[:count])["y"]) for count in (8, 10)}
    assert ["the first 8 of 10 runs" in panel for panel in panels[10]] == [True] * 3
    assert not any("the first" in panel for panel in panels[8])
    assert all("run7" in panel and "run8" not in panel for panel in panels[10])


def test_runs_of_quantities_have_their_curves_beside_runs_of_classes():
    """One metric was drawn for all runs, ROC-AUC where any had it; errors of the others were not to be seen."""
    curve = (np.array([1, 2]), np.array([0.5, 0.6]))
    scores = {"a": ("roc_auc", "log_loss"), "b": ("mae", "rmse"), "c": ("mae",)}
    logs = [TrainingLog(name=name, train={}, valid=dict.fromkeys(metrics, curve)) for name, metrics in scores.items()]
    [section] = finetuning_section(logs, [])
    assert re.findall(r"<b>(.*?)</b>", section) == ["ROC-AUC, validation", "MAE, validation"]
    assert "last: b 0.6, c 0.6" in section
