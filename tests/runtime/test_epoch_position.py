"""Where in an epoch a run is, whatever the number of processes."""

import numpy as np
import pytest

from moleblend_fs.runtime.epoch_position import batches_of_rank, pack, remaining, unpack


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
