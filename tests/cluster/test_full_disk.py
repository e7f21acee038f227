"""Checkpoints on a disk that is really full: a small file system of its own."""

import contextlib
import hashlib
import subprocess

import pytest

from moleblend_fs.runtime import folder_lock
from tests.distributed.training import ADAM, QUIET, checkpoint, zero
from tests.fairseq_plugins.runs import arguments
from tests.support import forked_ranks


@pytest.fixture
def disk(tmp_path):
    """An empty file system of 12 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def train(store, disk, logs, updates, *options):
    """Exit codes of two processes, and what both said."""
    words = arguments(store.path, disk, (*QUIET, *options, "--max-update", str(updates), "--save-interval-updates", "1"))
    ranks = forked_ranks.start(words, ranks=2, logs=logs)
    try:
        codes = ranks.wait(120)
    finally:
        ranks.kill()
    return codes, [ranks.output(0), ranks.output(1)]


def fill(path, left):
    """A file that takes all of the disk's room but some bytes."""
    with path.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(2**16))
        file.truncate(file.tell() - left)


def content(folder):
    """Name -> hash of each file but the log that grows with each run, and the lock that says which process had it last."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("details.log", folder_lock.FILE)]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(("optimizer", "left"), [("adam", 2**17), ("zero 2", 2**12)])
def test_a_full_disk_leaves_the_last_checkpoint(optimizer, left, disk, qm9_store, tmp_path):
    """Training ends with a message and exit code 2; once there is room, the same command goes on from the checkpoint before."""
    if optimizer != "adam":
        pytest.importorskip("deepspeed")
    options = (*(ADAM if optimizer == "adam" else zero(2)), "--keep-interval-updates", "1")
    codes, said = train(qm9_store, disk, tmp_path / "first", 1, *options)
    assert codes == [0, 0], said[0][-3000:]
    before = content(disk)
    fill(disk / "filler", left)
    codes, said = train(qm9_store, disk, tmp_path / "full", 3, *options)
    assert codes == [2, 2], said[0][-2000:]
    message = "could not be saved (the disk is full, 0 MiB are free); earlier checkpoints are as they were"
    assert sum(message in each for each in said) == 1, "one process says it for all"
    assert not any("Traceback" in each for each in said)
    assert updates(said[0]) == [2]
    (disk / "filler").unlink()
    assert content(disk) == before
    codes, said = train(qm9_store, disk, tmp_path / "again", 3, *options)
    assert codes == [0, 0], said[0][-3000:]
    assert updates(said[0]) == [2, 3]
    assert checkpoint(disk)["optimizer_history"][-1]["num_updates"] == 3


def updates(said):
    """Numbers of the updates that were made."""
    return [int(line["num_updates"]) for line in forked_ranks.logged(said)]
