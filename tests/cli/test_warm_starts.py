"""Programs that tests start begin in a process that has imported what they need: they do what they would otherwise, or begin as always."""

import fcntl
import json
import marshal
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fairseq_plugins.runs import ADAM, BIN, PRETRAIN, SMALL, arguments
from tests.support import warm_likeness
from tests.support.waiting import until

COMMAND = str(BIN / "moleblend")
AT_IMPORT = "Please install tensorboardX"
"""What fairseq logs where it is imported."""
TIMES = ("wall", "_per_second", "ups", "second")
TRAIN = (*PRETRAIN, *SMALL, *ADAM, "--batch-size", "40", "--no-save", "--disable-validation")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """What stands in for the server, in this process."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.commands"))
        listener.listen()
        monkeypatch.setenv(warm_likeness.VARIABLE, str(tmp_path / "s"))
        yield listener


def asked(listener: socket.socket, *words: str) -> tuple[subprocess.Popen, socket.socket, dict, list[int]]:
    """A command that has handed over: its process, the connection, what it told, its files."""
    process = subprocess.Popen([COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    connection, _ = listener.accept()
    connection.settimeout(120)
    size, descriptors, _, _ = socket.recv_fds(connection, 4, 253)
    return process, connection, marshal.loads(connection.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)), descriptors


@pytest.mark.parametrize(("status", "code"), [(0, 0), (7 << 8, 7), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)])
def test_it_ends_as_the_other_does(server, status, code):
    process, connection, told, descriptors = asked(server, "inspect", "a b")
    assert told["argv"] == [COMMAND, "inspect", "a b"]
    connection.send(b"w")
    os.write(descriptors[told["descriptors"].index(1)], b"said there")
    for descriptor in descriptors:
        os.close(descriptor)
    connection.send(status.to_bytes(4, "big"))
    assert process.communicate(timeout=60)[0] == "said there"
    assert process.returncode == code


def test_it_passes_signals_on_and_its_own_end(server):
    process, connection, _, descriptors = asked(server, "inspect", "x")
    connection.send(b"w")
    until(lambda: int(Path(f"/proc/{process.pid}/status").read_text().split("SigCgt:")[1].split()[0], 16) >> (signal.SIGTERM - 1) & 1)
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR2):
        process.send_signal(number)
        assert connection.recv(1) == bytes([number])
    process.kill()
    assert connection.recv(1) == b""
    assert process.wait(60) == -signal.SIGKILL
    for descriptor in descriptors:
        os.close(descriptor)


def test_it_begins_as_always_where_it_is_told_so(server):
    process, connection, _, descriptors = asked(server, "inspect", "nowhere")
    for descriptor in descriptors:
        os.close(descriptor)
    connection.send(b"c")
    assert "moleblend inspect: " in process.communicate(timeout=60)[1]
    assert process.returncode == 2


def told(**other) -> dict:
    about = {"environment": dict(warm_likeness.STARTED), "path": [], "executable": sys.executable, "folder": "/", "flags": {"safe_path": 0}}
    return about | {"kind": "file", "what": COMMAND, "argv": [COMMAND]} | other


@pytest.mark.parametrize(
    "other",
    [
        {"environment": {"OMP_NUM_THREADS": "77"}},
        {"environment": {"PYTHONPROFILEIMPORTTIME": "1"}},
        {"environment": {"READ_AT_IMPORT": "other"}},
        {"environment": {"PATH": "/elsewhere"}},
        {"path": ["WITH_A_TORCH"]},
        {"executable": "/elsewhere/python"},
        {"what": "/elsewhere/moleblend"},
        {"what": str(BIN / "fairseq-train"), "argv": ["fairseq-train", "store"]},
        {"what": str(BIN / "fairseq-train"), "argv": ["fairseq-train", "store", "--user-dir", "/elsewhere"]},
        {"kind": "module", "what": "moleblend_fs.cli.main", "folder": "WITH_A_TORCH"},
        {"kind": "code", "what": "from multiprocessing.spawn import spawn_main; spawn_main(1, 2)"},
    ],
    ids=str,
)
def test_what_would_import_otherwise_begins_as_always(other, tmp_path, monkeypatch):
    (tmp_path / "torch.py").touch()
    other = json.loads(json.dumps(other).replace("WITH_A_TORCH", str(tmp_path)))
    monkeypatch.setitem(warm_likeness.READ, "READ_AT_IMPORT", "this")
    same = {**warm_likeness.STARTED, "READ_AT_IMPORT": "this", "ANY": "other"}
    assert warm_likeness.same_imports(told(environment=same))
    assert not warm_likeness.same_imports(
        told(environment=same) | {k: {**same, **v} if k == "environment" else v for k, v in other.items()}
    )


def test_limits_are_its_surroundings():
    with (
        subprocess.Popen(["sh", "-c", "ulimit -n 99; read x"], stdin=subprocess.PIPE) as other,
        subprocess.Popen(["cat"], stdin=-1) as same,
    ):
        until(lambda: "Max open files            99 " in Path(f"/proc/{other.pid}/limits").read_text())
        assert not warm_likeness.same_surroundings(other.pid)
        assert warm_likeness.same_surroundings(same.pid)
        other.stdin.close()
        same.stdin.close()


def trained(store, folder, monkeypatch, *, cold: bool) -> tuple[list[dict[str, float]], list[str]]:
    """Logged values but of times, and all other lines but times, of a run of three updates; nothing is said on standard error."""
    with monkeypatch.context() as patch:
        if cold:
            patch.delenv(warm_likeness.VARIABLE)
        words = [COMMAND, "train", *arguments(store.path, folder, (*TRAIN, "--max-update", "3"))]
        done = subprocess.run(words, capture_output=True, text=True, cwd=folder.parent)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split(" | ", 1)[-1].replace(str(folder), "FOLDER") for line in done.stdout.splitlines()]
    values = [json.loads(line.split(" | ")[-1]) for line in lines if line.endswith("}")]
    kept = [{name: float(value) for name, value in one.items() if not name.endswith(TIMES)} for one in values]
    return kept, [line for line in lines if not line.endswith("}") and not any(part in line for part in ("seconds", "GiB", AT_IMPORT))]


@pytest.mark.slow
def test_training_logs_the_same(qm9_store, tmp_path, monkeypatch):
    cold, warm = (trained(qm9_store, tmp_path / kind, monkeypatch, cold=kind == "cold") for kind in ("cold", "warm"))
    assert warm == cold
    assert len(warm[0]) > 3


@pytest.mark.slow
def test_killed_it_is_gone(qm9_store, tmp_path):
    """A lock that the program has from its parent is free again once it is killed."""
    words = [COMMAND, "train", *arguments(qm9_store.path, tmp_path / "out", (*TRAIN, "--max-update", "100000"))]
    with open(tmp_path / "lock", "w") as lock, open(tmp_path / "said", "w") as said:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen(words, stdout=said, stderr=said, pass_fds=[lock.fileno()])
    try:
        until(
            lambda: '"num_updates": "3"' in (tmp_path / "said").read_text(),
            runs=lambda: process.poll() is None,
            said=(tmp_path / "said").read_text,
        )
        assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text(), "another trains"
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    with open(tmp_path / "lock") as lock:
        until(lambda: free(lock))


def free(lock) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_triton_is_hastened_in_each_process():
    pytest.importorskip("triton")
    code = "from triton.runtime import interpreter; print(hasattr(interpreter._patch_lang, '__wrapped__'))"
    for interpreted in ("0", "1"):
        variables = os.environ | {"TRITON_INTERPRET": interpreted}
        done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
        assert done.stdout == f"{interpreted == '1'}\n"
