"""The lock of a folder that is trained in: one process has it, others are told which, and it ends with its process."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from moleblend_fs.errors import UserError
from moleblend_fs.runtime import folder_lock
from moleblend_fs.runtime.folder_lock import FolderLock
from tests.conftest import ROOT
from tests.support.waiting import until


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(folder_lock, "PATIENCE", 0.0)


def test_a_second_one_is_told_who_has_the_folder(tmp_path, impatient):
    first, second = FolderLock(), FolderLock()
    first.take(str(tmp_path))
    try:
        who = f"process {os.getpid()} on {socket.gethostname()} trains there; wait for its end, stop it, or choose another --save-dir"
        with pytest.raises(UserError, match=f"--save-dir {tmp_path}: {who}"):
            second.take(str(tmp_path))
    finally:
        first.give_up()
    second.take(str(tmp_path))
    second.give_up()


def test_the_end_of_another_run_is_waited_for(tmp_path, caplog):
    first, second = FolderLock(), FolderLock()
    first.take(str(tmp_path))
    waits = threading.Thread(target=second.take, args=(str(tmp_path),))
    waits.start()
    until(lambda: "its end is waited for" in caplog.text)
    assert second.descriptor is None
    first.give_up()
    waits.join(60)
    assert second.descriptor is not None
    second.give_up()


def test_a_signal_ends_the_waiting(tmp_path, monkeypatch):
    first = FolderLock()
    first.take(str(tmp_path))
    monkeypatch.setattr(folder_lock.preemption, "received", int(signal.SIGTERM))
    with pytest.raises(UserError, match="trains there"):
        FolderLock().take(str(tmp_path))
    first.give_up()


WITH_A_CHILD = """
import os, signal, sys
from moleblend_fs.runtime import folder_lock
folder_lock.current.take(sys.argv[1])
if os.fork() == 0:
    print(os.getpid(), flush=True)
signal.pause()
"""


@pytest.mark.cold
def test_a_killed_process_leaves_no_lock_to_its_children(tmp_path, impatient):
    """Loaders' workers are forked, and live on for some seconds after a kill -9."""
    words = [sys.executable, "-c", WITH_A_CHILD, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            with pytest.raises(UserError, match=f"process {process.pid} on"):
                FolderLock().take(str(tmp_path))
            process.kill()
            process.wait(60)
            os.kill(child, 0)
            lock = FolderLock()
            lock.take(str(tmp_path))
            assert lock.descriptor is not None
            lock.give_up()
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(("number", "refused"), [(errno.ENOLCK, False), (errno.EIO, True)])
def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog, number, refused):
    """A run goes on there, as before there were locks."""

    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    before = os.listdir("/proc/self/fd")
    if refused:
        with pytest.raises(UserError, match="cannot be written"):
            FolderLock().take(str(tmp_path))
    else:
        FolderLock().take(str(tmp_path))
        assert f"--save-dir {tmp_path}: no locks there" in caplog.text
    assert len(os.listdir("/proc/self/fd")) == len(before)
