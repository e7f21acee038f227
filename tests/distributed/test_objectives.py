"""All objectives of the registry, as one sum, through fairseq-train, resumed in the middle of an epoch."""

import pytest

from moleblend_fs.objectives.registry import objectives
from tests.distributed.training import ADAM, checkpoint, differing, identical, run

pytestmark = pytest.mark.slow
EVERY = [name for name, found in objectives().items() if not getattr(found, "needs_more_than_a_store", False)]
SUM = ("--criterion", "pretrain", "--objective", ",".join(EVERY), "--batch-size", "16", "--negatives-group", "8", "--no-epoch-checkpoints")


def test_resumed_in_the_middle_of_an_epoch(qm9_store, tmp_path):
    """The weights and moments at the end are, bit for bit, those of a run that was never stopped."""
    whole = run(qm9_store, tmp_path / "whole", *SUM, *ADAM, "--max-update", "5", ranks=1)
    run(qm9_store, tmp_path / "parts", *SUM, *ADAM, "--max-update", "2", ranks=1)
    rest = run(qm9_store, tmp_path / "parts", *SUM, *ADAM, "--max-update", "5", ranks=1)
    assert differing(rest.logged("train_inner"), whole.logged("train_inner")[2:], rel=0, units=0) == []
    assert identical(checkpoint(tmp_path / "parts"), checkpoint(tmp_path / "whole"))
    logged = whole.logged("train_inner")[0]
    for name in EVERY:
        assert any(key.startswith(f"{name}_") and key.endswith("_loss") for key in logged), name
