"""--save-dir of several processes: one run at a time, and the same folder to all of them."""

import os
import shutil
import signal

import pytest

from fairseq_plugins import going_on
from moleblend_fs.checkpoint import write
from moleblend_fs.runtime import folder_lock
from moleblend_fs.runtime.molecules_seen import read
from tests.distributed.training import ADAM, QUIET, checkpoint, launch, run
from tests.fairseq_plugins.runs import arguments
from tests.support import forked_ranks
from tests.support.waiting import until

pytestmark = pytest.mark.slow


def impatient(words: list[str]) -> None:
    """fairseq-train that waits for nobody."""
    folder_lock.PATIENCE = going_on.PATIENCE = 0.0
    forked_ranks.fairseq_train(words)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_second_run_is_refused(store, tmp_path, processes):
    """With the first one's process and host; what that is writing stays."""
    first = launch(store, tmp_path, *ADAM, "--max-update", "100000", "--num-workers", "1", ranks=1, ledger="ledger")
    try:
        until(lambda: len(read(tmp_path / "ledger")) >= 2, runs=first.running, said=first.output)
        half = tmp_path / "checkpoint_last.pt.0123abcd.unfinished"
        write.save_torch_file({}, half)
        words = arguments(store.path, tmp_path, (*QUIET, *ADAM, "--max-update", "1"))
        second = forked_ranks.start(words, ranks=processes, logs=tmp_path / "second", entry=impatient)
        assert second.wait(120) == [2] * processes, second.output()[-3000:]
        said = "".join(second.output(rank) for rank in range(processes))
        assert said.count(f"--save-dir {tmp_path}: process {first.processes[0].pid} on ") == 1
        assert "Traceback" not in said
        assert half.exists()
        first.signal(signal.SIGTERM)
        assert first.wait(120) == [0], first.output()[-3000:]
    finally:
        first.kill()
    done = checkpoint(tmp_path)["optimizer_history"][-1]["num_updates"]
    run(store, tmp_path, *ADAM, "--max-update", str(done + 1), ranks=1)
    assert not half.exists(), "the next run may clear up"


def elsewhere(words: list[str]) -> None:
    """fairseq-train whose second rank has another folder, as on a host that does not see the first one's."""
    if os.environ["RANK"] == "1":
        words[words.index("--save-dir") + 1] += "-elsewhere"
    forked_ranks.fairseq_train(words)


def elsewhere_impatient(words: list[str]) -> None:
    going_on.PATIENCE = 0.0
    elsewhere(words)


def test_a_rank_that_sees_another_folder_ends_the_run(store, tmp_path):
    folder = tmp_path / "run"
    run(store, folder, *ADAM, "--max-update", "2")
    words = arguments(store.path, folder, (*QUIET, *ADAM, "--max-update", "4"))
    ranks = forked_ranks.start(words, ranks=2, logs=tmp_path / "logs", entry=elsewhere_impatient)
    try:
        assert ranks.wait(120) == [2, 2], ranks.output()[-3000:]
    finally:
        ranks.kill()
    said = ranks.output(0) + ranks.output(1)
    assert said.count("sees no checkpoint, and rank 0 one of update 2; --save-dir must be the same folder on all hosts") == 1
    assert "Traceback" not in said


def test_a_checkpoint_that_a_rank_sees_late_is_waited_for(store, tmp_path):
    folder, late = tmp_path / "run", tmp_path / "run-elsewhere" / "checkpoint_last.pt"
    run(store, folder, *ADAM, "--max-update", "2")
    words = arguments(store.path, folder, (*QUIET, *ADAM, "--max-update", "4"))
    ranks = forked_ranks.start(words, ranks=2, logs=tmp_path / "logs", entry=elsewhere)
    try:
        until(lambda: "it is waited for" in ranks.output(1), runs=ranks.running, said=ranks.output)
        shutil.copy(folder / "checkpoint_last.pt", late.with_suffix(".copy"))
        os.rename(late.with_suffix(".copy"), late)
        assert ranks.wait(120) == [0, 0], ranks.output(1)[-3000:]
    finally:
        ranks.kill()
    assert [values["num_updates"] for values in forked_ranks.logged(ranks.output())] == ["3", "4"]
