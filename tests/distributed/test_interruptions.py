"""Signals, dead and hung ranks, full disks: what is left, and what is said."""

import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from moleblend_fs.runtime.molecules_seen import VARIABLE, read, seen_by_epoch
from moleblend_fs.runtime.stop_signals import EXIT_VARIABLE
from moleblend_fs.runtime.watchdog import EXIT_HUNG
from tests.distributed.conftest import needs_deepspeed
from tests.distributed.training import ADAM, BASE, QUIET, checkpoint, identical, launch, run, zero
from tests.fairseq_plugins.runs import BIN, arguments, environment
from tests.support import drill, forked_ranks
from tests.support.waiting import until

pytestmark = pytest.mark.slow
ENDLESS = ("--max-update", "100000", "--num-workers", "1")
PATIENCE = "20"
"""Seconds: more than a rank stands still where the machine is busy."""


def running(store, folder: Path, *options: str, updates: int = 3) -> forked_ranks.Ranks:
    """A run that has done some updates."""
    ranks = launch(store, folder, *options, ledger="ledger")
    until(lambda: len(read(folder / "ledger")) >= updates, runs=ranks.running, said=ranks.output)
    return ranks


@pytest.mark.parametrize(
    ("number", "options"),
    [(signal.SIGTERM, ADAM), pytest.param(signal.SIGUSR1, zero(2), marks=needs_deepspeed)],
)
def test_a_signal_ends_training_after_a_checkpoint(store, tmp_path, number, options):
    """Sent to whole process groups, loaders' workers too; no update is lost and none is seen twice."""
    ranks = running(store, tmp_path, *options, *ENDLESS)
    ranks.signal(number)
    try:
        assert ranks.wait(120) == [0, 0], ranks.output()[-3000:]
    finally:
        ranks.kill()
    done = max(read(tmp_path / "ledger"))
    assert checkpoint(tmp_path)["optimizer_history"][-1]["num_updates"] == done
    assert f"after {done} updates" in (tmp_path / "preempted").read_text()
    run(store, tmp_path, *options, "--num-workers", "1", "--max-epoch", str(done // 5 + 2), ledger="second")
    assert not (tmp_path / "preempted").exists()
    seen = seen_by_epoch([tmp_path / "ledger", tmp_path / "second"])
    wanted = sorted(store.source_row[store.split("train")].tolist())
    assert all(sorted(molecules.elements()) == wanted for molecules in seen.values())


@pytest.mark.cold
def test_a_signal_to_a_run_of_one_process(store, tmp_path):
    """Nobody else tells it: it must listen itself. A deaf one comes to its end, and leaves no word of a signal."""
    words = arguments(store.path, tmp_path, (*QUIET, *ADAM, "--num-workers", "1", "--max-update", "200"))
    process = subprocess.Popen(
        [str(BIN / "fairseq-train"), *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if '"num_updates": "3"' in line:
                process.send_signal(signal.SIGTERM)
                break
        output = process.stdout.read()
        assert process.wait(120) == 0, output[-3000:]
    finally:
        process.kill()
    done = checkpoint(tmp_path)["optimizer_history"][-1]["num_updates"]
    assert 3 <= done < 200
    assert f"after {done} updates" in (tmp_path / "preempted").read_text()


def test_a_signal_to_one_rank_during_validation(store, tmp_path):
    """One rank hears it, all stop; the exit code is the one asked for; the unfinished validation leaves no score."""
    options = (*ADAM, *ENDLESS, "--validate-interval-updates", "1", "--batch-size-valid", "1")
    words = arguments(store.path, tmp_path, (*BASE, *options))
    ranks = forked_ranks.start(words, ranks=2, logs=tmp_path / "logs", environment={EXIT_VARIABLE: "85"})
    try:
        until(lambda: "begin validation" in ranks.output(), runs=ranks.running, said=ranks.output)
        ranks.signal(signal.SIGTERM, ranks=[1])
        assert ranks.wait(120) == [85, 85], ranks.output()[-3000:]
    finally:
        ranks.kill()
    assert (tmp_path / "checkpoint_last.pt").exists()


def test_a_stopped_rank_is_named(store, tmp_path):
    ranks = running(store, tmp_path, *ADAM, *ENDLESS, "--heartbeat-timeout", PATIENCE)
    ranks.signal(signal.SIGSTOP, ranks=[1])
    try:
        ranks.processes[0].join(120)
        assert ranks.processes[0].exitcode == EXIT_HUNG, ranks.output()[-3000:]
    finally:
        ranks.kill()
    assert f"no progress for {PATIENCE} s. rank 1 (" in ranks.output()


def test_a_killed_rank_is_named(store, tmp_path):
    ranks = running(store, tmp_path, *ADAM, *ENDLESS, "--heartbeat-timeout", PATIENCE)
    ranks.signal(signal.SIGKILL, ranks=[1])
    try:
        ranks.processes[0].join(120)
        assert ranks.processes[0].exitcode not in (None, 0)
    finally:
        ranks.kill()
    assert "lost rank 1 (" in ranks.output()


@pytest.mark.parametrize("optimizer", ["adam", pytest.param("zero", marks=needs_deepspeed)])
def test_kill_9_at_random_moments(store, tmp_path, optimizer):
    """A short drill; `python -m tests.support.drill` is the long one."""
    options = ["--optimizer", "adam"] if optimizer == "adam" else list(zero(2))
    figures = drill.run(store.path, tmp_path, options, kills=4, ranks=[2, 1], updates=100, workers=1, seed=3)
    assert figures.passed, figures
    assert figures.kills == 4
    assert max(figures.updates_lost) <= 1, "a checkpoint after every update"
    assert figures.epochs >= 3


@pytest.mark.parametrize("options", [pytest.param(ADAM, id="adam"), pytest.param(zero(2), id="zero", marks=needs_deepspeed)])
def test_after_kill_9_the_weights_become_those_of_an_unbroken_run(store, tmp_path, options):
    """Bit for bit, with Adam's moments: what was learned after the last checkpoint is learned again in the same way."""
    options = (*options, "--num-workers", "1", "--save-interval-updates", "3", "--keep-interval-updates", "1")
    ranks = running(store, tmp_path / "killed", *options, "--max-update", "100000", updates=5)
    ranks.kill()
    lost_from, last = checkpoint(tmp_path / "killed")["optimizer_history"][-1]["num_updates"], max(read(tmp_path / "killed" / "ledger"))
    assert 3 <= lost_from <= last
    for folder in ("killed", "whole"):
        run(store, tmp_path / folder, *options, "--max-update", str(last + 4))
    assert identical(checkpoint(tmp_path / "killed"), checkpoint(tmp_path / "whole"))


LIMIT = 2**16
"""Bytes: more than what a run says, less than a checkpoint or a part of one."""


def with_small_files(words: list[str]) -> None:
    """fairseq-train on what to it is a full disk: no file of its process may grow beyond the limit."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
    forked_ranks.fairseq_train(words)


@pytest.mark.parametrize("optimizer", ["adam", pytest.param("zero", marks=needs_deepspeed)])
def test_a_full_disk_leaves_the_last_checkpoint(store, tmp_path, optimizer):
    kind = ADAM if optimizer == "adam" else zero(2)
    run(store, tmp_path, *kind, "--max-update", "2")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.pt")}
    assert min(map(len, before.values())) > LIMIT
    words = arguments(store.path, tmp_path, (*QUIET, *kind, "--max-update", "4"))
    ranks = forked_ranks.start(words, ranks=2, logs=tmp_path / "full", entry=with_small_files)
    try:
        assert ranks.wait(120) == [2, 2], ranks.output()[-3000:]
    finally:
        ranks.kill()
    said = ranks.output(0) + ranks.output(1)
    assert "could not be saved" in said
    assert "earlier checkpoints are as they were" in said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.pt")} == before
    assert not list(tmp_path.rglob("*.unfinished"))
    run(store, tmp_path, *kind, "--max-update", "4")


@pytest.mark.parametrize(("number", "patience"), [(signal.SIGKILL, "30"), pytest.param(signal.SIGSTOP, "1", marks=pytest.mark.cold)])
def test_torchrun_brings_a_rank_back(store, tmp_path, number, patience):
    """A rank is killed, or hangs; torchrun starts both again and they go on from the last checkpoint.

    torchrun has patience with ranks that it told to end: the one that is left needs some to say which one was lost, and a
    stopped one would use up all.
    """
    updates = ("--max-update", "12", "--save-interval-updates", "1", "--heartbeat-timeout", PATIENCE)
    words = arguments(store.path, tmp_path / "run", (*QUIET, *ADAM, *updates))
    note_pid = ("bash", "-c", f'echo $BASHPID > {tmp_path}/pid-$RANK; exec "$@"', "bash")
    start = (str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2", "--max-restarts", "1", "--no-python", *note_pid)
    variables = {**environment(), VARIABLE: str(tmp_path / "ledger"), "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": patience}
    with (tmp_path / "log").open("w") as log:
        torchrun = subprocess.Popen([*start, str(BIN / "moleblend"), "train", *words], stdout=log, stderr=log, env=variables)
    try:
        until(lambda: len(read(tmp_path / "ledger")) >= 3, runs=lambda: torchrun.poll() is None, said=(tmp_path / "log").read_text)
        first = (tmp_path / "pid-1").read_text()
        os.kill(int(first), number)
        assert torchrun.wait(240) == 0, (tmp_path / "log").read_text()[-3000:]
    finally:
        torchrun.kill()
    assert "rank 1 (" in (tmp_path / "log").read_text(), "the one at fault is named"
    assert (tmp_path / "pid-1").read_text() != first
    assert checkpoint(tmp_path / "run")["optimizer_history"][-1]["num_updates"] == 12
