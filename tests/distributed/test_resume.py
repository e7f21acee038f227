"""Runs that are interrupted and go on: on as many processes, on others, with another stage of ZeRO or none."""

import pytest
import torch

from moleblend_fs.runtime.molecules_seen import seen_by_epoch
from tests.distributed.conftest import needs_deepspeed
from tests.distributed.training import ADAM, apart, checkpoint, differing, identical, run, zero

pytestmark = pytest.mark.slow
EPS = ("--adam-eps", "1e-5", "--lr", "1e-4", "--num-workers", "1")
EIGHT = ("--batch-size", "2", "--update-freq")
"""For updates of eight batches: 47 molecules are updates of 16, 16 and 15, the last one short of a molecule."""


@pytest.fixture(scope="module")
def whole(store, start, tmp_path_factory):
    """Two epochs and a bit on two processes without a stop."""
    return run(store, tmp_path_factory.mktemp("whole"), *start, *ADAM, *EPS, *EIGHT, "4", "--max-update", "7")


def once_each(store, folders, epochs: int) -> None:
    """Every molecule of the training split exactly once in each whole epoch."""
    seen = seen_by_epoch(folders)
    wanted = sorted(store.source_row[store.split("train")].tolist())
    for epoch in range(1, epochs + 1):
        assert sorted(seen[epoch].elements()) == wanted, f"epoch {epoch}"


@pytest.mark.parametrize("optimizer", ["adam", pytest.param("zero", marks=needs_deepspeed)])
def test_same_size_goes_on_bit_for_bit(store, start, tmp_path, optimizer):
    kind = ADAM if optimizer == "adam" else zero(3)
    options = (*start, *kind, *EPS, "--update-freq", "2")
    straight = run(store, tmp_path / "straight", *options, "--max-update", "4")
    first = run(store, tmp_path / "cut", *options, "--max-update", "2")
    second = run(store, tmp_path / "cut", *options, "--max-update", "4")
    assert identical(checkpoint(tmp_path / "cut"), checkpoint(straight.folder))
    both = [*first.logged("train_inner"), *second.logged("train_inner")]
    assert differing(both, straight.logged("train_inner"), rel=0) == []


@needs_deepspeed
def test_another_size_stage_and_optimizer_at_every_stop(store, start, whole, tmp_path):
    """4 -> 2 -> 3 -> 1 processes, ZeRO 2 -> Adam -> ZeRO 3 -> ZeRO 1: the same losses, and each molecule once.

    Each process begins with two micro-batches an update and goes on with 4, 3 (of which a third process has 2) and 8.
    """
    chain = [(4, zero(2), 1), (2, ADAM, 3), (3, zero(3), 5), (1, zero(1), 7)]
    logged = []
    for number, (ranks, kind, last) in enumerate(chain):
        options = (*start, *kind, *EPS, *EIGHT, "2", "--max-update", str(last))
        logged += run(store, tmp_path, *options, ranks=ranks, ledger=f"ledger-{number}").logged("train_inner")
    assert differing(logged, whole.logged("train_inner"), rel=0) == []
    assert apart(checkpoint(tmp_path), checkpoint(whole.folder)) < 1e-6
    once_each(store, [tmp_path / f"ledger-{number}" for number in range(len(chain))], epochs=2)


def test_another_batch_size_in_the_middle_of_an_epoch(store, start, tmp_path):
    """The rest of the epoch is cut anew; batches of the two sizes have no common bounds."""
    options = (*start, *ADAM, *EPS)
    run(store, tmp_path, *options, "--max-update", "3", ranks=2, ledger="a")
    run(store, tmp_path, *options, "--batch-size", "7", "--update-freq", "3", "--max-epoch", "2", ranks=3, ledger="b")
    once_each(store, [tmp_path / "a", tmp_path / "b"], epochs=2)


@pytest.mark.parametrize("optimizer", ["adam", pytest.param("zero", marks=needs_deepspeed)])
def test_bfloat16_goes_on_bit_for_bit(store, start, tmp_path, optimizer):
    """Weights in float32 are in the checkpoint, not only what bfloat16 keeps of them."""
    options = (*start, *(ADAM if optimizer == "adam" else zero(2)), *EPS, "--bf16")
    straight = run(store, tmp_path / "straight", *options, "--max-update", "4")
    run(store, tmp_path / "cut", *options, "--max-update", "2")
    run(store, tmp_path / "cut", *options, "--max-update", "4")
    assert identical(checkpoint(tmp_path / "cut"), checkpoint(straight.folder))


@needs_deepspeed
def test_zero_without_moments_and_with_other_options(store, start, tmp_path):
    """Updates count on; the float32 weights are the checkpoint's, of which bfloat16 keeps less: a learning rate of 0 moves none."""
    options = (*start, *zero(2), *EPS, "--bf16", "--no-save-optimizer-state")
    run(store, tmp_path, *options, "--max-update", "2")
    before = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)
    assert "last_optimizer_state" not in before
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in before["model"].values())
    again = run(store, tmp_path, *start, *zero(2), *EPS, "--bf16", "--lr", "0", "--max-update", "3")
    assert [values["num_updates"] for values in again.logged("train_inner")] == ["3"]
    assert again.output.count("saved without the optimizer's state") == 1
    after = checkpoint(tmp_path)
    assert all(torch.equal(before["model"][name], after["model"][name]) for name in after["model"])
    changed = run(store, tmp_path, *start, *zero(2), *EPS, "--bf16", "--adam-eps", "1e-6", "--weight-decay", "0.1", "--max-update", "4")
    assert changed.output.count("--weight-decay was 0.0, and is 0.1 from now on") == 1
    (group,) = checkpoint(tmp_path)["last_optimizer_state"]["param_groups"]
    assert (group["eps"], group["weight_decay"]) == (1e-6, 0.1)
