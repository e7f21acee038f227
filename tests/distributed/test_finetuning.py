"""Finetuning both ways between Adam and DeepSpeed, with validation; and going on from it."""

import pytest

from tests.distributed.conftest import needs_deepspeed
from tests.distributed.training import ADAM, checkpoint, run, zero
from tests.fairseq_plugins.runs import FINETUNE, NO_DROPOUT, SMALL, arguments
from tests.support import forked_ranks

pytestmark = [pytest.mark.slow, needs_deepspeed]
OPTIONS = (*FINETUNE, *SMALL, *NO_DROPOUT, "--batch-size", "5", "--lr", "1e-3", "--clip-norm", "5", "--targets", "y", "--inputs", "2d+3d")


def finetune(store, folder, *options: str) -> str:
    ranks = forked_ranks.start(arguments(store.path, folder, (*OPTIONS, *options)), ranks=2, logs=folder / "logs")
    try:
        assert ranks.wait(200) == [0, 0], ranks.output()[-3000:]
    finally:
        ranks.kill()
    return ranks.output()


@pytest.mark.parametrize(("pretrained", "finetuned"), [(ADAM, zero(3)), (zero(2), ADAM)])
def test_finetuning_across_optimizers(store, tmp_path, pretrained, finetuned):
    run(store, tmp_path / "pretrained", *pretrained, "--max-update", "2")
    start = ("--finetune-from-model", str(tmp_path / "pretrained" / "checkpoint_last.pt"))
    first = finetune(store, tmp_path / "finetuned", *start, *finetuned, "--max-epoch", "1")
    assert "pretrained weights from" in first
    assert len(forked_ranks.logged(first, "valid")) == 1
    second = finetune(store, tmp_path / "finetuned", *start, *finetuned, "--max-epoch", "2")
    assert [values["epoch"] for values in forked_ranks.logged(second, "valid")] == [2], "the second start went on with epoch 2"
    assert checkpoint(tmp_path / "finetuned", "checkpoint_best.pt")["extra_state"]["moleblend"]["finetuned"]["targets"] == ("y",)
