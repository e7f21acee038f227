"""Finding the rank that is dead or hangs: every rank tells the others how far it is, and a run that stands still ends with its name.

Without this, ranks wait in a collective operation for one that will never come, for as long as the backend allows (gloo and
NCCL: 10 to 30 minutes), and then say nothing about which one it was.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from moleblend_fs.patches.default_store import own_connection

DEFAULT_TIMEOUT = 1800
EXIT_HUNG = 75
"""Exit code of a run that stood still (EX_TEMPFAIL of sysexits.h)."""


@dataclass
class Beat:
    """The last that was heard of a rank.

    Attributes:
        sent: messages it has sent; a process that is dead or stopped sends none.
        steps: how often its main thread has made progress.
        doing: what it was about to do.
        where: its host and process.
        at: when `sent` last grew, by this process's clock.
    """

    sent: int = 0
    steps: int = 0
    doing: str = "starting"
    where: str = "not heard of"
    at: float = 0.0


class Watchdog:
    """Threads that send this rank's beats, hear the others', and end the process when it has stood still for too long.

    Args:
        store: where ranks leave their beats for each other.
        rank, ranks: which one this is, of how many.
        timeout: seconds without progress after which the run has failed.
        end: what ends the process.
    """

    def __init__(self, store: Any, rank: int, ranks: int, timeout: float, end: Callable[[int], Any] = os._exit):
        self.store, self.rank, self.timeout, self.end = store, rank, timeout, end
        self.interval = min(5.0, timeout / 4)
        now = time.monotonic()
        self.beats = {other: Beat(at=now) for other in range(ranks)}
        self.own = Beat(where=f"{socket.gethostname()}, process {os.getpid()}")
        self.progress = now
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        # Of its own: where the store's host is cut off, an exchange lasts for as long as TCP goes on trying.
        self.talker = threading.Thread(target=self._talk, daemon=True)

    @classmethod
    def of_process_group(cls, timeout: float) -> "Watchdog":
        """Start one for the default process group, on a connection of its own to its store."""
        store = own_connection("moleblend-beats")
        watchdog = cls(store, dist.get_rank(), dist.get_world_size(), timeout)
        places: list[str] = [""] * dist.get_world_size()
        dist.all_gather_object(places, watchdog.own.where)  # so that a rank has a place from the beginning
        for beat, where in zip(watchdog.beats.values(), places, strict=True):
            beat.where = where
        store.set_timeout(timedelta(seconds=max(1.0, watchdog.interval)))
        watchdog.talker.start()
        watchdog.thread.start()
        return watchdog

    def step(self, doing: str) -> None:
        """The main thread has made progress, and is about to do something."""
        self.own.steps += 1
        self.own.doing = doing
        self.progress = time.monotonic()

    def stop(self) -> None:
        """The run is over.

        Waits for an exchange under way: Python ends its threads by force when it exits, and one that is within torch's store then takes
        the process with it ("terminate called without an active exception", exit by SIGABRT).
        """
        self.over.set()
        if self.talker.is_alive():
            self.talker.join(3 * self.interval)

    def _talk(self) -> None:
        while not self.over.wait(self.interval):
            self.exchange()

    def _watch(self) -> None:
        while not self.over.wait(self.interval):
            if time.monotonic() - self.progress > self.timeout and not self.over.is_set():
                print(f"moleblend: error: no progress for {self.timeout:.0f} s. {self.verdict()}", file=sys.stderr, flush=True)
                self.end(EXIT_HUNG)

    def exchange(self) -> None:
        """Send this rank's beat and hear the others'."""
        self.own.sent += 1
        try:
            self.store.set(str(self.rank), json.dumps([self.own.sent, self.own.steps, self.own.doing, self.own.where]))
            for other, beat in self.beats.items():
                if self.store.check([str(other)]):
                    sent, steps, doing, where = json.loads(self.store.get(str(other)))
                    if sent != beat.sent:
                        self.beats[other] = Beat(sent, steps, doing, where, time.monotonic())
        except (RuntimeError, ValueError):
            pass  # the host of the store is gone or stopped: its beats age like any other's

    def silent(self) -> list[int]:
        """Ranks that have sent nothing for three intervals and more."""
        limit = time.monotonic() - 3 * self.interval
        return [other for other, beat in self.beats.items() if beat.at < limit and other != self.rank]

    def verdict(self) -> str:
        """Which ranks are at fault, as far as this one can tell."""
        silent = self.silent()
        if silent and len(silent) < len(self.beats) - 1:
            return f"{self.describe(silent)} sent nothing for {3 * self.interval:.0f} s: dead, stopped, or cut off"
        if silent:
            return f"{self.describe(silent)} cannot be heard: dead, stopped, or this rank {self.rank} is cut off from them"
        behind = min(beat.steps for beat in self.beats.values())
        late = [other for other, beat in self.beats.items() if beat.steps == behind]
        if len(late) == len(self.beats):
            return f"All {len(late)} ranks stand at the same place ({self.own.doing})"
        return f"{self.describe(late)} hangs while the others wait for it"

    def describe(self, ranks: list[int]) -> str:
        """Ranks with their places, and what they were doing."""
        return "; ".join(f"rank {rank} ({self.beats[rank].where}, {self.beats[rank].doing})" for rank in ranks)

    def explain_failure(self) -> str | None:
        """After an operation with other ranks failed: those that fall silent meanwhile, or None if all go on sending."""
        for _ in range(5):
            time.sleep(self.interval)  # noqa: TID251  a rank that fell silent tells nobody
            if silent := self.silent():
                return self.describe(silent)
        return None


current: Watchdog | None = None  # state: one for a process; whoever waits for other ranks tells it so


def begin(timeout: float) -> None:
    """Start this process's watchdog, if there are other ranks and the timeout is not 0. Negative: the default."""
    global current
    if timeout != 0 and dist.is_initialized() and dist.get_world_size() > 1:
        current = Watchdog.of_process_group(DEFAULT_TIMEOUT if timeout < 0 else timeout)


def step(doing: str) -> None:
    """Tell this process's watchdog that the main thread has made progress."""
    if current is not None:
        current.step(doing)
