"""Finetuning on distances that a pretrained model predicts from 2D: from QM9's structures to predictions of new SMILES."""

import csv

import numpy as np
import pytest
import torch

from moleblend_fs import Embedder
from moleblend_fs.checkpoint.read import load
from moleblend_fs.cli.main import main
from moleblend_fs.data.batch import collate
from moleblend_fs.inference.forward import distances
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import show_all
from moleblend_fs.objectives.blend_then_predict import BlendConfig, BlendThenPredict
from moleblend_fs.ops.layout import Layout
from tests.conftest import preprocessed
from tests.fairseq_plugins.runs import ADAM, FINETUNE, PRETRAIN, SMALL, train

SIZE = (*SMALL, "--embed-dim", "32", "--ffn-dim", "32", "--pair-dim", "8", "--hidden-3d", "16")
DISTANCES = ("--geometry-target", "distance", "--geometry-weight", "1", "--blend-ratio", "0.5,0.5,0", "--noise-weight", "0")


@pytest.fixture(scope="module")
def heavy_store(qm9_sample, tmp_path_factory):
    return preprocessed(tmp_path_factory.mktemp("heavy") / "store", "qm9", str(qm9_sample), "--limit", "140", "--hydrogens", "none")


@pytest.fixture(scope="module")
def pretrained(heavy_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    words = (*PRETRAIN, *SIZE, *ADAM, *DISTANCES, "--max-update", "2", "--batch-size", "32", "--disable-validation")
    assert train(heavy_store.path, folder, *words).code == 0
    return folder / "checkpoint_last.pt"


def finetuned(store, pretrained, folder, *more):
    words = (*FINETUNE, *SIZE, *ADAM, "--inputs", "2d+predicted3d", "--targets", "gap", "--max-update", "3", "--batch-size", "16")
    return train(store.path, folder, *words, "--finetune-from-model", str(pretrained), *more)


def batch_of_split(store, indices):
    batch = collate(store.records(np.asarray(indices)))
    return batch, Layout(batch.num_atoms, "cpu")


def trained_on_distances(store, updates):
    """A model of distances from 2D, after some updates of 32 molecules."""
    objective = BlendThenPredict(
        BlendConfig(blend_ratio=(0.5, 0.5, 0), geometry_target="distance", spd_weight=0, edge_weight=0, noise_weight=0)
    )
    torch.manual_seed(0)
    size = {"layers": 2, "embed_dim": 64, "ffn_dim": 64, "attention_heads": 2, "gaussians": 8, "pair_dim": 16, "hidden_3d": 16}
    model = MoleBlend(ModelConfig(**size, heads=objective.heads()).without_dropout())
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for update in range(updates):
        rows = np.random.default_rng(update).permutation(store.split("train"))[:32]
        ready = objective.prepare(*batch_of_split(store, np.sort(rows)), seed=1, epoch=update)
        optimizer.zero_grad()
        (objective.loss_sums(model, ready) / ready.counts).sum().backward()
        optimizer.step()
    return model.eval()


def test_predicted_distances_follow_the_true_ones(heavy_store):
    """Of molecules that a model did not see, after 200 updates on 117 others: r was 0.67, and 0.78 of the error of a constant."""
    batch, layout = batch_of_split(heavy_store, heavy_store.split("test"))
    true = (batch.coordinates[layout.pair_row] - batch.coordinates[layout.pair_column]).norm(dim=1)
    between = layout.pair_row != layout.pair_column
    constant = (true - true[between].median())[between].abs().mean()
    model = trained_on_distances(heavy_store, 200)
    with torch.no_grad():
        found = distances(model, batch, show_all(batch, layout, "2d"), layout).squeeze(1)
    assert np.corrcoef(found[between], true[between])[0, 1] > 0.55
    assert (found - true)[between].abs().mean() < 0.85 * constant


def test_from_pretraining_to_predictions_of_smiles(heavy_store, pretrained, tmp_path):
    run = finetuned(heavy_store, pretrained, tmp_path / "run")
    assert run.code == 0, run.output
    model = tmp_path / "run" / "checkpoint_best.pt"
    found, before = load(model), load(pretrained)
    for name, value in before.weights.items():
        if name.startswith(("encoder.", "heads.distance.", "relations.")):
            assert np.array_equal(found.weights[f"distances.model.{name}"], value), name
    assert found.finetuned.inputs == "2d+predicted3d"
    assert main(["evaluate", str(model), str(heavy_store.path), "--split", "test", "--json", str(tmp_path / "test.json")]) == 0
    assert main(["predict", str(model), str(tmp_path / "out.csv"), "--smiles", "CCO", "C", "c1ccccc1"]) == 0
    with open(tmp_path / "out.csv", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["status"] for line in lines] == ["ok"] * 3
    assert np.isfinite([float(line["gap"]) for line in lines]).all()
    with Embedder(model, tell=lambda line: None) as of_run, Embedder(pretrained, tell=lambda line: None) as of_pretrained:
        assert of_run.inputs == "2d+predicted3d"
        mine, theirs = (embedder(["CCO"], level="distances")[0] for embedder in (of_run, of_pretrained))
    np.testing.assert_allclose(mine, np.where(np.eye(3), 0, np.maximum(0, (theirs + theirs.T) / 2)), atol=1e-5)


def test_a_stopped_run_goes_on_and_another_one_begins_from_it(heavy_store, pretrained, tmp_path):
    whole = finetuned(heavy_store, pretrained, tmp_path / "whole", "--max-update", "4").weights()
    finetuned(heavy_store, pretrained, tmp_path / "parts", "--max-update", "2", "--save-interval-updates", "2")
    parts = finetuned(heavy_store, pretrained, tmp_path / "parts", "--max-update", "4").weights()
    assert whole.keys() == parts.keys()
    assert all(np.array_equal(value, parts[name]) for name, value in whole.items())
    again = finetuned(heavy_store, tmp_path / "parts" / "checkpoint_last.pt", tmp_path / "again", "--max-update", "1").weights()
    predictor = [name for name in whole if name.startswith("distances.")]
    assert predictor
    assert all(np.array_equal(again[name], whole[name]) for name in predictor)


def test_what_is_missing_is_told(heavy_store, pretrained, tmp_path):
    blind = train(heavy_store.path, tmp_path / "blind", *PRETRAIN, *SIZE, *ADAM, "--max-update", "1", "--batch-size", "16")
    assert blind.code == 0
    refused = finetuned(heavy_store, tmp_path / "blind" / "checkpoint_last.pt", tmp_path / "refused")
    assert refused.code == 2
    assert "has no head that predicts distances" in refused.output
    words = (*FINETUNE, *SIZE, *ADAM, "--inputs", "2d+predicted3d", "--targets", "gap", "--max-update", "1", "--batch-size", "16")
    scratch = train(heavy_store.path, tmp_path / "scratch", *words)
    assert scratch.code == 2
    assert "--inputs 2d+predicted3d needs --finetune-from-model" in scratch.output
