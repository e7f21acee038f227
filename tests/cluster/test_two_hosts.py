"""torchrun on two hosts (network namespaces): they find each other, train as one process would, and notice when the link is cut."""

import re
import signal
import subprocess
from collections import Counter
from pathlib import Path

from moleblend_fs.checkpoint.read import read_torch_file
from moleblend_fs.runtime.molecules_seen import VARIABLE, seen_by_epoch
from tests.cluster.conftest import CLUSTER, ROOT, job_environment
from tests.cluster.training import GENTLE, UPDATES, losses_in, until, words


def start(hosts, number, folder, *arguments, commands=None, **settings):
    """launch.sh on one of the hosts, with more commands from a folder; what it says goes to folder/outN."""
    environment = job_environment()
    if commands is not None:
        environment["PATH"] = f"{commands}:{environment['PATH']}"
    settings = {"NODES": "2", "PROCS": "1", "MASTER": "10.77.0.1", "LOCAL_ADDR": f"10.77.0.{number}", "GRACE": "10"} | settings
    command = [CLUSTER / "netns_exec.sh", hosts, str(number), ROOT / "scripts" / "launch.sh", *map(str, arguments)]
    with open(folder / f"out{number}", "w") as out:
        return subprocess.Popen(
            command, env=environment | settings, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )


def said(folder, number):
    return (folder / f"out{number}").read_text()


def left_over(hosts, word=""):
    """Command lines of processes on the hosts, with the word in them."""
    found = [subprocess.run(["ip", "netns", "pids", f"{hosts}{n}"], capture_output=True, text=True, check=True).stdout for n in (1, 2)]
    lines = [Path("/proc", pid, "cmdline") for pid in " ".join(found).split()]
    return [line for path in lines if path.exists() and word in (line := path.read_text().replace("\0", " "))]


def test_two_hosts_have_the_losses_of_one_process(hosts, qm9_store, expected, tmp_path):
    processes = [start(hosts, number, tmp_path, qm9_store.path, *words(tmp_path)) for number in (1, 2)]
    assert [process.wait(300) for process in processes] == [0, 0], said(tmp_path, 1)[-3000:]
    assert losses_in(tmp_path) == expected
    assert len(expected) == UPDATES
    # Only rank 0 logs validations; the other host took part without.
    assert "valid_loss" in said(tmp_path, 1) + said(tmp_path, 2)


def test_a_link_that_is_cut_ends_both_hosts(hosts, qm9_store, tmp_path):
    """Nobody is told of the cut. Each host names the rank that it lost and ends, nothing goes on, and the last checkpoint is whole."""
    frequent = ("--save-interval-updates", "20", "--keep-interval-updates", "1", "--heartbeat-timeout", "6")
    options = words(tmp_path, *frequent, updates=100_000)
    processes = [start(hosts, number, tmp_path, qm9_store.path, *options) for number in (1, 2)]
    until((tmp_path / "checkpoint_last.pt").exists, processes[0], lambda: said(tmp_path, 1))
    subprocess.run([CLUSTER / "netns_cut.sh", hosts], check=True)
    codes = [process.wait(300) for process in processes]
    assert 0 not in codes
    lost = re.compile(r"moleblend: error: no progress for 6 s\. rank (\d) \((host\d), .*\) cannot be heard")
    # Ranks are given out in the order in which the hosts came.
    found = [lost.search(said(tmp_path, number)) for number in (1, 2)]
    assert [match and match[2] for match in found] == ["host2", "host1"], said(tmp_path, 1)[-2000:] + said(tmp_path, 2)[-2000:]
    assert {match[1] for match in found} == {"0", "1"}
    assert left_over(hosts) == []
    saved = read_torch_file(tmp_path / "checkpoint_last.pt")["optimizer_history"][-1]["num_updates"]
    assert 0 <= max(losses_in(tmp_path)) - saved <= 21


def test_a_host_joins_and_is_lost(hosts, qm9_store, tmp_path):
    """Training begins on one host, goes on with two when the second one comes, and on one when that is gone; no update is lost or made
    twice but the one in flight at the kill, and each molecule is seen once."""
    settings = {
        "NODES": "1:2",
        "RESTARTS": "1",
        "PET_RDZV_CONF": "last_call_timeout=2,keep_alive_interval=3",
        VARIABLE: str(tmp_path / "ledger"),
    }
    frequent = ("--update-freq", "2", "--save-interval-updates", "1", "--keep-interval-updates", "1", "--disable-validation")
    options = words(tmp_path, *GENTLE, *frequent, updates=100_000)
    first = start(hosts, 1, tmp_path, qm9_store.path, *options, **settings)
    until(lambda: len(updates_of(tmp_path)) == 1 and max(updates_of(tmp_path)[0], default=0) > 3, first, lambda: said(tmp_path, 1))
    second = start(hosts, 2, tmp_path, qm9_store.path, *options, **settings)
    until(
        lambda: len(updates_of(tmp_path)) == 3 and min(map(len, updates_of(tmp_path))) > 3,
        first,
        lambda: said(tmp_path, 1) + said(tmp_path, 2),
    )
    subprocess.run([CLUSTER / "netns_kill.sh", hosts, "2"], check=True)
    second.wait(300)
    until(lambda: len(updates_of(tmp_path)) == 4 and len(updates_of(tmp_path)[3]) > 3, first, lambda: said(tmp_path, 1))
    first.send_signal(signal.SIGTERM)
    assert first.wait(300) == 0, said(tmp_path, 1)[-3000:]

    alone, *both, rest = updates_of(tmp_path)
    assert alone == list(range(1, alone[-1] + 1))
    assert both[0][0] == both[1][0] == alone[-1] + 1
    reached = max(both[0][-1], both[1][-1])
    assert rest[0] in (reached, reached + 1)
    whole = list(seen_by_epoch([tmp_path / "ledger"]).values())
    wanted = Counter(qm9_store.source_row[qm9_store.split("train")].tolist())
    assert len(whole) > 1
    assert all(seen == wanted for seen in whole[:-1])


def updates_of(folder):
    """The updates made by each process that was ever started, in the order of starting."""
    ledgers = sorted((folder / "ledger").glob("*.jsonl"), key=lambda path: int(path.stem.split("-")[0]))
    return [[int(found) for found in re.findall(r'"update": (\d+)', path.read_text())] for path in ledgers]
