"""ZeRO on two processes against Adam and DDP on the same batches: uneven batches, two micro-batches an update, clipping."""

import pytest

from moleblend_fs.inference.checkpoint import load
from tests.distributed.conftest import needs_deepspeed
from tests.distributed.training import ADAM, apart, checkpoint, differing, run, zero

pytestmark = [pytest.mark.slow, needs_deepspeed]
UPDATES = ("--update-freq", "2", "--max-update", "50", "--adam-eps", "1e-5", "--lr", "1e-4")


@pytest.fixture(scope="module")
def plain(store, start, tmp_path_factory):
    return run(store, tmp_path_factory.mktemp("plain"), *start, *ADAM, *UPDATES)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_computes_what_adam_and_ddp_do(store, start, plain, tmp_path, stage):
    """Losses and gradient norms of 50 updates, to a unit of the last logged digit, which sums in another order may move.

    Adam divides by the gradient: with a larger learning rate or a smaller eps it would blow these roundings up.
    """
    ours = run(store, tmp_path, *start, *zero(stage), *UPDATES)
    mine, theirs = ours.logged("train_inner"), plain.logged("train_inner")
    assert len({values["molecules"] for values in theirs}) > 1
    assert max(float(values["gnorm"]) for values in theirs) > 5, "clipping is at work"
    assert differing(mine, theirs, rel=5e-5) == []
    assert apart(checkpoint(tmp_path), checkpoint(plain.folder)) < 1e-4
    assert load(tmp_path / "checkpoint_last.pt").build() is not None


def test_gradients_of_other_molecules_are_far_outside(store, start, plain, tmp_path):
    other = run(store, tmp_path, *start, *ADAM, "--update-freq", "1", "--max-update", "10", "--adam-eps", "1e-5", "--lr", "1e-4")
    assert len(differing(other.logged("train_inner"), plain.logged("train_inner")[:10], rel=1e-2)) > 50


def test_optimizer_in_host_memory(store, start, plain, tmp_path):
    ours = run(store, tmp_path, *start, *zero(2), *UPDATES, "--zero-offload", "cpu", "--max-update", "6")
    assert differing(ours.logged("train_inner"), plain.logged("train_inner")[:6], rel=2e-5) == []


@pytest.mark.parametrize("stage", [1, 3])
def test_bfloat16(store, start, plain, tmp_path, stage):
    """Bfloat16 keeps 8 bits: a step's loss is right to 1 %, and it is not float32's."""
    ours = run(store, tmp_path, *start, *zero(stage), *UPDATES, "--bf16", "--max-update", "8")
    ours_loss, theirs = ours.column("train_inner", "weighted_loss"), plain.column("train_inner", "weighted_loss")[:8]
    assert ours_loss == pytest.approx(theirs, rel=0.02)
    assert ours_loss != theirs
    weight = checkpoint(tmp_path)["model"]["model.encoder.blocks.0.qkv.weight"]
    assert (weight != weight.bfloat16().float()).any(), "the checkpoint has the float32 weights"
