"""The exit code of a run that a signal stopped, as the environment asks for it."""

import pytest

from moleblend_fs.errors import UserError
from moleblend_fs.runtime.stop_signals import EXIT_VARIABLE, Preemption


@pytest.mark.parametrize(("given", "code"), [(None, 0), ("", 0), ("0", 0), ("85", 85), ("255", 255)])
def test_exit_code_of_a_run_that_was_stopped(monkeypatch, given, code):
    """Empty is 0, as in scripts/launch.sh."""
    monkeypatch.delenv(EXIT_VARIABLE, raising=False)
    if given is not None:
        monkeypatch.setenv(EXIT_VARIABLE, given)
    stopped = Preemption()
    assert stopped.exit_code() == 0
    stopped.stopping = True
    assert stopped.exit_code() == code


@pytest.mark.parametrize("given", ["requeue", "-1", "256", "8.5", " "])
def test_what_is_no_exit_code_is_told(monkeypatch, given):
    monkeypatch.setenv(EXIT_VARIABLE, given)
    stopped = Preemption()
    stopped.stopping = True
    with pytest.raises(UserError, match=EXIT_VARIABLE):
        stopped.exit_code()
