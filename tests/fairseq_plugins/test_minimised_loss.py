"""What an update minimises and what is logged of it, from outside: with gradient descent at rate 1 weights move by the gradient."""

import numpy as np
import pytest
import torch
from fairseq import options as options_of_fairseq
from fairseq import tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from moleblend_fs.inference.golden import GoldenFile
from moleblend_fs.model.shown import show_all
from moleblend_fs.objectives.blend_then_predict import LOSS_NAMES, BlendConfig
from moleblend_fs.ops.layout import Layout
from tests.fairseq_plugins.runs import ADAM, FINETUNE, NO_DROPOUT, PRETRAIN, SGD, SMALL, arguments, train
from tests.inference.test_golden import COMMITTED

ONE_UPDATE = (*PRETRAIN, *SMALL, *NO_DROPOUT, *SGD, "--train-subset", "valid", "--disable-validation")
WEIGHTS = {"spd": 0.3, "edge": 0.7, "geometry": 1.1, "noise": 0.2}


def weights_of(factor):
    return tuple(word for name, weight in WEIGHTS.items() for word in (f"--{name}-weight", str(factor * weight)))


def steps(run, start):
    """Minus the gradient of each parameter."""
    assert run.code == 0, run.output[-2000:]
    end = run.weights()
    return {name: end[name].double() - start[name].double() for name in start}


def largest_difference(ours, theirs):
    scale = max(float(x.abs().max()) for x in theirs.values())
    return max(float((ours[name] - theirs[name]).abs().max()) for name in theirs) / scale


@pytest.fixture(scope="module")
def start(qm9_store, tmp_path_factory):
    """The weights that all runs begin with: nothing is learnt at rate 0."""
    folder = tmp_path_factory.mktemp("start")
    return train(qm9_store.path, folder, *ONE_UPDATE, "--lr", "0", "--batch-size", "11", "--max-update", "1").weights()


@pytest.fixture(scope="module")
def whole(qm9_store, start, tmp_path_factory):
    """One update on all eleven molecules at once."""
    folder = tmp_path_factory.mktemp("whole")
    return train(qm9_store.path, folder, *ONE_UPDATE, *weights_of(1), "--batch-size", "11", "--max-update", "1")


def test_micro_batches_of_uneven_sizes_give_the_gradient_of_the_whole(qm9_store, start, whole, tmp_path):
    """4, 4 and 3 molecules: sums over the counts of the update. Means of the micro-batches' own means lie far outside."""
    options = (*ONE_UPDATE, *weights_of(1), "--batch-size", "4", "--update-freq", "3", "--max-update", "1")
    parts = train(qm9_store.path, tmp_path, *options)
    assert largest_difference(steps(parts, start), steps(whole, start)) < 1e-5
    logged = [run.logged("train_inner")[0] for run in (parts, whole)]
    for name in ("weighted_loss", "spd_loss", "edge_loss", "displacement_loss", "noisy_nodes_loss"):
        assert float(logged[0][name]) == pytest.approx(float(logged[1][name]), abs=1.1e-4)  # a unit of the last digit


def test_weights_are_those_of_the_loss(qm9_store, start, whole, tmp_path):
    """All weights times two: twice the gradient, twice what is logged as weighted, and the same losses."""
    double = train(qm9_store.path, tmp_path, *ONE_UPDATE, *weights_of(2), "--batch-size", "11", "--max-update", "1")
    twice = {name: 2 * value for name, value in steps(whole, start).items()}
    assert largest_difference(steps(double, start), twice) < 1e-5
    one, two = (run.logged("train_inner")[0] for run in (whole, double))
    assert float(two["weighted_loss"]) == pytest.approx(2 * float(one["weighted_loss"]), rel=1e-3)
    assert two["loss"] == one["loss"]


def test_the_weighted_loss_that_is_logged_is_the_weighted_sum(whole):
    names = {"spd": "spd_loss", "edge": "edge_loss", "geometry": "displacement_loss", "noise": "noisy_nodes_loss"}
    logged = whole.logged("train_inner")[0]
    expected = sum(weight * float(logged[names[name]]) for name, weight in WEIGHTS.items())
    assert float(logged["weighted_loss"]) == pytest.approx(expected, abs=5e-4)
    assert float(logged["loss"]) == pytest.approx(sum(float(logged[name]) for name in names.values()), abs=5e-4)
    assert abs(float(logged["weighted_loss"]) - float(logged["loss"])) > 0.1


def test_the_reference_s_weighted_total_through_the_training_path():
    """The committed golden file: what training minimises, by the objective and by `loss.weighted_loss`."""
    file = GoldenFile(COMMITTED / "pretrain.npz")
    with torch.no_grad():
        losses = file.losses(file.molecules)
    assert float(losses["weighted_total"]) == pytest.approx(float(file.values["loss/weighted_total"]), rel=1e-5)
    default = {LOSS_NAMES[target]: weight for target, weight in BlendConfig().weights.items()}
    assert file.config["loss_weights"] == default  # the release's are our defaults


def test_validation_shows_all_inputs_where_training_draws_them(qm9_store, tmp_path):
    """--random-modality: what a molecule shows is drawn in training alone."""
    options = (*FINETUNE, *SMALL, *ADAM, "--inputs", "2d+3d", "--random-modality", "--batch-size", "118")
    words = arguments(qm9_store.path, tmp_path, options)
    cfg = convert_namespace_to_omegaconf(options_of_fairseq.parse_args_and_arch(options_of_fairseq.get_training_parser(), words))
    task = tasks.setup_task(cfg.task)
    criterion = task.build_criterion(cfg.criterion)
    task.load_dataset("train")
    sample = {"batch": task.batch_of(np.arange(140))}
    layout = Layout(sample["batch"].num_atoms, "cpu")
    everything = show_all(sample["batch"], layout, "2d+3d").relations
    criterion.eval()
    assert torch.equal(criterion.prepare(sample, torch.device("cpu")).parts.relations, everything)
    criterion.train()
    drawn = criterion.prepare(sample, torch.device("cpu")).parts.relations
    assert 0.1 < float((drawn == everything).double().mean()) < 0.4  # a fifth of the molecules shows all
