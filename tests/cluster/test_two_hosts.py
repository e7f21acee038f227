"""torchrun on two hosts (network namespaces): they find each other, train as one process would, and notice when the link is cut."""

import subprocess

import pytest

from tests.cluster.conftest import CLUSTER, ROOT, job_environment
from tests.cluster.training import UPDATES, alone, losses_in, words


def start(hosts, number, folder, *arguments, **settings):
    """launch.sh on one of the hosts; what it says goes to folder/outN."""
    settings = {"NODES": "2", "PROCS": "1", "MASTER": "10.77.0.1", "LOCAL_ADDR": f"10.77.0.{number}", "GRACE": "10"} | settings
    command = [CLUSTER / "netns_exec.sh", hosts, str(number), ROOT / "scripts" / "launch.sh", *map(str, arguments)]
    with open(folder / f"out{number}", "w") as out:
        return subprocess.Popen(
            command, env=job_environment() | settings, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )


def said(folder, number):
    return (folder / f"out{number}").read_text()


@pytest.fixture(scope="module")
def expected(qm9_store, tmp_path_factory):
    return alone(qm9_store, tmp_path_factory.mktemp("alone"))


def test_two_hosts_have_the_losses_of_one_process(hosts, qm9_store, expected, tmp_path):
    processes = [start(hosts, number, tmp_path, qm9_store.path, *words(tmp_path)) for number in (1, 2)]
    assert [process.wait(120) for process in processes] == [0, 0], said(tmp_path, 1)[-3000:]
    assert losses_in(tmp_path) == expected
    assert len(expected) == UPDATES
    # Only rank 0 logs validations; the other host took part without.
    assert "valid_loss" in said(tmp_path, 1) + said(tmp_path, 2)
