"""Regression of descriptors: closed values, values that are not there, and training from a sidecar to finetuning and predictions."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch

from moleblend_fs.checkpoint.publish import kept_weights
from moleblend_fs.checkpoint.read import hidden_of_molecules, load
from moleblend_fs.checkpoint.write import save
from moleblend_fs.cli.main import main
from moleblend_fs.data.sidecar import ColumnStatistics, Sidecar, SidecarManifest
from moleblend_fs.errors import UserError
from moleblend_fs.objectives.descriptors import DescriptorOptions, DescriptorRegression
from tests.conftest import preprocessed
from tests.fairseq_plugins.runs import ADAM, FINETUNE, PRETRAIN, SMALL, arguments, run_here
from tests.inference.untrained_models import pretrained, untrained
from tests.model.molecules import batch_of, graph
from tests.objectives.suite import Case, mean_losses, model_of, sums_and_counts

COLUMNS = 5
ABOUT = SidecarManifest(
    name="descriptors",
    columns=tuple("abcde"),
    molecules=1,
    records_sha256="",
    values_sha256="",
    statistics=(ColumnStatistics(lower=0.0, upper=1.0, mean=0.0, std=1.0),) * COLUMNS,
    statistics_of="train",
    missing=0,
    without=0,
    versions={},
)


def described(batch):
    """The batch with values that follow from the molecules' ids, some of them missing."""
    values = torch.sin((batch.molecule_id.unsqueeze(1) + 1) * torch.arange(1, COLUMNS + 1)).float()
    values[batch.molecule_id % 3 == 1, 2] = float("nan")
    batch.extra["descriptors"] = values
    return batch


CASE = Case(
    variants={view: {"descriptors_view": view} for view in ("3d", "2d+3d", "blended")},
    still={"descriptors_view": "3d"},
    reached={"": 0.02},
    updates=100,
    sidecars={"descriptors": ABOUT},
    extra=described,
)


def objective(**options):
    made = DescriptorRegression(DescriptorOptions(**options))
    made.take_sidecars({"descriptors": ABOUT})
    return made


def test_closed_values():
    """A head of zeros predicts 0, one of bias 1/2 that: the mean of squares over the values that there are."""
    batch = batch_of([graph("CCO", 0), graph("CCN", 1)])
    values = torch.tensor([[1.0, -2, 0, 3, float("nan")], [0.0, float("nan"), 1, 1, 2]])
    batch.extra["descriptors"] = values
    model = model_of(objective())
    head = model.heads["descriptors"].out
    with torch.no_grad():
        head.weight.zero_(), head.bias.zero_()
        assert mean_losses(objective(), model, batch) == {"regression": pytest.approx((1 + 4 + 9 + 1 + 1 + 4) / 8)}
        head.bias.fill_(0.5)
    present = values[values.isfinite()]
    assert mean_losses(objective(), model, batch) == {"regression": pytest.approx(float((present - 0.5).square().mean()))}


def test_values_that_are_not_there_have_no_gradient():
    batch = described(batch_of([graph("CCO")], ids=[1]))
    model = model_of(objective())
    sums, counts = sums_and_counts(objective(), model, batch)
    assert counts.tolist() == [COLUMNS - 1]
    (slope,) = torch.autograd.grad(sums, [model.heads["descriptors"].out.bias])
    assert slope[2] == 0
    assert (slope[[0, 1, 3, 4]] != 0).all()


def test_in_the_3d_view_molecules_without_structure_count_nothing():
    batch = described(batch_of([graph("CCO", 0), graph("CCN", coordinates=False)], ids=[0, 2]))
    model = model_of(objective())
    assert sums_and_counts(objective(descriptors_view="3d"), model, batch)[1].tolist() == [COLUMNS]
    assert sums_and_counts(objective(descriptors_view="2d+3d"), model, batch)[1].tolist() == [2 * COLUMNS]


def test_a_property_head_begins_with_the_hidden_layer(tmp_path):
    """That of the head that read molecules; published weights keep it, in half, and nothing else of the heads."""
    found = load(pretrained(tmp_path / "whole", ("noise", "descriptors"), spread=0.3))
    hidden = {part: found.weights[f"heads.descriptors.hidden.{part}"] for part in ("weight", "bias")}
    name, begun = hidden_of_molecules(found)
    assert name == "descriptors"
    assert begun.keys() == {f"heads.property.hidden.{part}" for part in hidden}
    assert all(torch.equal(begun[f"heads.property.hidden.{part}"], value) for part, value in hidden.items())
    kept = kept_weights(found)
    assert {key for key in kept if key.startswith("heads.")} == begun.keys()
    found.weights, found.config = kept, replace(found.config, heads=())
    save(found, tmp_path / "published")
    name, again = hidden_of_molecules(load(tmp_path / "published"))
    assert name == "property"
    assert all(torch.equal(again[key], value) for key, value in begun.items())
    assert hidden_of_molecules(load(pretrained(tmp_path / "none", ("noise",)))) == ("", {})
    assert hidden_of_molecules(load(untrained(tmp_path / "finetuned"))) == ("", {})


