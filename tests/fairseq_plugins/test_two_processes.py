"""Two gloo processes with uneven molecule counts against one process on the same global batches.

27 molecules at 10 a batch are batches of 10, 10 and 7. With two updates accumulated, rank 1 ends with [real, empty];
with one, its second update is empty altogether.
"""

import pytest
import torch

from moleblend_fs.checkpoint.read import Checkpoint
from moleblend_fs.checkpoint.write import save
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.heads import HEADS
from moleblend_fs.model.moleblend import MoleBlend
from tests.fairseq_plugins.runs import FINETUNE, NO_DROPOUT, PRETRAIN, SGD, SMALL, Run, torchrun, train, train_command, train_forked

pytestmark = pytest.mark.slow
BATCHES = ("--batch-size", "10", *SMALL, *NO_DROPOUT, *SGD)
LABELS = ("--targets", "y", "--regression-loss", "mae", "--inputs", "2d+3d")
UNTIMED = ("_per_second", "wall", "ups", "lr")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Initial weights with every head, so that a run's movement is its gradient."""
    size = {"layers": 2, "embed_dim": 16, "ffn_dim": 16, "attention_heads": 2, "gaussians": 8, "pair_dim": 4, "hidden_3d": 8}
    config = ModelConfig(**size, heads=HEADS)
    torch.manual_seed(3)
    model = MoleBlend(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("heads.") and "norm" not in name and parameter.ndim > 1:
                parameter.mul_(15)  # sides far from 0, where their normalisation would blow gradients up
    path = tmp_path_factory.mktemp("start") / "model"
    save(Checkpoint(config=config, weights=model.state_dict()), path)
    return path, model.state_dict()


def same_values(ours: dict, theirs: dict, but: tuple[str, ...] = ()) -> None:
    """Every logged value but times; five digits, of which float32 sums in another order may move the last."""
    assert ours.keys() == theirs.keys()
    for key in ours:
        if not key.endswith(UNTIMED) and key not in but:
            assert float(ours[key]) == pytest.approx(float(theirs[key]), rel=1e-5, abs=1.1e-4), key


def same_logs(first: Run, second: Run) -> None:
    for tag in ("train_inner", "train", "valid"):
        assert len(first.logged(tag)) == len(second.logged(tag)) > 0
        for ours, theirs in zip(first.logged(tag), second.logged(tag), strict=True):
            same_values(ours, theirs)


def distance(first: Run, second: Run, start: dict[str, torch.Tensor]) -> float:
    """|movement of one run - movement of the other| / |movement|, over all parameters."""
    ours, theirs = first.weights(), second.weights()
    assert ours.keys() == theirs.keys()
    apart = sum((ours[name].double() - theirs[name].double()).square().sum() for name in ours)
    moved = sum((theirs[name].double() - start[name].double()).square().sum() for name in theirs)
    assert moved > 0
    return float((apart / moved).sqrt())


@pytest.fixture(scope="module")
def one_update(uneven_store, start, tmp_path_factory) -> Run:
    """One process, all three batches in one update."""
    folder = tmp_path_factory.mktemp("one")
    options = ("--finetune-from-model", str(start[0]), "--max-epoch", "1", "--update-freq", "4")
    return train(uneven_store.path, folder, *PRETRAIN, *BATCHES, *options)


def test_one_update_holds_the_whole_epoch(one_update):
    assert one_update.column("train_inner", "molecules") == [27]
    assert len(one_update.logged("train_inner")) == 1


def test_a_rank_that_ran_out_within_an_update(uneven_store, start, one_update, tmp_path):
    options = ("--finetune-from-model", str(start[0]), "--max-epoch", "1", "--update-freq", "2", "--distributed-world-size", "2")
    two = train_forked(uneven_store.path, tmp_path, *PRETRAIN, *BATCHES, *options)
    assert two.code == 0, two.output[-3000:]
    same_logs(two, one_update)
    assert distance(two, one_update, start[1]) < 1e-6


def test_a_gradient_of_other_molecules_is_far_outside(uneven_store, start, one_update, tmp_path):
    """One batch's molecules fewer: what counting a rank twice, or not at all, would look like."""
    options = ("--finetune-from-model", str(start[0]), "--max-update", "1", "--update-freq", "2")
    other = train(uneven_store.path, tmp_path, *PRETRAIN, *BATCHES, *options)
    assert distance(other, one_update, start[1]) > 1e-2


def test_a_rank_without_any_batch_under_torchrun_then_resumed(uneven_store, start, tmp_path):
    """Stopped in mid-epoch, and resumed by processes that fairseq-train starts itself."""
    options = ("--finetune-from-model", str(start[0]), "--lr", "0.01")
    first = torchrun(2, uneven_store.path, tmp_path / "two", *PRETRAIN, *BATCHES, *options, "--max-update", "3")
    assert first.code == 0, first.output[-3000:]
    resume = ("--lr", "0.01", "--max-epoch", "2", "--distributed-world-size", "2")
    second = train_command(uneven_store.path, tmp_path / "two", *PRETRAIN, *BATCHES, *resume)
    assert second.code == 0, second.output[-3000:]
    one = train(uneven_store.path, tmp_path / "one", *PRETRAIN, *BATCHES, *options, "--update-freq", "2", "--max-epoch", "2")
    molecules = one.column("train_inner", "molecules")
    assert molecules[:2] in ([20, 7], [17, 10]), "an update of rank 0 alone"
    assert first.column("train_inner", "molecules") + second.column("train_inner", "molecules") == molecules
    assert len(molecules) == 4
    for ours, theirs in zip([*first.logged("train_inner"), *second.logged("train_inner")], one.logged("train_inner"), strict=True):
        same_values(ours, theirs)
    same_values(second.logged("valid")[-1], one.logged("valid")[-1], but=("valid_best_loss",))
    # Four steps let float32 roundings grow a little.
    assert distance(second, one, start[1]) < 1e-5


def test_finetuning_with_missing_labels(uneven_store, start, tmp_path):
    """All of validation is one batch, so that rank 1 has none."""
    options = ("--finetune-from-model", str(start[0]), "--max-epoch", "1", "--batch-size-valid", "20")
    spread = ("--update-freq", "2", "--distributed-world-size", "2")
    two = train_forked(uneven_store.path, tmp_path / "two", *FINETUNE, *BATCHES, *LABELS, *options, *spread)
    assert two.code == 0, two.output[-3000:]
    one = train(uneven_store.path, tmp_path / "one", *FINETUNE, *BATCHES, *LABELS, *options, "--update-freq", "4")
    assert one.column("valid", "valid_molecules") == [11]
    same_logs(two, one)
    assert distance(two, one, start[1]) < 1e-6
