"""All objectives, as one sum through fairseq-train: resumed in mid-epoch, and under ZeRO 2 in bfloat16."""

import math
import shutil

import pytest

from moleblend_fs.data.sidecar import CODES
from moleblend_fs.data.store import Store
from moleblend_fs.objectives.registry import objectives
from moleblend_fs.sources.sidecar_kinds import kinds
from tests.distributed.conftest import needs_deepspeed
from tests.distributed.training import ADAM, checkpoint, differing, identical, run, zero
from tests.support.sidecars import make_sidecars

pytestmark = pytest.mark.slow
EVERY = list(objectives())
WORDS = f"--criterion pretrain --objective {','.join(EVERY)} --batch-size 16 --negatives-group 8 --towers 2 --no-epoch-checkpoints"
SUM = tuple(WORDS.split())


@pytest.fixture(scope="module")
def store(qm9_store, tmp_path_factory):
    """A copy of the store, with every sidecar."""
    path = tmp_path_factory.mktemp("with_sidecars") / "qm9"
    shutil.copytree(qm9_store.path, path)
    make_sidecars(Store(path), (*kinds(), CODES), path.parent)
    return Store(path)


def test_resumed_in_the_middle_of_an_epoch(store, tmp_path):
    """The weights and moments at the end are, bit for bit, those of a run that was never stopped."""
    whole = run(store, tmp_path / "whole", *SUM, *ADAM, "--max-update", "5", ranks=1)
    run(store, tmp_path / "parts", *SUM, *ADAM, "--max-update", "2", ranks=1)
    rest = run(store, tmp_path / "parts", *SUM, *ADAM, "--max-update", "5", ranks=1)
    assert differing(rest.logged("train_inner"), whole.logged("train_inner")[2:], rel=0, units=0) == []
    assert identical(checkpoint(tmp_path / "parts"), checkpoint(tmp_path / "whole"))
    logged = whole.logged("train_inner")[0]
    for name in EVERY:
        assert any(key.startswith(f"{name}_") and key.endswith("_loss") for key in logged), name


@needs_deepspeed
def test_zero_2_and_bfloat16(store, tmp_path):
    """Two ranks train all of them: every loss is finite, and the sum falls."""
    done = run(store, tmp_path, *SUM, *zero(2), "--bf16", "--max-update", "12")
    losses = [{key: float(value) for key, value in line.items() if key.endswith("loss")} for line in done.logged("train_inner")]
    assert len(losses) == 12
    assert all(math.isfinite(value) for line in losses for value in line.values())
    assert losses[-1]["weighted_loss"] < losses[0]["weighted_loss"]