def test_a_view_that_there_is_not():
    with pytest.raises(UserError, match="--descriptors-view must be one of"):
        DescriptorOptions(descriptors_view="4d")


@pytest.fixture(scope="module")
def store(qm9_sample, tmp_path_factory):
    found = preprocessed(tmp_path_factory.mktemp("described") / "store", "qm9", str(qm9_sample), "--limit", "48", "--hydrogens", "none")
    assert main(["preprocess-sidecar", "descriptors", str(found.path), "--workers", "1", "--no-progress"]) == 0
    return found


@pytest.mark.slow
def test_from_a_sidecar_to_predictions(store, tmp_path, capsys):
    """Alone and added to another; the task standardises with the training split's statistics; finetuning begins from the checkpoint."""
    options = [*PRETRAIN, "--criterion", "pretrain", *SMALL, *ADAM, "--batch-size", "20", "--max-update", "4", "--readout", "token+mean"]
    alone = run_here(arguments(store.path, tmp_path / "a", [*options, "--objective", "descriptors"]), tmp_path / "a")
    assert alone.code == 0, alone.output[-3000:]
    # An untrained head predicts about 0 for values of mean 0 and variance 1.
    assert 0.7 < alone.column("train_inner", "regression_loss")[0] < 1.5
    weights = alone.weights()
    values = len(Sidecar(store, "descriptors").manifest.columns)
    assert weights["heads.descriptors.out.weight"].shape[0] == values
    both = ["--objective", "blend,descriptors", "--objective-weights", "1,0.5"]
    added = run_here(arguments(store.path, tmp_path / "b", [*options, *both]), tmp_path / "b")
    assert added.code == 0, added.output[-3000:]
    assert "descriptors_regression_loss" in added.logged("train_inner")[0]
    tune = [*FINETUNE, *SMALL, *ADAM, "--readout", "token+mean", "--targets", "gap", "--batch-size", "20", "--max-update", "2"]
    tune += ["--finetune-from-model", str(tmp_path / "a/checkpoint_last.pt")]
    tuned = run_here(arguments(store.path, tmp_path / "c", tune), tmp_path / "c")
    assert tuned.code == 0, tuned.output[-3000:]
    assert "hidden layer goes on from the checkpoint's head 'descriptors'" in tuned.output
    assert main(["convert", str(tmp_path / "a/checkpoint_last.pt"), str(tmp_path / "my weights/small"), "--half"]) == 0
    said = capsys.readouterr().out
    assert "left out: heads descriptors, but for a hidden layer" in said
    assert f"MOLEBLEND_WEIGHTS='{tmp_path}/my weights' moleblend finetune DATA --weights small" in said
    out = tmp_path / "p.csv"
    assert main(["predict", str(tmp_path / "c/checkpoint_last.pt"), str(store.path), str(out)]) == 0
    assert main(["evaluate", str(tmp_path / "c/checkpoint_last.pt"), str(store.path), "--split", "test"]) == 0
    with open(out, newline="") as stream:
        assert len(list(csv.DictReader(stream))) == len(store)


def test_without_the_sidecar_training_says_how_to_make_it(qm9_store, tmp_path):
    words = [*PRETRAIN, "--criterion", "pretrain", *SMALL, *ADAM, "--batch-size", "20", "--max-update", "1", "--objective", "descriptors"]
    run = run_here(arguments(qm9_store.path, tmp_path, words), tmp_path)
    assert run.code == 2
    assert f"moleblend preprocess-sidecar descriptors {qm9_store.path}" in run.output


def test_batches_carry_standardised_values(store):
    from fairseq_plugins.dataset import StoreDataset

    sidecar = Sidecar(store, "descriptors")
    dataset = StoreDataset(store, np.arange(len(store)), [], {"descriptors": sidecar})
    carried = dataset.collater(dataset.__getitems__([5, 2]))["batch"].extra["descriptors"]
    assert torch.equal(carried.nan_to_num(9), torch.from_numpy(sidecar.standardised([5, 2])).nan_to_num(9))
