"""A run that is told to stop saves what its members have, leaves nothing running, and goes on to the same result."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from moleblend_fs.checkpoint.read import load
from moleblend_fs.cli.main import main
from tests.support.waiting import until

pytestmark = pytest.mark.cold

OPTIONS = ["--target", "logS", "--split", "random", "--epochs", "16", "--batch-size", "4", "--ensemble", "1", "--arch", "tiny"]


def working_in(folder: Path) -> list[str]:
    """Processes whose working directory is a folder, as those of members are."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found += [process.name] if os.readlink(process / "cwd") == str(folder) else []
    return found


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_result(table, tmp_path):
    command = [sys.executable, "-P", "-m", "moleblend_fs.cli.main", "finetune", str(table)]
    process = subprocess.Popen([*command, str(tmp_path / "run"), *OPTIONS], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    member = tmp_path / "run" / "members" / "fold0-member0"
    log = member / "train.log"
    until(lambda: log.exists() and '{"epoch": 3, "train_loss"' in log.read_text(), runs=lambda: process.poll() is None)
    assert working_in(tmp_path / "run")
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "the same command goes on" in said
    assert (member / "preempted").exists()
    assert not (member / "finished.json").exists()
    assert not working_in(tmp_path / "run")
    stopped = load(member / "checkpoint_last.pt").about["updates"]
    assert 0 < stopped < 80
    for out in ("run", "uninterrupted"):
        assert main(["finetune", str(table), str(tmp_path / out), *OPTIONS]) == 0
    metrics = [json.loads((tmp_path / out / "metrics.json").read_text()) for out in ("run", "uninterrupted")]
    assert metrics[0] == metrics[1]
    assert f"@ {stopped} updates" in (member / "output.log").read_text()
    assert os.path.getsize(tmp_path / "run" / "report.html") > 1000


@pytest.mark.slow
def test_a_run_that_another_command_works_at_is_left_alone(table, tmp_path, capsys):
    """The second is told who is there; after kill -9 the same command waits until members have saved, and goes on from there."""
    words = ["finetune", str(table), str(tmp_path / "run"), *OPTIONS]
    process = subprocess.Popen([sys.executable, "-P", "-m", "moleblend_fs.cli.main", *words], stderr=subprocess.DEVNULL)
    member = tmp_path / "run" / "members" / "fold0-member0"
    log = member / "train.log"
    try:
        until(lambda: log.exists() and '{"epoch": 3, "train_loss"' in log.read_text(), runs=lambda: process.poll() is None)
        assert main(words) == 2
        assert f"process {process.pid} on " in capsys.readouterr().err
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert main(words) == 0
    assert (member / "finished.json").exists()
    assert " updates" in (member / "output.log").read_text()
    assert "loaded" in (member / "output.log").read_text().lower()
