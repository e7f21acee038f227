"""Memory is estimated before training, and what cannot fit is refused."""

import pytest

from fairseq_plugins import memory
from moleblend_fs.errors import UserError
from moleblend_fs.planning.estimate import Memory, Setup
from tests.fairseq_plugins.runs import ADAM, BIN, PRETRAIN, SMALL, arguments, command, train

OPTIONS = (*PRETRAIN, *SMALL, *ADAM, "--batch-size", "8", "--max-update", "1", "--disable-validation", "--no-save")


def test_the_estimate_is_printed_before_the_first_update(qm9_store, tmp_path):
    run = train(qm9_store.path, tmp_path, *OPTIONS)
    assert run.code == 0
    said = run.output.index("memory of each process, estimated")
    assert said < run.output.index("begin training epoch")
    assert "GiB (weights" in run.output


def test_what_cannot_fit_is_refused_before_training(qm9_store, tmp_path, monkeypatch):
    """On a host with room for the model's states, but not for a batch."""
    monkeypatch.setattr(memory.host_memory, "of_machine", lambda: 3 * 2**20)
    monkeypatch.setattr(memory.host_memory, "resident", lambda: 0)
    run = train(qm9_store.path, tmp_path, *OPTIONS)
    assert run.code == 2
    assert "Traceback" not in run.output
    assert "begin training epoch" not in run.output
    for word in ("the host has 0.00 GiB", "--batch-size", "--checkpoint-layers", "--zero-stage"):
        assert word in run.output
    monkeypatch.setenv(memory.VARIABLE, "0")
    assert train(qm9_store.path, tmp_path, *OPTIONS).code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gibibytes", "said"), [(10, "training needs about 15.43 GiB (weights 3.85,"), (4, "builds the model in float32, which takes 3.85 GiB")]
)
def test_a_model_that_cannot_be_built_is_refused_before_it_is(qm9_store, tmp_path, gibibytes, said):
    """The largest preset within a limit of the process's address space."""
    words = arguments(qm9_store.path, tmp_path, (*PRETRAIN, *ADAM, "--arch", "moleblend_huge", "--batch-size", "8", "--no-save"))
    limit = ("bash", "-c", f'ulimit -v {gibibytes << 20}; exec "$@"', "bash")
    run = command([*limit, str(BIN / "fairseq-train"), *words], tmp_path)
    assert run.code == 2, run.output[-3000:]
    assert "Traceback" not in run.output
    assert said in run.output
    assert "--batch-size" not in run.output, "smaller batches would not help"
    assert "choose a smaller --arch" in run.output or "or a smaller --arch" in run.output


def test_on_a_gpu_what_cannot_fit_is_only_warned_of(monkeypatch, caplog):
    """No GPU has confirmed the formula; what is kept in host memory (ZeRO-Offload) is refused as ever."""
    monkeypatch.setattr(memory, "on_cpu", lambda cfg: False)
    monkeypatch.setattr(memory, "left_on_host", lambda cfg: 2**30)
    monkeypatch.setattr(memory.torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(memory.torch.cuda, "mem_get_info", lambda device: (2**30, 2**33))
    monkeypatch.setattr(memory.torch.cuda, "memory_reserved", lambda device: 0)
    needed = Memory(weights=2**30, gradients=2**30, optimizer=0, buffers=0, activations=0, host=0, peak=2**31)
    assert "the GPU has 1.00 GiB" in memory.judge_all(None, needed, Setup(), built=0)
    assert "training needs about 2.00 GiB" in caplog.text
    assert "it may run out of memory" in caplog.text
    with pytest.raises(UserError, match=r"host memory has 1\.00 GiB"):
        memory.judge_all(None, needed._replace(host=2**31), Setup(stage=1, offload=True), built=0)
