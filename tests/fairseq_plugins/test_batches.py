"""Every molecule of an epoch exactly once, however it is cut, spread, loaded and interrupted; counted by id."""

from collections import Counter

import numpy as np
import pytest
from fairseq.data import iterators

from fairseq_plugins.dataset import StoreDataset
from fairseq_plugins.pretraining_task import PretrainingConfig, PretrainingTask
from moleblend_fs.data.batching import BatchBudget, make_batches, training_order
from moleblend_fs.errors import UserError

LIMITS = {
    "molecules": {"max_sentences": 8},
    "tokens": {"max_tokens": 150},
    "pairs": {"max_pairs": 2000},
    "all three": {"max_sentences": 7, "max_tokens": 130, "max_pairs": 1500},
}


def task_of(store, max_pairs: int = 0) -> PretrainingTask:
    task = PretrainingTask(PretrainingConfig(data=str(store.path), train_subset="train", max_pairs=max_pairs))
    for split in ("train", "valid"):
        task.load_dataset(split)
    return task


_kept: list[iterators.EpochBatchIterator] = []
"""Loaders of this module. Left to the garbage collector in mid-epoch, each worker of theirs takes five seconds to end."""


def iterator_of(task, split="train", **options):
    made = task.get_batch_iterator(task.datasets[split], disable_iterator_cache=True, seed=1, **options)
    _kept.append(made)
    return made


def seen(samples) -> list[int]:
    return [int(i) for sample in samples if sample for i in sample["id"]]


def ids_of(store, split="train") -> list[int]:
    return sorted(store.source_row[store.split(split)].tolist())


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_on_one_process(qm9_store, limit, workers):
    options = dict(LIMITS[limit])
    task = task_of(qm9_store, options.pop("max_pairs", 0))
    epochs = iterator_of(task, num_workers=workers, **options)
    orders, members = [], []
    for _ in range(2):
        samples = list(epochs.next_epoch_itr(shuffle=True))
        assert sorted(seen(samples)) == ids_of(qm9_store)
        orders.append(seen(samples))
        members.append({frozenset(sample["id"].tolist()) for sample in samples})
        for sample in samples:
            sizes = sample["batch"].num_atoms
            assert len(sizes) <= LIMITS[limit].get("max_sentences", 1e9)
            assert int(sizes.sum()) + len(sizes) == sample["ntokens"] <= LIMITS[limit].get("max_tokens", 1e9)
            assert int((sizes**2).sum()) <= LIMITS[limit].get("max_pairs", 1e9)
    assert orders[0] != orders[1], "another order each epoch"
    assert len(members[0] & members[1]) < len(members[0]) / 2, "other molecules together each epoch"


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("update_freq", [1, 3])
def test_an_epoch_spread_over_processes_and_grouped(qm9_store, shards, update_freq):
    every, lengths = [], set()
    for shard in range(shards):
        epochs = iterator_of(task_of(qm9_store), max_sentences=8, num_shards=shards, shard_id=shard)
        groups = list(iterators.GroupedIterator(epochs.next_epoch_itr(shuffle=True), update_freq))
        lengths.add(len(groups))
        every += seen(sample for group in groups for sample in group)
    assert len(lengths) == 1, "as many updates on every process"
    assert Counter(every) == Counter(ids_of(qm9_store))


@pytest.mark.parametrize(("workers", "stop"), [(0, 1), (0, 5), (0, 14), (2, 5)])
def test_an_interrupted_epoch_goes_on_where_it_was(qm9_store, workers, stop):
    whole = seen(iterator_of(task_of(qm9_store), max_sentences=8).next_epoch_itr(shuffle=True))
    first = iterator_of(task_of(qm9_store), max_sentences=8, num_workers=workers)
    batches = first.next_epoch_itr(shuffle=True)
    before = seen(next(batches) for _ in range(stop))
    state = first.state_dict()
    second = iterator_of(task_of(qm9_store), max_sentences=8, num_workers=workers)
    second.load_state_dict(state)
    assert before + seen(second.next_epoch_itr(shuffle=True)) == whole


