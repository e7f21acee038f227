"""Training on two nodes under a real Slurm: the losses of one process, failures that are told, preemption that resumes by itself."""

import importlib.util
import re
from collections import Counter
from pathlib import Path

import pytest

from moleblend_fs.runtime.molecules_seen import VARIABLE, seen_by_epoch
from tests.cluster.conftest import ENDED
from tests.cluster.training import GENTLE, OPTIONS, PER_RANK, UPDATES, alone, losses_in

SETTINGS = {"NODES": 2, "GPUS": 0, "PROCS": 1, "CPUS": 1, "ARCH": "tiny", "PRECISION": "fp32", "BATCH": PER_RANK, "WORKERS": 0}
SETTINGS |= {"LR": 1e-3, "WARMUP": 2, "UPDATES": UPDATES, "TIME": "00:10:00"}


def output(folder, job):
    return (folder / f"job-{job}.out").read_text()


@pytest.mark.parametrize("zero", [0, 2])
def test_two_nodes_have_the_losses_of_one_process(cluster, qm9_store, expected, tmp_path, zero):
    if zero:
        pytest.importorskip("deepspeed")
    job = cluster.submit("pretrain.sbatch", *OPTIONS, STORE=qm9_store.path, OUT=tmp_path, ZERO=zero, **SETTINGS)["pretrain"]
    ended = cluster.wait(job, ENDED)[0]
    assert ended["JobState"] == "COMPLETED", output(tmp_path, job)[-3000:]
    assert ended["NodeList"] == "n[1-2]"
    assert "2 processes on n[1-2]" in output(tmp_path, job)
    losses = losses_in(tmp_path)
    assert losses.keys() == set(range(1, UPDATES + 1))
    assert losses == expected
    assert len(set(losses.values())) == UPDATES


def test_a_failing_rank_is_told(cluster, qm9_store, tmp_path):
    """One of two processes cannot start; the other one, which waits for it, is ended, and the message names the first."""
    broken = tmp_path / "setup.sh"
    broken.write_text('srun() { command srun "${@:1:2}" bash -c \'[ "$SLURM_PROCID" = 0 ] || exit 7; exec "$@"\' bash "${@:3}"; }\n')
    settings = {"STORE": qm9_store.path, "OUT": tmp_path, "SETUP": broken, "WAIT": 5, **SETTINGS}
    job = cluster.submit("pretrain.sbatch", *OPTIONS, **settings)["pretrain"]
    ended = cluster.wait(job, ENDED)[0]
    assert (ended["JobState"], ended["Restarts"]) == ("FAILED", "0")
    end = output(tmp_path, job)
    assert re.search(
        rf"job {job} failed with exit code \d+ .*The first that ended:\nsrun: error: .*: task 1: Exited with exit code 7\n", end
    )
    assert not (tmp_path / "checkpoint_last.pt").exists()


def test_a_mistake_is_told_with_its_reason(cluster, qm9_store, tmp_path):
    job = cluster.submit("pretrain.sbatch", *OPTIONS, "--blend-ratio", "1,1", STORE=qm9_store.path, OUT=tmp_path, **SETTINGS)["pretrain"]
    ended = cluster.wait(job, ENDED)[0]
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "2:0")
    assert "moleblend: error: --blend-ratio" in output(tmp_path, job)


MANY = 120
"""Updates of a run that is stopped in its midst: it lasts some seconds, and its first updates are seen in the log at once."""


