"""Folds of a file over one store: what they are trained on, and that nothing of a fold's test molecules reaches its model."""

import json

import numpy as np
import pytest
import torch

from moleblend_fs.checkpoint.read import load
from moleblend_fs.cli.main import main
from moleblend_fs.data.split_file import SplitFile, open_store
from moleblend_fs.errors import UserError
from tests.fairseq_plugins.conftest import write_labelled
from tests.fairseq_plugins.runs import ADAM, FINETUNE, SMALL, train
from tests.model.molecules import ORDINARY

FOLDS = {
    "a": {"train": [0, 1, 2, 3, 4, 9], "valid": [5, 6], "test": [7, 8]},
    "b": {"train": [3, 4, 5, 6, 7, 8], "valid": [9], "test": [0, 1, 2]},
}
OPTIONS = (*FINETUNE, *SMALL, *ADAM, "--batch-size", "3", "--max-epoch", "2")


def labelled(path, labels):
    return write_labelled(path, [(ORDINARY[i % len(ORDINARY)], "train", [y]) for i, y in enumerate(labels)], {"y": "regression"})


@pytest.fixture
def folds_file(tmp_path):
    SplitFile(folds={name: {k: np.array(v) for k, v in fold.items()} for name, fold in FOLDS.items()}, about={"kind": "mine"}).save(
        tmp_path / "folds.json"
    )
    return tmp_path / "folds.json"


def test_absurd_test_labels_change_no_bit_of_the_model(tmp_path, folds_file):
    labels = [1.5 * i - (i % 3) for i in range(10)]
    poisoned = [1e9 if i in FOLDS["a"]["test"] else y for i, y in enumerate(labels)]
    found = {}
    for name, values in (("plain", labels), ("poisoned", poisoned)):
        store = labelled(tmp_path / name, values)
        run = train(store.path, tmp_path / f"run {name}", *OPTIONS, "--split-file", str(folds_file), "--fold", "a")
        assert run.code == 0, run.output[-3000:]
        found[name] = load(run.folder / "checkpoint_best.pt")
        assert run.column("train", "train_molecules") == [6, 6]
    plain, other = found["plain"], found["poisoned"]
    assert all(torch.equal(plain.weights[name], other.weights[name]) for name in plain.weights)
    assert plain.finetuned == other.finetuned
    assert plain.finetuned.mean == pytest.approx([np.mean([labels[i] for i in FOLDS["a"]["train"]])])
    assert plain.trained_on.split == {"kind": "mine", "fold": "a"}
    # The other fold trains on them: there it shows.
    run = train(tmp_path / "poisoned", tmp_path / "b", *OPTIONS, "--split-file", str(folds_file), "--fold", "b")
    assert load(run.folder / "checkpoint_best.pt").finetuned.mean[0] > 1e8


def test_evaluate_scores_the_folds_own_test_molecules(tmp_path, folds_file, capsys):
    store = labelled(tmp_path / "store", list(range(10)))
    run = train(store.path, tmp_path / "run", *OPTIONS, "--split-file", str(folds_file), "--fold", "a")
    checkpoint = str(run.folder / "checkpoint_best.pt")
    result = tmp_path / "result.json"
    here = ["evaluate", checkpoint, str(store.path), "--split-file", str(folds_file), "--json", str(result)]
    assert main([*here, "--fold", "a"]) == 0
    assert [entry["id"] for entry in json.loads(result.read_text())["predictions"]] == FOLDS["a"]["test"]
    assert main([*here, "--fold", "b"]) == 2
    assert "may have been trained on" in capsys.readouterr().err
    assert main(here) == 2
    assert "several folds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"train": [0, 1], "valid": [1]}', "row 1 is in 'train' and in 'valid'"),
        ('{"train": [0, 1.5]}', "no list of rows"),
        ('{"train": [0, 10]}', "has the rows 0 to 9"),
        ('{"train": [-1]}', "no list of rows"),
        ('{"a/b": [1]}', "no slash"),
        ("[1, 2]", "no file of splits"),
        ("{", "no readable file of splits"),
        ('{"inputs": {"x.csv": "sha256:0"}, "folds": {"a": {"train": [0]}}}', "rows of x.csv"),
        ('{"folds": {}}', "no file of splits"),
    ],
)
def test_a_bad_file_is_told(tmp_path, content, message):
    (tmp_path / "splits.json").write_text(content)
    labelled(tmp_path / "store", list(range(10)))
    with pytest.raises(UserError, match=message):
        open_store(tmp_path / "store", tmp_path / "splits.json")


def test_a_fold_is_chosen_by_name(folds_file):
    found = SplitFile.load(folds_file)
    assert json.loads(folds_file.read_text())["version"] == 1
    assert found.fold("b", folds_file)[0] == "b"
    for name, said in (("", "several folds; name one with --fold: a, b"), ("c", "no fold 'c'; name one with --fold: a, b")):
        with pytest.raises(UserError, match=said):
            found.fold(name, folds_file)


def test_a_fold_needs_a_file(tmp_path):
    labelled(tmp_path / "store", list(range(10)))
    with pytest.raises(UserError, match="goes with --split-file"):
        open_store(tmp_path / "store", "", "a")


def test_a_plain_object_is_a_file_of_one_fold(tmp_path):
    (tmp_path / "splits.json").write_text('{"train": [4, 2], "test": [7]}')
    labelled(tmp_path / "store", list(range(10)))
    store = open_store(tmp_path / "store", tmp_path / "splits.json")
    assert {name: store.split(name).tolist() for name in store.splits} == {"train": [2, 4], "test": [7]}
    assert store.manifest.statistics["train"][0].mean == 3.0
