"""launch.sh on one host, stopped in training: the pairs of launcher and signal that tests/scripts leaves out for the sake of time."""

import signal

import pytest

from tests.cluster.training import check_stop
from tests.scripts.test_launch import free_port, launch


@pytest.mark.parametrize(("launcher", "number", "code"), [("torchrun", signal.SIGTERM, 0), ("deepspeed", signal.SIGUSR1, 85)])
def test_training_that_is_stopped(launcher, number, code, qm9_store, tmp_path):
    if launcher == "deepspeed":
        pytest.importorskip("deepspeed")
    more = {"MASTER": f"127.0.0.1:{free_port()}"} | ({"MOLEBLEND_PREEMPTED_EXIT": code} if code else {})
    check_stop(qm9_store, tmp_path / "run", number, code, launch, LAUNCHER=launcher, **more)
