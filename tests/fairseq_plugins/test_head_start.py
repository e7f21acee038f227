"""The property head's last layer begins as the linear model of the training molecules alone, once, on every process alike."""

import numpy as np
import pytest
import torch

from moleblend_fs.checkpoint.read import load
from moleblend_fs.data.split_file import all_labels
from moleblend_fs.inference.forward import last_features
from moleblend_fs.inference.predict import Runner
from moleblend_fs.objectives.linear_probe import logistic, ridge
from tests.distributed.conftest import needs_deepspeed
from tests.fairseq_plugins.conftest import write_labelled
from tests.fairseq_plugins.runs import FINETUNE, NO_DROPOUT, SMALL, Run, train, train_forked
from tests.inference.untrained_models import pretrained
from tests.model.molecules import ORDINARY

STILL = ("--optimizer", "adam", "--lr", "0", "--batch-size", "64", "--max-update", "1")
OUT = "heads.property.out."


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> tuple[str, ...]:
    """Weights without heads, whose molecules differ."""
    return "--finetune-from-model", str(pretrained(tmp_path_factory.mktemp("start") / "model", (), 0.3))


def begun(store, folder, start, targets: str, *options: str) -> Run:
    run = train(store.path, folder, *FINETUNE, *SMALL, *start, "--targets", targets, "--head-start", "ridge", *STILL, *options)
    assert run.code == 0, run.output[-2000:]
    return run


@pytest.mark.parametrize(("target", "fit"), [("y", ridge), ("c", logistic)])
def test_it_is_the_linear_model_of_training_molecules(uneven_store, start, tmp_path, target, fit):
    run = begun(uneven_store, tmp_path / "ridge", start, target, "--output-scale", "4")
    scratch = begun(uneven_store, tmp_path / "random", start, target, "--output-scale", "4", "--head-start", "random")
    weights, others = run.weights(), scratch.weights()
    assert all(torch.equal(value, others[name]) for name, value in weights.items() if not name.startswith(OUT)), "nothing else is changed"
    checkpoint = load(run.folder / "checkpoint_last.pt")
    train_rows = np.asarray(uneven_store.split("train"))
    labels = all_labels(uneven_store, train_rows)[:, [uneven_store.manifest.label_index(target)]][:, 0]
    assert 0 < np.isnan(labels).sum() < len(labels)
    (read,) = Runner().read(checkpoint, uneven_store, train_rows, "2d", 16, last_features)
    scaled = (labels - checkpoint.finetuned.mean[0]) / checkpoint.finetuned.std[0]
    expected = fit(read.values[~np.isnan(labels)], scaled[~np.isnan(labels)])
    assert 4 * weights[OUT + "weight"][0].numpy() == pytest.approx(expected.weight, rel=1e-4, abs=1e-5)
    assert 4 * float(weights[OUT + "bias"]) == pytest.approx(expected.bias, rel=1e-4, abs=1e-5)
    assert not torch.allclose(weights[OUT + "weight"], others[OUT + "weight"], atol=1e-3)
    said = f"begins as a linear model on 27 training molecules; {'error' if target == 'y' else 'cross-entropy'} where each is left out: "
    assert f"{said}{target} {expected.error:.3f}" in run.output
    assert "linear model" not in scratch.output


def test_labels_of_validation_are_not_looked_at_and_each_target_has_its_own_molecules(start, tmp_path):
    """One with too few labels stays at random."""
    nan, draw = float("nan"), np.random.default_rng(0)
    stores = []
    for number, far in enumerate((0.0, 50.0)):
        rows = [(s, "train", [draw.normal() if i % 2 else nan, 1.0 * i, nan if i > 1 else 2.0 * i]) for i, s in enumerate(ORDINARY)]
        draw = np.random.default_rng(0)
        rows += [(s, "valid", [far, far, far]) for s in ORDINARY[:4]]
        stores.append(write_labelled(tmp_path / f"store{number}", rows, dict.fromkeys(("a", "b", "few"), "regression")))
    first, second = (begun(store, tmp_path / f"run{i}", start, "a,b,few").weights() for i, store in enumerate(stores))
    random = begun(stores[0], tmp_path / "random", start, "a,b,few", "--head-start", "random").weights()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    kept = [torch.equal(first[OUT + "weight"][i], random[OUT + "weight"][i]) for i in range(3)]
    assert kept == [False, False, True]


def test_a_head_that_the_checkpoint_has_goes_on(uneven_store, start, tmp_path):
    first = begun(uneven_store, tmp_path / "first", start, "y", "--head-start", "random")
    again = ("--finetune-from-model", str(first.folder / "checkpoint_last.pt"))
    second = begun(uneven_store, tmp_path / "second", again, "y")
    assert torch.equal(second.weights()[OUT + "weight"], first.weights()[OUT + "weight"])


def test_a_run_that_goes_on_does_not_begin_again(uneven_store, start, tmp_path):
    options = ("--lr", "1e-2", "--batch-size", "8")
    whole = begun(uneven_store, tmp_path / "whole", start, "y", *options, "--max-update", "6")
    parts = begun(uneven_store, tmp_path / "parts", start, "y", *options, "--max-update", "4")
    rest = begun(uneven_store, tmp_path / "parts", start, "y", *options, "--max-update", "6")
    assert "linear model" in parts.output
    assert "linear model" not in rest.output
    assert all(torch.equal(value, rest.weights()[name]) for name, value in whole.weights().items())


@pytest.mark.slow
def test_two_processes_with_loaders_begin_with_the_same_bits(uneven_store, start, tmp_path):
    one = begun(uneven_store, tmp_path / "one", start, "y", *NO_DROPOUT)
    words = (*FINETUNE, *SMALL, *start, "--targets", "y", "--head-start", "ridge", *STILL, *NO_DROPOUT)
    two = train_forked(uneven_store.path, tmp_path / "two", *words, "--distributed-world-size", "2", "--num-workers", "1")
    assert two.code == 0, two.output[-3000:]
    assert all(torch.equal(value, two.weights()[name]) for name, value in one.weights().items())


ZERO = "--optimizer deepspeed --zero-stage"


@pytest.mark.slow
@pytest.mark.parametrize("options", ["--bf16", *(pytest.param(f"{ZERO} {more}", marks=needs_deepspeed) for more in ("2", "3", "2 --bf16"))])
def test_other_precisions_and_engines_begin_with_the_same_weights(uneven_store, start, tmp_path, options):
    plain = begun(uneven_store, tmp_path / "plain", start, "y").weights()
    words = (*FINETUNE, *SMALL, *start, "--targets", "y", "--head-start", "ridge", *STILL, *options.split())
    run = train_forked(uneven_store.path, tmp_path / "other", *words)
    assert run.code == 0, run.output[-3000:]
    other = run.weights()
    wanted = 0.05 if "bf16" in options else 1e-6  # features have 3 digits there
    for name in (OUT + "weight", OUT + "bias"):
        assert (other[name].float() - plain[name]).norm() < wanted * plain[name].norm() + 1e-6, name


def test_random_weights_are_refused(uneven_store, tmp_path):
    run = train(uneven_store.path, tmp_path / "run", *FINETUNE, *SMALL, "--targets", "y", "--head-start", "ridge", *STILL)
    assert run.code == 2
    assert "--head-start ridge needs --finetune-from-model" in run.output
