"""The deepspeed launcher on two hosts (network namespaces), started once and reaching both by pdsh over ssh."""

import shutil
import signal
import subprocess

import pytest

from moleblend_fs.checkpoint.read import read_torch_file
from tests.cluster.conftest import CLUSTER, need_root
from tests.cluster.test_two_hosts import left_over, said, start
from tests.cluster.training import UPDATES, ZERO, losses_in, until, words

pytest.importorskip("deepspeed")


@pytest.fixture
def lab(hosts, tmp_path):
    """A folder with a hostfile, and the commands ssh and pdsh as those of a user who may log in to both hosts."""
    have = shutil.which("pdsh") and shutil.which("sshd", path="/usr/sbin")
    need_root(*(() if have else ("apt-get",)))
    folder = tmp_path / "ssh"
    up = subprocess.run([CLUSTER / "ssh_up.sh", hosts, folder], capture_output=True, text=True)
    if up.returncode != 0 and not shutil.which("pdsh"):
        pytest.skip(f"pdsh and sshd cannot be installed: {up.stderr.strip().splitlines()[-1:]}")
    assert up.returncode == 0, up.stderr
    (folder / "hosts").write_text("# ours\nhost1 slots=1\nhost2 slots=1\n")
    return folder


def by_deepspeed(hosts, lab, folder, *arguments, **settings):
    about = {"LAUNCHER": "deepspeed", "HOSTFILE": str(lab / "hosts"), "MASTER": "host1"}
    return start(hosts, 1, folder, *arguments, **about, commands=lab / "bin", **settings)


def test_zero_2_on_two_hosts_has_the_losses_of_one_process(hosts, lab, qm9_store, expected, tmp_path):
    """In a folder whose name means something to each of the shells on the way."""
    folder = tmp_path / 'out "$HOME" %h (1)'
    folder.mkdir()
    process = by_deepspeed(hosts, lab, folder, qm9_store.path, *words(folder, *ZERO))
    assert process.wait(300) == 0, said(folder, 1)[-3000:]
    for number in (1, 2):
        assert f"host{number}: " in said(folder, 1)
    assert losses_in(folder) == expected
    assert len(expected) == UPDATES


def test_a_signal_stops_both_hosts(hosts, lab, qm9_store, tmp_path):
    """To launch.sh: the processes on both hosts finish the update and save; its exit code says so."""
    options = words(tmp_path, *ZERO, updates=100_000)
    process = by_deepspeed(hosts, lab, tmp_path, qm9_store.path, *options, MOLEBLEND_PREEMPTED_EXIT="85")
    until(lambda: losses_in(tmp_path), process, lambda: said(tmp_path, 1))
    process.send_signal(signal.SIGUSR1)
    assert process.wait(120) == 85, said(tmp_path, 1)[-3000:]
    done = max(losses_in(tmp_path))
    assert (tmp_path / "preempted").read_text() == f"stopped by signal {signal.SIGUSR1.value} after {done} updates\n"
    assert read_torch_file(tmp_path / "checkpoint_last.pt")["optimizer_history"][-1]["num_updates"] == done
    assert not left_over(hosts, "fairseq")


def test_a_host_that_cannot_be_reached_is_named(hosts, lab, tmp_path):
    (lab / "hosts").write_text("host1 slots=1\nhost3 slots=1\n")
    process = by_deepspeed(hosts, lab, tmp_path, "store")
    assert process.wait(300) == 2
    assert "launch.sh: host3, of HOSTFILE=" in said(tmp_path, 1)
    assert "Could not resolve hostname host3" in said(tmp_path, 1)
