"""The page's leakage section also compares with the molecules that the starting weights were trained on, where their store is near."""

import shutil

import pytest

from moleblend_fs.checkpoint.model_card import ModelCard, PretrainedOn
from moleblend_fs.checkpoint.read import load
from moleblend_fs.checkpoint.write import save
from moleblend_fs.cli.main import main
from moleblend_fs.data.split_file import open_store
from moleblend_fs.data.store import Store
from moleblend_fs.data.trained_on import TrainedOn
from moleblend_fs.finetune.folds import smiles_of
from moleblend_fs.finetune.split_similarity import pretraining_store, with_pretraining
from moleblend_fs.report.finetune_page import write_page
from tests.inference.untrained_models import untrained


@pytest.fixture
def pretrained(finetuned, tmp_path):
    """(weights, their store): a test and a training molecule are in its train split, with another; a test one in its valid split."""
    fold = open_store(finetuned.out / "store", finetuned.out / "splits.json", "fold0")
    test, train = (smiles_of(fold, fold.split(split)) for split in ("test", "train"))
    lines = [f"{test[0]},train", f"{train[0]},train", "CCCCCCCCCCCCCCCCO,train", f"{test[1]},valid"]
    (tmp_path / "corpus.csv").write_text("smiles,part\n" + "\n".join(lines) + "\n")
    store = tmp_path / "runs" / "data" / "corpus"
    words = [str(tmp_path / "corpus.csv"), str(store), "--split-column", "part", "--workers", "1", "--no-progress"]
    assert main(["preprocess", "csv", *words]) == 0
    checkpoint = load(untrained(tmp_path / "plain"))
    checkpoint.trained_on = TrainedOn.of(Store(store).manifest, train_subset="train", valid_subset="valid")
    save(checkpoint, tmp_path / "runs" / "pretrain" / "weights")
    return tmp_path / "runs" / "pretrain" / "weights", store


def test_what_the_weights_have_seen_is_counted(finetuned, pretrained, tmp_path):
    weights, store = pretrained
    data = Store(finetuned.out / "store")
    folds = {"fold0": open_store(data.path, finetuned.out / "splits.json", "fold0")}
    said, rows = with_pretraining(data, folds, weights)
    assert f"3 molecules of {store}" in said
    assert [(row.pair, row.same, row.skeletons) for row in rows] == [
        ("test, in the pretraining", 1, 1),
        ("valid, in the pretraining", 0, 0),
        ("train, in the pretraining", 1, 1),
    ]
    assert [row.molecules for row in rows] == [len(folds["fold0"].split(split)) for split in ("test", "valid", "train")]
    folder = tmp_path / "copy"
    shutil.copytree(finetuned.out, folder)
    write_page(folder, None, rows[:1], (said, rows))
    page = (folder / "report.html").read_text()
    assert "test, in the pretraining" in page
    assert said in page


def test_a_store_that_is_elsewhere_or_another_is_not_taken(finetuned, pretrained, tmp_path):
    weights, store = pretrained
    trained_on = load(weights).trained_on
    assert pretraining_store(weights, trained_on).path == store
    manifest = (store / "manifest.json").read_text()
    (store / "manifest.json").write_text("{}")
    assert pretraining_store(weights, trained_on) is None
    (store / "manifest.json").write_text(manifest)
    shutil.move(store, tmp_path / "away" / "far" / "too")
    said, rows = with_pretraining(Store(finetuned.out / "store"), {}, weights)
    assert rows == ()
    assert "is not near them" in said
    assert with_pretraining(Store(finetuned.out / "store"), {}, None)[1] == ()


def test_of_the_packages_weights_the_card_is_told(finetuned, pretrained, tmp_path, monkeypatch):
    """Nothing is looked for beside them: in an installed package all others lie there. What one store did not leave out is not told."""
    weights, store = pretrained
    options = [{"exclude": {"sets": sets}} for sets in (["esol.csv", "bbbp.csv", "other.csv"], ["bbbp.csv", "esol.csv"])]
    manifest = Store(store).manifest
    about = {"source": "csv", "molecules": 2, "records_sha256": manifest.records_sha256, "inputs": {}, "left_out": {}}
    found = load(weights)
    found.card = ModelCard(
        **{"objectives": (), "updates": 1, "molecules_per_update": 2, "seconds": 1.0, "learning_rate": 1e-3, "settings": {}},
        **{"licence": "x", "limits": (), "notes": (), "dropped": (), "precision": "float32", "version": "0"},
        stores=tuple(PretrainedOn(**about, options=each) for each in options),
    )
    save(found, tmp_path / "runs" / "data" / "weights" / "small")
    monkeypatch.setattr("moleblend_fs.finetune.split_similarity.PACKAGED", tmp_path / "runs" / "data" / "weights")
    said, rows = with_pretraining(Store(finetuned.out / "store"), {}, tmp_path / "runs" / "data" / "weights" / "small")
    assert rows == ()
    assert said.endswith("It has no molecule of bbbp.csv, esol.csv, whatever its stereochemistry.")
