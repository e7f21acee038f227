"""Ranks that are forked where Python's own server of forks runs already."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

SCRIPT = """
import multiprocessing, sys
from pathlib import Path
from tests.support import forked_ranks
if __name__ == "__main__":
    other = multiprocessing.get_context("forkserver").Process(target=print, args=("the server runs",))
    other.start()
    other.join()
    words = ["/no/store", "--user-dir", sys.argv[1], "--task", "moleblend", "--criterion", "blend_then_predict", "--arch", "moleblend_tiny"]
    started = forked_ranks.start([*words, "--batch-size", "2", "--cpu", "--save-dir", sys.argv[2]], ranks=1, logs=Path(sys.argv[2]))
    print(started.wait(120), "no such store" in started.output())
"""


def test_ranks_know_our_tasks_whoever_started_the_server(tmp_path):
    """Python has one server for a process, with the modules that its first user asked for, as preprocessing does; ranks have another."""
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [sys.executable, str(tmp_path / "script.py"), str(Path(ROOT) / "moleblend_fs"), str(tmp_path / "logs")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=240)
    assert done.stdout.splitlines()[-1:] == ["[2] True"], done.stdout + done.stderr
