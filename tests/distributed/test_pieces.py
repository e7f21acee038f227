"""Positions, tables of Adam's state, files and verdicts: the parts that need no processes."""

import errno
import os
import threading

import numpy as np
import pytest
import torch

from moleblend_fs.checkpoint import whole_files
from moleblend_fs.checkpoint.adam_state import AdamState, from_table, join_flat, split_flat, to_table
from moleblend_fs.errors import UserError
from moleblend_fs.runtime.epoch_position import batches_of_rank, pack, remaining, unpack
from moleblend_fs.runtime.molecules_seen import Recorder, read, seen_by_epoch
from moleblend_fs.runtime.watchdog import EXIT_HUNG, Watchdog

SHAPES = {"a": torch.Size([2, 3]), "b": torch.Size([4])}


def cut(order):
    return [order[i : i + 3] for i in range(0, len(order), 3)]


@pytest.mark.parametrize("molecules", [1, 8, 9, 1000])
def test_positions_survive_packing(molecules):
    seen = np.random.default_rng(0).random(molecules) < 0.5
    assert np.array_equal(unpack(pack(seen), molecules), seen)


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("update_batches", [1, 4, 5])
def test_updates_hold_the_same_batches_on_any_number_of_processes(processes, update_batches):
    batches = [np.array([i]) for i in range(11)]
    shares = [batches_of_rank(batches, update_batches, processes, rank) for rank in range(processes)]
    assert len({len(mine) for mine in shares}) == 1
    steps = -(-update_batches // processes)
    for start in range(0, len(shares[0]), steps):
        together = sorted(int(i) for mine in shares for batch in mine[start : start + steps] for i in batch)
        first = start // steps * update_batches
        assert together == list(range(first, min(first + update_batches, 11)))


def test_the_rest_of_an_epoch():
    batches = cut(np.array([5, 2, 7, 0, 1, 3, 6, 4]))
    seen = np.zeros(8, dtype=bool)
    seen[[5, 2, 7]] = True
    rest = remaining(batches, seen, cut)
    assert [batch.tolist() for batch in rest] == [[0, 1, 3], [6, 4]], "whole batches stay as they are"
    seen[0] = True
    assert [batch.tolist() for batch in remaining(batches, seen, cut)] == [[1, 3, 6], [4]], "a batch that was begun is cut anew"


def test_adams_state_by_name():
    moments = {key: {name: torch.rand(shape) for name, shape in SHAPES.items()} for key in ("exp_avg", "exp_avg_sq")}
    state = AdamState(step={"a": 7, "b": 7}, moments=moments, options={"lr": 0.1, "betas": (0.9, 0.99)})
    back = from_table(to_table(state, ["b", "a"]), SHAPES, "test")
    assert back.step == state.step
    assert back.options == state.options
    assert all(torch.equal(back.moments[key][name], moments[key][name]) for key in moments for name in SHAPES)
    with pytest.raises(UserError, match="other parameters"):
        from_table(to_table(state, ["b", "a"]), {"a": SHAPES["a"]}, "test")


def test_flat_state_is_split_and_joined():
    flat = {"step": 3, "exp_avg": torch.arange(10.0), "exp_avg_sq": torch.arange(10.0) + 1}
    table = split_flat(flat, list(SHAPES.values()))
    assert table[1]["exp_avg"].tolist() == [6, 7, 8, 9]
    joined = join_flat(table, list(SHAPES.values()))[0]
    assert joined["step"] == 3
    assert torch.equal(joined["exp_avg_sq"], flat["exp_avg_sq"])
    read_back = from_table({"state": {0: flat}, "param_groups": [{"lr": 1, "params": [0]}]}, SHAPES, "test")
    assert read_back.moments["exp_avg"]["a"].shape == (2, 3)


def test_a_file_that_could_not_be_finished_leaves_the_old_one(tmp_path):
    path = tmp_path / "checkpoint_last.pt"
    whole_files.save({"x": torch.ones(3)}, path)
    before = path.read_bytes()

    class Full:
        def __reduce__(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="the disk is full"):
        whole_files.save({"x": torch.ones(300_000), "y": Full()}, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_a_second_name_shows_the_new_content_at_once(tmp_path):
    old, new = tmp_path / "checkpoint_last.pt", tmp_path / "checkpoint_best.pt"
    whole_files.save({"x": torch.zeros(3)}, old)
    whole_files.save({"x": torch.ones(3)}, new)
    assert whole_files.copy(new, old)
    whole_files.save({"x": torch.full((3,), 2.0)}, new)
    assert torch.load(old, weights_only=True)["x"].tolist() == [1, 1, 1], "saving under one name leaves the other alone"


def test_the_ledger_counts_what_was_kept(tmp_path):
    def sample(*ids):
        return {"id": torch.tensor(ids)}

    for rank, molecules in enumerate(([1, 2], [3])):
        ledger = Recorder(str(tmp_path / "one"), rank)
        ledger.write(1, 1, [sample(*molecules)])
        ledger.write(2, 1, [sample(*(m + 10 for m in molecules)), {}])
    second = Recorder(str(tmp_path / "two"), 0)
    second.write(2, 1, [sample(13, 12)])
    second.write(3, 1, [sample(11)])
    with (next((tmp_path / "one").iterdir())).open("a") as file:
        file.write('{"update": 3, "epo')
    assert sorted(read(tmp_path / "one")[2][1]) == [11, 12, 13]
    assert seen_by_epoch([tmp_path / "one", tmp_path / "two"])[1] == {1: 1, 2: 1, 3: 1, 13: 1, 12: 1, 11: 1}


def test_the_rank_that_hangs_is_told_from_those_that_wait():
    store = torch.distributed.HashStore()
    ended, hung = [], threading.Event()
    dogs = [Watchdog(store, rank, 3, timeout=0.4, end=lambda code: (ended.append(code), hung.set())) for rank in range(3)]
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
    dogs[0].thread.start()
    assert hung.wait(60)
    dogs[0].stop()
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
