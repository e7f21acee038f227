"""Training on two nodes under a real Slurm: the losses of one process, failures that are told, preemption that resumes by itself."""

import re

import pytest

from tests.cluster.conftest import ENDED
from tests.cluster.training import OPTIONS, PER_RANK, UPDATES, alone, losses_in

SETTINGS = {"NODES": 2, "GPUS": 0, "PROCS": 1, "CPUS": 1, "ARCH": "tiny", "PRECISION": "fp32", "BATCH": PER_RANK, "WORKERS": 0}
SETTINGS |= {"LR": 1e-3, "WARMUP": 2, "UPDATES": UPDATES, "TIME": "00:10:00"}


def output(folder, job):
    return (folder / f"job-{job}.out").read_text()


@pytest.fixture(scope="module")
def expected(qm9_store, tmp_path_factory):
    return alone(qm9_store, tmp_path_factory.mktemp("alone"))


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
