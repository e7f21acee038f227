"""What needs neither root nor other hosts, and is left out of tests/scripts for the sake of time."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.training import check_stop
from tests.scripts.test_launch import ROOT, clean, free_port, launch


@pytest.mark.parametrize(("launcher", "number", "code"), [("torchrun", signal.SIGTERM, 0), ("deepspeed", signal.SIGUSR1, 85)])
def test_training_that_is_stopped(launcher, number, code, qm9_store, tmp_path):
    """tests/scripts has the other pairs of launcher and signal."""
    if launcher == "deepspeed":
        pytest.importorskip("deepspeed")
    more = {"MASTER": f"127.0.0.1:{free_port()}"} | ({"MOLEBLEND_PREEMPTED_EXIT": code} if code else {})
    check_stop(qm9_store, tmp_path / "run", number, code, launch, LAUNCHER=launcher, **more)


def test_what_cannot_run_is_skipped_with_the_reason(tmp_path):
    """The other files of this folder where the commands that they need are not on PATH, or the user is not root."""
    command = [sys.executable, "-m", "pytest", Path(__file__).parent, "-q", f"--deselect={Path(__file__).relative_to(ROOT)}"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", f"--basetemp={tmp_path}/base"],
        env=clean(PATH=tmp_path, MOLEBLEND_CLUSTER=1),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    counts = dict(reversed(found) for found in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout.splitlines()[-1]))
    assert list(counts) == ["skipped"]
    reasons = re.findall(r"^SKIPPED \[(\d+)\] .*: needs (?:root, |the command )", done.stdout, re.M)
    assert sum(map(int, reasons)) == int(counts["skipped"])