def test_preempted_job_is_requeued_and_goes_on_by_itself(cluster, qm9_store, tmp_path):
    """Stopped by a signal from Slurm; every update is made once, with the losses of a run that was never stopped."""
    zero = 2 if importlib.util.find_spec("deepspeed") else 0
    settings = {"STORE": qm9_store.path, "OUT": tmp_path, "ZERO": zero, **SETTINGS, "UPDATES": MANY}
    job = cluster.submit("pretrain.sbatch", *OPTIONS, *GENTLE, **settings)["pretrain"]
    cluster.until(lambda: last_update(tmp_path) >= 3, 300, "training")
    cluster.run("scancel", "--signal=USR1", job)
    cluster.until(lambda: cluster.jobs(job)[0]["Restarts"] == "1", 300, "requeueing")
    reached = last_update(tmp_path)
    assert 3 <= reached < MANY
    ended = cluster.wait(job, ENDED)[0]
    said = output(tmp_path, job)
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("COMPLETED", "0:0", "1"), said[-3000:]
    assert re.findall(rf"job {job}, start (\d)", said) == ["1", "2"]
    assert updates_made(said) == list(range(1, MANY + 1))
    losses, expected = losses_in(tmp_path), alone(qm9_store, tmp_path / "alone", *GENTLE, updates=MANY)
    assert losses.keys() == expected.keys()
    # The last of five digits may differ by rounding. Other molecules would move a loss by some percent.
    assert [losses[n] for n in expected] == pytest.approx(list(expected.values()), rel=3e-5)


FINISH = """
# Starts after one that was stopped in training have a few more updates to make than that one.
if [ -f "$OUT/preempted" ]; then
    cat "$OUT/preempted"
    echo $(($(grep -oE 'after [0-9]+ updates' "$OUT/preempted" | grep -oE '[0-9]+') + 20)) >"$OUT/last"
fi
[ ! -f "$OUT/last" ] || TRAIN+=(--max-update "$(cat "$OUT/last")")
"""


def test_job_whose_time_is_up_is_requeued_and_finishes(cluster, qm9_store, tmp_path):
    """Slurm itself stops it, before its limit of one minute: it checks limits twice a minute, and may be half a minute early."""
    setup = tmp_path / "setup.sh"
    setup.write_text(FINISH)
    settings = {"STORE": qm9_store.path, "OUT": tmp_path, "SETUP": setup, VARIABLE: tmp_path / "ledger", **SETTINGS, "UPDATES": 100_000}
    slow = ("--user-dir", str(Path(__file__).parent / "slow_plugin"))  # it would compute for all that time
    job = cluster.submit("pretrain.sbatch", *OPTIONS, *GENTLE, *slow, **settings | {"TIME": "00:01:00", "WARN": 5})["pretrain"]
    ended = cluster.wait(job, ENDED)[0]
    said = output(tmp_path, job)
    # On a busy machine a start may take so long that it is stopped, too.
    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), said[-3000:]
    assert re.findall(rf"job {job}, start (\d)", said) == [str(n + 1) for n in range(int(ended["Restarts"]) + 1)]
    reached = int(re.findall(r"stopped by signal 10 after (\d+) updates", said)[-1])
    assert updates_made(said) == list(range(1, reached + 21))
    *whole, last = seen_by_epoch([tmp_path / "ledger"]).values()
    wanted = Counter(qm9_store.source_row[qm9_store.split("train")].tolist())
    assert len(whole) > 1
    assert all(seen == wanted for seen in whole)
    assert last <= wanted


def test_job_that_is_stopped_before_it_trains_begins_again(cluster, qm9_store, tmp_path):
    """The signal comes while the processes still start, where nothing heeds it and it ends them."""
    setup = tmp_path / "setup.sh"
    first = '[ "$SLURM_PROCID" = 1 ] || [ -n "$SLURM_RESTART_COUNT" ] || scancel --signal=USR1 "$SLURM_JOB_ID"'
    setup.write_text(f'srun() {{ command srun "${{@:1:2}}" bash -c \'{first}; exec "$@"\' bash "${{@:3}}"; }}\n')
    settings = {"STORE": qm9_store.path, "OUT": tmp_path, "SETUP": setup, "WAIT": 5, **SETTINGS}
    job = cluster.submit("pretrain.sbatch", *OPTIONS, **settings)["pretrain"]
    ended = cluster.wait(job, ENDED)[0]
    said = output(tmp_path, job)
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("COMPLETED", "0:0", "1"), said[-3000:]
    assert "stopped while nothing was trained" in said
    assert updates_made(said) == list(range(1, UPDATES + 1))


def last_update(folder):
    return max(losses_in(folder), default=0) if (folder / "train.log").is_file() else 0


def updates_made(said):
    """Numbers of the updates in the order in which they were made."""
    return [int(number) for number in re.findall(r"train_inner \| .*\"num_updates\": \"(\d+)\"", said)]
