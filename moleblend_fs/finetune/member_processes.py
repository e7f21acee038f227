"""Processes that train members: some run at a time, and what is finished is not run again."""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from moleblend_fs.errors import UserError
from moleblend_fs.files import as_json, write_atomically
from moleblend_fs.finetune.members import CHECKPOINT, LOG, WEIGHTS, Member
from moleblend_fs.finetune.run_folder import COMMAND

OUTPUT, DONE = "output.log", "finished.json"
STOPPED = "preempted"
"""File that training leaves where a signal ended it."""
ENDING = 120
"""Seconds that a member may take to save what it has after such a signal."""
POLL = 0.5
"""Seconds between two looks at how far the members are."""


class Training:
    """Members under way.

    Args:
        out: the run's folder. members: all of them. jobs: how many at a time.
        show: called with (updates done in all, updates in all) now and then.
        kept: files that stay open for members, with their locks.
    """

    def __init__(self, out: Path, members: Sequence[Member], jobs: int, show: Callable[[int, int], None], *, kept: Sequence[int] = ()):
        self.out, self.members, self.jobs, self.show, self.kept = out, members, max(1, min(jobs, len(members))), show, kept
        self.threads = max(1, (len(os.sched_getaffinity(0)) if jobs else 1) // self.jobs)
        self.running: dict[str, subprocess.Popen] = {}
        self._slots: dict[str, int] = {}

    def run(self) -> None:
        """Train all that is not finished; UserError names a member that failed, and why."""
        waiting = [member for member in self.members if not finished(self.out, member)]
        by_name = {member.name: member for member in waiting}
        try:
            while waiting or self.running:
                while waiting and len(self.running) < self.jobs:
                    member = waiting.pop(0)
                    taken = {self._slots[name] for name in self.running}
                    self._slots[member.name] = next(slot for slot in range(self.jobs) if slot not in taken)
                    self.running[member.name] = start(self.out, member, self._slots[member.name], self.threads, kept=self.kept)
                wait_for_one(self.running.values(), POLL)
                for name, process in list(self.running.items()):
                    if process.poll() is not None:
                        del self.running[name]
                        check_end(self.out, by_name[name], process.returncode)
                self.show(sum(map(self.done, self.members)), sum(member.updates for member in self.members))
        finally:
            stop(self.running.values())
            self.running.clear()

    def done(self, member: Member) -> int:
        """Updates that a member has made, as its log has it."""
        if (self.out / member.folder / DONE).is_file():
            return member.updates
        return last_update(self.out / member.folder / LOG)


def finished(out: Path, member: Member) -> bool:
    """Whether a member was trained to its end by this very command."""
    return was_trained(out, member) and (out / member.folder / CHECKPOINT).is_file()


def was_trained(out: Path, member: Member) -> bool:
    """Whether this very command came to its end; the store and the weights may lie elsewhere now: `claim` knows that they are the same."""
    try:
        content = json.loads((out / member.folder / DONE).read_text("utf-8"))
        return _without_places(content["words"]) == _without_places(member.words)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _without_places(words: Sequence[str]) -> list[str]:
    """A member's words but for where the store and the weights to begin with lie."""
    result = list(words[1:])
    if WEIGHTS in result:
        result[result.index(WEIGHTS) + 1] = ""
    return result


def start(out: Path, member: Member, slot: int, threads: int, *, kept: Sequence[int] = ()) -> subprocess.Popen:
    """A process that trains a member, or goes on with it.

    Args:
        out: the run's folder. slot: which of those that run at a time; chooses the GPU. threads: of torch.
        kept: files that stay open for it, with their locks.
    """
    folder = out / member.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / COMMAND, member.command())
    (folder / COMMAND).chmod(0o755)
    environment = dict(os.environ)
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    environment |= _device(slot)
    with open(folder / OUTPUT, "a") as output:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "moleblend_fs.cli.main", "train", *member.words],
            cwd=out,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            pass_fds=tuple(kept),
            preexec_fn=_end_with_parent,
        )


def check_end(out: Path, member: Member, code: int) -> None:
    """Note that a member was trained to its end; UserError says why it was not."""
    folder = out / member.folder
    if code == 0 and not (folder / STOPPED).exists() and (folder / CHECKPOINT).is_file():
        write_atomically(folder / DONE, as_json({"words": list(member.words), "updates": member.updates}, indent=1) + "\n")
        return
    lines = [line for line in (folder / OUTPUT).read_text(errors="replace").splitlines() if line.strip()]
    reason = "a signal stopped it" if code == 0 else f"exit code {code}" + (f": {lines[-1]}" if lines else "")
    raise UserError(f"member {member.name} did not finish ({reason}); all it said is in {folder / OUTPUT}; the same command goes on")


def stop(processes: Iterable[subprocess.Popen]) -> None:
    """Tell processes that train to save and end, and wait for them."""
    processes = list(processes)
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(ENDING)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_for_one(processes: Iterable[subprocess.Popen], seconds: float) -> None:
    """Return when one of some processes has ended, or after some time."""
    descriptors: list[int] = []
    try:
        for process in processes:
            if process.poll() is None:
                descriptors.append(os.pidfd_open(process.pid))
        select.select(descriptors, [], [], seconds if descriptors else 0)
    except ProcessLookupError:
        pass  # one has ended since, and another than us has waited for it
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def last_update(log: Path) -> int:
    """Number of the last update that a log tells of; 0 for none."""
    try:
        with open(log, "rb") as stream:
            stream.seek(max(0, log.stat().st_size - 20_000))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            content: Any = json.loads(line[line.index("{") :])
            for key in ("num_updates", "train_num_updates", "valid_num_updates"):
                if key in content:
                    return int(float(content[key]))
    return 0


def _device(slot: int) -> dict[str, str]:
    """With several GPUs each member has one of its own."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    given = visible.split(",") if visible else [str(i) for i in range(_gpus())]
    return {"CUDA_VISIBLE_DEVICES": given[slot % len(given)]} if given and given != [""] and _gpus() else {}


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def default_jobs(members: int) -> int:
    """Members at a time: one for each GPU, or for each core."""
    return max(1, min(members, _gpus() or len(os.sched_getaffinity(0))))


def _end_with_parent() -> None:
    """A member is sent SIGTERM, after which it saves a checkpoint and ends, also where its parent is killed."""
    ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))  # PR_SET_PDEATHSIG
