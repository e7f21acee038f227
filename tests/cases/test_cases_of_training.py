"""Cases in which a model meets another store than the one it was trained on: what is refused, what is taken, what is written."""

import csv
import json
from pathlib import Path

import pytest

from tests.cases.commands import moleblend, preprocess
from tests.cases.conftest import OPTIONS, UNIT
from tests.fairseq_plugins.runs import ADAM, PRETRAIN, SMALL, Run, train

TRAINED = (
    *("40-predict-failed-rows", "41-hydrogens-mismatch", "42-units-kinds", "44-resume-other-store", "45-finetune-other-heads"),
    *("46-colon-path", "62-resume-other-store"),
)
"""Folders of cases that are tried here."""


@pytest.fixture
def case(shared) -> Path:
    return shared / "cases"


def test_predictions_have_a_line_for_every_row(case, trained, tmp_path):
    """40: seven rows, three of them unreadable."""
    given = case / "40-predict-failed-rows" / "new.csv"
    assert preprocess(tmp_path / "store", "csv", given).code == 0
    assert moleblend("predict", trained, tmp_path / "store", tmp_path / "out.csv").code == 0
    with open(tmp_path / "out.csv", newline="") as stream:
        lines = list(csv.DictReader(stream))
    with open(given, newline="") as stream:
        asked = [row["smiles"] for row in csv.DictReader(stream)]
    assert [int(line["row"]) for line in lines] == list(range(len(asked)))
    assert [bool(line["logS"]) for line in lines].count(False) == 3


def test_another_graph_of_the_molecules_is_refused(case, trained, tmp_path):
    """41: trained without hydrogens."""
    given = case / "41-hydrogens-mismatch" / "new.csv"
    assert preprocess(tmp_path / "store", "csv", given, "--hydrogens", "explicit").code == 0
    done = moleblend("predict", trained, tmp_path / "store", tmp_path / "out.csv")
    assert done.code == 2
    assert "hydrogens" in done.said
    assert not (tmp_path / "out.csv").exists()


def test_another_unit_is_refused(case, trained, tmp_path):
    """42: mg/L against log mol/L."""
    given = case / "42-units-kinds" / "ext.csv"
    assert preprocess(tmp_path / "store", "csv", given, "--label", "logS:regression:mg/L", "--split", "none").code == 0
    done = moleblend("evaluate", trained, tmp_path / "store", "--split", "train", "--json", tmp_path / "out.json")
    assert done.code == 2
    assert "mg/L" in done.said
    assert "log mol/L" in done.said
    assert not (tmp_path / "out.json").exists()


def test_a_store_of_a_test_set_alone_is_scored(case, trained, tmp_path):
    """42: no training split, no mean predictor of it; the JSON is JSON."""
    given = case / "42-units-kinds" / "ext_test.csv"
    assert preprocess(tmp_path / "store", "csv", given, "--label", UNIT, "--split-column", "set").code == 0
    assert moleblend("evaluate", trained, tmp_path / "store", "--split", "test", "--json", tmp_path / "out.json").code == 0

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    result = json.loads((tmp_path / "out.json").read_text(), parse_constant=refuse)
    assert result["metrics"]["logS"]["mae"] > 0


@pytest.mark.parametrize(("file", "label"), [("in_mg.csv", "logS:regression:mg/L"), ("two.csv", "two")])
def test_going_on_with_another_store_is_refused(file, label, case, base, tmp_path):
    """44: the same --save-dir, another unit or target."""
    assert train(base.path, tmp_path / "run", *OPTIONS).code == 0
    assert preprocess(tmp_path / "store", "csv", case / "44-resume-other-store" / file, "--label", label).code == 0
    refused(tmp_path / "run", tmp_path / "store", *OPTIONS)


def refused(folder: Path, store: Path, *options: str) -> Run:
    """Go on in a folder; nothing in it may change."""
    before = {path: path.read_bytes() for path in folder.glob("*.pt")}
    run = train(store, folder, *options, "--max-update", "4")
    assert run.code == 2, run.output[-2000:]
    assert {path: path.read_bytes() for path in folder.glob("*.pt")} == before
    return run


def test_a_head_of_another_size_begins_at_random(case, trained, tmp_path):
    """45: one target to two."""
    given = case / "45-finetune-other-heads" / "two.csv"
    assert preprocess(tmp_path / "store", "csv", given, "--label", UNIT, "--label", "two").code == 0
    run = train(tmp_path / "store", tmp_path / "run", *OPTIONS, "--finetune-from-model", str(trained))
    assert run.code == 0, run.output[-2000:]
    assert len(run.logged("train_inner")) == 2


def test_a_path_with_a_colon(base, tmp_path):
    """46: fairseq takes colons for lists."""
    folder = tmp_path / "run 10:30"
    folder.mkdir()
    (folder / "store").symlink_to(base.path)
    run = train(folder / "store", folder / "out", *OPTIONS)
    assert run.code == 0, run.output[-2000:]
    assert (folder / "out" / "checkpoint_best.pt").is_file()


def test_pretraining_does_not_go_on_with_other_molecules(case, base, tmp_path):
    """62: refused also at the end of an epoch, and whatever the sizes."""
    flat = ("--blend-ratio", "0.5,0.5,0", "--geometry-weight", "0", "--noise-weight", "0")
    options = (*PRETRAIN, *ADAM, *SMALL, *flat, "--batch-size", "16", "--max-update", "2")
    assert train(base.path, tmp_path / "run", *options).code == 0
    assert preprocess(tmp_path / "store", "sdf", case / "62-resume-other-store" / "other.sdf").code == 0
    refused(tmp_path / "run", tmp_path / "store", *options)
