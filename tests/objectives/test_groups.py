"""Groups of molecules that are each other's negatives: whole in every batch, and the same partners however batches are cut."""

import dataclasses

import numpy as np
import pytest
import torch

from moleblend_fs.data.batch import GROUP
from moleblend_fs.data.batching import BatchBudget, make_batches
from moleblend_fs.errors import UserError
from moleblend_fs.objectives.common.groups import GroupOptions, group_sizes, next_in_group
from tests.model.molecules import batch_of, graph


def batch(ids, group):
    made = batch_of([graph("CC", i, coordinates=False) for i in range(len(ids))], ids)
    made.extra[GROUP] = torch.tensor(group)
    return made


def partners(ids, group, **draw):
    """Molecule -> its negative, by their ids."""
    partner, other = next_in_group(batch(ids, group), seed=draw.get("seed", 1), epoch=draw.get("epoch", 1), shift=draw.get("shift", 1))
    return {ids[i]: ids[int(p)] if other[i] else None for i, p in enumerate(partner)}


def test_partners_stay_in_the_group_and_form_a_circle():
    found = partners([3, 1, 4, 15, 9, 2, 6], [0, 0, 0, 0, 1, 1, 2])
    assert found[6] is None  # alone
    assert {found[9], found[2]} == {9, 2}
    assert found[9] == 2
    assert sorted(found[i] for i in (3, 1, 4, 15)) == [1, 3, 4, 15]
    walk, at = [], 3
    for _ in range(4):
        walk.append(at)
        at = found[at]
    assert at == 3
    assert sorted(walk) == [1, 3, 4, 15]
    twice = partners([3, 1, 4, 15, 9, 2, 6], [0, 0, 0, 0, 1, 1, 2], shift=2)
    assert twice[3] == found[found[3]]
    assert twice[9] is None  # two on in a circle of two is itself


def test_partners_do_not_depend_on_order_or_batch_but_on_seed_and_epoch():
    ids, group = list(range(20)), [0] * 12 + [1] * 8
    found = partners(ids, group)
    order = np.random.default_rng(0).permutation(20)
    assert partners([ids[i] for i in order], [group[i] for i in order]) == found
    assert partners(ids[12:], [0] * 8) == {i: found[i] for i in ids[12:]}
    assert partners(ids, group, epoch=2) != found
    assert partners(ids, group, seed=2) != found


def test_sizes():
    assert group_sizes(torch.tensor([0, 1, 1, 2, 1])).tolist() == [1, 3, 3, 1, 3]


def test_batches_hold_whole_groups():
    random = np.random.default_rng(1)
    order, atoms = random.permutation(103), random.integers(1, 30, size=103)
    budget = BatchBudget(molecules=40, tokens=500, pairs=9000)
    batches = make_batches(order, atoms[order], budget, group=8)
    assert np.array_equal(np.concatenate(batches), order)
    assert all(len(b) % 8 == 0 for b in batches[:-1])
    assert len({len(b) for b in batches}) > 1
    for number, some in enumerate(batches):
        costs = np.array([len(some), (atoms[some] + 1).sum(), (atoms[some] ** 2).sum()])
        assert (costs <= [40, 500, 9000]).all()
        if number + 1 < len(batches):  # one group more would have been too much
            more = batches[number + 1][:8]
            with_more = costs + np.array([len(more), (atoms[more] + 1).sum(), (atoms[more] ** 2).sum()])
            assert (with_more > [40, 500, 9000]).any()


def test_the_default_is_what_surely_fits():
    atoms = np.array([3, 9, 5])
    assert BatchBudget(molecules=1000).group(0, atoms) == 256
    assert BatchBudget(molecules=32).group(0, atoms) == 32
    assert BatchBudget(tokens=105).group(0, atoms) == 10
    assert BatchBudget(molecules=32, pairs=500).group(0, atoms) == 6
    assert BatchBudget(molecules=32).group(16, atoms) == 16
    assert BatchBudget(tokens=4).group(0, np.ones(9, dtype=int)) == 2


def test_what_cannot_be_is_told():
    with pytest.raises(UserError, match=r"--negatives-group 64 is more than a batch holds .--batch-size 32"):
        BatchBudget(molecules=32).group(64, np.array([3]))
    with pytest.raises(UserError, match="two of 9 atoms may not fit"):
        BatchBudget(tokens=15).group(0, np.array([9]))
    with pytest.raises(UserError, match=r"a group of 4 molecules .* over --max-tokens 20 .it needs 40.*--negatives-group"):
        make_batches(np.arange(8), np.full(8, 9), BatchBudget(tokens=20), group=4)
    with pytest.raises(UserError, match="--negatives-group must be at least 2"):
        GroupOptions(negatives_group=1)
    assert dataclasses.asdict(GroupOptions()) == {"negatives_group": 0}
