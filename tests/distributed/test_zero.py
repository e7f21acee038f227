"""ZeRO on two processes against Adam and DDP on the same batches: uneven batches, two micro-batches an update, clipping."""

import pytest

from moleblend_fs.checkpoint.read import load
from tests.distributed.conftest import needs_deepspeed
from tests.distributed.training import ADAM, apart, checkpoint, differing, identical, run, zero

pytestmark = [pytest.mark.slow, needs_deepspeed]
UPDATES = ("--max-update", "30", "--adam-eps", "1e-5", "--lr", "1e-4")
ONCE, TWICE = ("--update-freq", "1"), ("--update-freq", "2")


@pytest.fixture(scope="module")
def once(store, start, tmp_path_factory):
    return run(store, tmp_path_factory.mktemp("once"), *start, *ADAM, *UPDATES, *ONCE)


@pytest.fixture(scope="module")
def plain(store, start, tmp_path_factory):
    return run(store, tmp_path_factory.mktemp("plain"), *start, *ADAM, *UPDATES, *TWICE)


def test_the_runs_to_compare_with_are_hard_enough(once, plain):
    for reference in (once.logged("train_inner"), plain.logged("train_inner")):
        assert len({values["molecules"] for values in reference}) > 1, "uneven batches"
        assert max(float(values["gnorm"]) for values in reference) > 5, "clipping is at work"


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_is_adam_and_ddp_bit_for_bit(store, start, once, tmp_path, stage):
    """Every logged digit of 30 updates, six epochs, then all weights and moments."""
    ours = run(store, tmp_path, *start, *zero(stage), *UPDATES, *ONCE)
    assert differing(ours.logged("train_inner"), once.logged("train_inner"), rel=0, units=0) == []
    assert identical(checkpoint(tmp_path), checkpoint(once.folder))
    assert load(tmp_path / "checkpoint_last.pt").build() is not None


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_micro_batches(store, start, plain, tmp_path, stage):
    """ZeRO 1 adds up micro-batches first and ranks then, as DDP does: the same bits. ZeRO 2 and 3 add up ranks first, which may
    move the last logged digit by a unit; Adam divides by the gradient, and a smaller eps or larger learning rate would blow that up.
    """
    ours = run(store, tmp_path, *start, *zero(stage), *UPDATES, *TWICE)
    assert differing(ours.logged("train_inner"), plain.logged("train_inner"), rel=0, units=0 if stage == 1 else 1) == []
    assert apart(checkpoint(tmp_path), checkpoint(plain.folder)) <= (0 if stage == 1 else 1e-5)


def test_gradients_of_other_molecules_are_far_outside(store, start, plain, tmp_path):
    other = run(store, tmp_path, *start, *ADAM, "--update-freq", "1", "--max-update", "10", "--adam-eps", "1e-5", "--lr", "1e-4")
    assert len(differing(other.logged("train_inner"), plain.logged("train_inner")[:10], rel=1e-2)) > 50


def test_optimizer_in_host_memory(store, start, plain, tmp_path):
    ours = run(store, tmp_path, *start, *zero(2), *UPDATES, *TWICE, "--zero-offload", "cpu", "--max-update", "6")
    assert differing(ours.logged("train_inner"), plain.logged("train_inner")[:6], rel=0, units=0) == []


@pytest.mark.parametrize("stage", [1, 3])
def test_bfloat16(store, start, plain, tmp_path, stage):
    """Bfloat16 keeps 8 bits: a step's loss is right to 1 %, and it is not float32's."""
    ours = run(store, tmp_path, *start, *zero(stage), *UPDATES, *TWICE, "--bf16", "--max-update", "8")
    ours_loss, theirs = ours.column("train_inner", "weighted_loss"), plain.column("train_inner", "weighted_loss")[:8]
    assert ours_loss == pytest.approx(theirs, rel=0.02)
    assert ours_loss != theirs
    weight = checkpoint(tmp_path)["model"]["model.encoder.blocks.0.qkv.weight"]
    assert (weight != weight.bfloat16().float()).any(), "the checkpoint has the float32 weights"


def test_weights_decay(store, start, plain, tmp_path):
    """With a decay that takes 5 % of every weight in five updates; without it weights would be far off."""
    options = (*UPDATES, *TWICE, "--max-update", "5", "--lr", "1e-3", "--weight-decay", "10")
    theirs = run(store, tmp_path / "adam", *start, *ADAM, *options)
    ours = run(store, tmp_path / "zero", *start, *zero(2), *options)
    assert apart(checkpoint(ours.folder), checkpoint(theirs.folder)) <= 1e-6
    without = run(store, tmp_path / "without", *start, *zero(2), *options, "--weight-decay", "0")
    assert apart(checkpoint(without.folder), checkpoint(theirs.folder)) > 1e-3
