"""Which rank hangs, and what happens then."""

import threading

import torch

from moleblend_fs.runtime.watchdog import EXIT_HUNG, Watchdog


def test_the_rank_that_hangs_is_told_from_those_that_wait():
    store = torch.distributed.HashStore()
    dogs = [Watchdog(store, rank, 3, timeout=400) for rank in range(3)]
    for rank, dog in enumerate(dogs):
        dog.step("update 1")
        if rank != 1:
            dog.step("update 2")
        dog.exchange()
    for dog in dogs:
        dog.exchange()
    assert "rank 1 (" in dogs[0].verdict()
    assert "hangs while the others wait" in dogs[0].verdict()
    dogs[1].step("update 2")
    for dog in dogs:
        dog.exchange()
    dogs[0].exchange()
    assert "All 3 ranks stand at the same place (update 2)" in dogs[0].verdict()


def test_a_run_that_stands_still_is_ended():
    ended, hung = [], threading.Event()
    dog = Watchdog(torch.distributed.HashStore(), 0, 1, timeout=0.4, end=lambda code: (ended.append(code), hung.set()))
    dog.thread.start()
    assert hung.wait(60)
    dog.stop()
    assert set(ended) == {EXIT_HUNG}


def test_nothing_talks_any_more_when_a_run_is_over():
    """Python ends threads that are within torch's code by force when it exits, and these take the process with them (SIGABRT)."""
    within, may_end = threading.Event(), threading.Event()

    class Slow:
        def set(self, *_):
            within.set()
            may_end.wait(60)

        def check(self, _):
            return False

    dog = Watchdog(Slow(), 0, 1, timeout=8)
    dog.talker.start()
    assert within.wait(60)
    join = dog.talker.join
    dog.talker.join = lambda *limit: (may_end.set(), join(*limit))  # the exchange ends only when it is waited for
    dog.stop()
    assert may_end.is_set()
    assert not dog.talker.is_alive()