def test_a_curriculum_ends_and_a_run_resumed_after_it_has_the_same_order(qm9_store):
    """--curriculum 1: the first epoch is not shuffled, the second is, as in a run that begins there."""
    unbroken, plain = (iterator_of(task_of(qm9_store), max_sentences=8) for _ in range(2))
    for epochs in (unbroken, plain):
        list(epochs.next_epoch_itr(shuffle=False))
    state = unbroken.state_dict()
    second = seen(unbroken.next_epoch_itr(shuffle=True))
    resumed = iterator_of(task_of(qm9_store), max_sentences=8)
    resumed.load_state_dict(state)
    assert seen(resumed.next_epoch_itr(shuffle=True)) == second
    assert seen(plain.next_epoch_itr(shuffle=False)) != second


def test_validation_is_by_size_and_whole(qm9_store):
    for _ in range(2):
        samples = list(iterator_of(task_of(qm9_store), split="valid", max_sentences=4).next_epoch_itr(shuffle=False))
        assert sorted(seen(samples)) == ids_of(qm9_store, "valid")
        sizes = [int(n) for sample in samples for n in sample["batch"].num_atoms]
        assert sizes == sorted(sizes)


def test_batches_hold_molecules_of_similar_size(awkward_store):
    """With pools, a batch's sizes lie close together; without, they are as they come."""
    sizes = np.random.default_rng(0).integers(1, 100, 2000)
    everything = np.arange(2000)

    def spread(pool):
        order = training_order(everything, sizes, pool=pool, seed=3)
        assert sorted(order) == everything.tolist()
        return np.mean([np.ptp(sizes[b]) for b in make_batches(order, sizes[order], BatchBudget(molecules=10))])

    assert spread(320) < 10 < 60 < spread(0)


def test_a_molecule_over_the_budget_is_told_not_dropped(awkward_store):
    with pytest.raises(UserError, match=r"molecule \d+ of 218 atoms alone is over --max-tokens 100 \(it needs 219\); raise --max-tokens"):
        list(iterator_of(task_of(awkward_store), max_tokens=100).next_epoch_itr())
    with pytest.raises(UserError, match="--batch-size, --max-tokens or --max-pairs"):
        make_batches(np.arange(3), np.arange(3), BatchBudget())


def test_conformers_are_drawn_anew_each_epoch_with_workers(tmp_path, qm9_store):
    """The same molecule shows other conformers in other epochs, the first one in evaluation, and the same after a resume."""
    from moleblend_fs.data.encoded_molecule import EncodedMolecule
    from moleblend_fs.data.graph import LabelSpec
    from moleblend_fs.data.splits import Splitter
    from moleblend_fs.data.store import Store
    from moleblend_fs.data.writer import StoreWriter
    from tests.model.molecules import graph

    results = []
    for row in range(12):
        made = graph("CCO", row, labels=[0.0])
        made.coordinates = np.repeat(np.arange(5, dtype=np.float32), 9).reshape(5, 3, 3)  # conformer k: all coordinates k
        made.split = "train" if row < 8 else "valid"
        results.append((row, EncodedMolecule.from_graph(made, row)))
    with StoreWriter(tmp_path / "s", {}) as writer:
        writer.add(results, 12)
        label = LabelSpec(name="y", unit="", kind="regression")
        writer.finish(source="t", options={}, inputs={}, labels=(label,), splitter=Splitter(kind="prescribed"), versions={})
    task = task_of(Store(tmp_path / "s"))

    def drawn(workers: int) -> list[dict[int, int]]:
        epochs = iterator_of(task_of(Store(tmp_path / "s")), max_sentences=3, num_workers=workers)
        result = []
        for _ in range(4):
            shown = {}
            for sample in epochs.next_epoch_itr(shuffle=True):
                firsts = sample["batch"].coordinates.view(-1, 9)[:, 0]
                shown |= dict(zip(sample["id"].tolist(), firsts.int().tolist(), strict=True))
            result.append(shown)
        return result

    plain = drawn(0)
    assert drawn(2) == plain
    assert all(len({epoch[molecule] for epoch in plain}) > 1 for molecule in (0, 1, 2))
    assert len(set(plain[0].values())) > 2
    for sample in iterator_of(task, split="valid", max_sentences=3).next_epoch_itr(shuffle=False, set_dataset_epoch=False):
        assert not sample["batch"].coordinates.any()


def test_label_columns_are_those_asked_for_in_their_order(qm9_store):
    indices = qm9_store.split("train")[:5]
    batch = StoreDataset(qm9_store, indices, [3, 1])
    sample = batch.collater([batch[i] for i in range(5)])
    assert np.array_equal(sample["batch"].labels.numpy(), qm9_store.labels(indices)[:, [3, 1]])
