"""Memory is estimated before training, and what cannot fit is refused."""

from fairseq_plugins import memory
from tests.fairseq_plugins.runs import ADAM, PRETRAIN, SMALL, train

OPTIONS = (*PRETRAIN, *SMALL, *ADAM, "--batch-size", "8", "--max-update", "1", "--disable-validation", "--no-save")


def test_the_estimate_is_printed_before_the_first_update(qm9_store, tmp_path):
    run = train(qm9_store.path, tmp_path, *OPTIONS)
    assert run.code == 0
    said = run.output.index("memory of each process, estimated")
    assert said < run.output.index("begin training epoch")
    assert "GiB (weights" in run.output


def test_what_cannot_fit_is_refused_before_training(qm9_store, tmp_path, monkeypatch):
    """On a host with a megabyte left."""
    monkeypatch.setattr(memory, "available_on_host", lambda: 2**20)
    monkeypatch.setattr(memory, "resident", lambda: 0)
    run = train(qm9_store.path, tmp_path, *OPTIONS)
    assert run.code == 2
    assert "Traceback" not in run.output
    assert "begin training epoch" not in run.output
    for word in ("the host has 0.00 GiB", "--batch-size", "--checkpoint-layers", "--zero-stage"):
        assert word in run.output
    monkeypatch.setenv(memory.VARIABLE, "0")
    assert train(qm9_store.path, tmp_path, *OPTIONS).code == 0


def test_limits_of_control_groups_count(tmp_path):
    for name, content in (("max", "1000\n"), ("current", "700\n"), ("stat", "anon 500\ninactive_file 50\n")):
        (tmp_path / f"memory.{name}").write_text(content)
    assert memory.left_in(tmp_path, 5000) == 350
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.left_in(tmp_path, 5000) == 5000
    assert 0 < memory.available_on_host() < 2**50
