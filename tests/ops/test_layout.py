"""Index arrays of a packed batch, counted by hand and by loops."""

import itertools

import numpy as np
import pytest
import torch

from moleblend_fs.ops.layout import BUCKET_STEP, ROUND, Layout


def test_a_batch_by_hand():
    layout = Layout(torch.tensor([2, 1]), "cpu")
    assert (layout.num_molecules, layout.num_total_atoms, layout.num_pairs, layout.num_tokens) == (2, 3, 5, 5)
    assert layout.atom_tokens.tolist() == [1, 2, 4]
    assert layout.graph_tokens.tolist() == [0, 3]
    assert layout.token_molecule.tolist() == [0, 0, 0, 1, 1]
    assert layout.atom_number.tolist() == [0, 1, 0]
    assert list(zip(layout.pair_row.tolist(), layout.pair_column.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2)]
    assert layout.pair_molecule.tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("sizes", [[1], [3, 4, 3, 250, 1, 1, 17], list(range(1, 40))])
@pytest.mark.parametrize("merged", [False, True])
def test_buckets_hold_every_place_once(sizes, merged):
    layout = Layout(torch.tensor(sizes), "cpu", merged=merged)
    tokens = torch.cat([b.token_targets for b in layout.buckets])
    pairs = torch.cat([b.pairs.reshape(-1)[b.pair_places] for b in layout.buckets])
    assert sorted(tokens.tolist()) == list(range(layout.num_tokens))
    assert pairs[layout.pair_order].tolist() == list(range(layout.num_pairs))
    atoms = torch.cat([b.atoms.reshape(-1)[b.atom_places] for b in layout.buckets])
    assert atoms[layout.atom_order].tolist() == list(range(layout.num_total_atoms))
    seen = 0
    for bucket in layout.buckets:
        assert torch.equal(bucket.tokens.reshape(-1)[bucket.token_places], bucket.token_targets)
        for row, exists in zip(bucket.tokens, bucket.token_exists, strict=True):
            molecule = int(layout.token_molecule[row[0]])
            assert row[exists].tolist() == list(range(*layout.token_starts[molecule : molecule + 2]))
            assert merged or len(row) - sizes[molecule] - 1 < 4, "padding beyond the step"
            seen += 1
    assert seen == len(sizes)


@pytest.mark.parametrize("sizes", [[], [3, 0]])
def test_empty_batches_and_molecules_are_refused(sizes):
    with pytest.raises(ValueError, match="at least one"):
        Layout(torch.from_numpy(np.array(sizes, dtype=np.int64)), "cpu")


def test_size_classes_hold_every_molecule_once_in_the_smallest_that_fits():
    sizes = [1, 15, 16, 31, 32, 63, 64, 300, 2, 511]
    layout = Layout(torch.tensor(sizes), "cpu")
    classes = {c.capacity: [sizes[m] for m in c.molecules.tolist()] for c in layout.size_classes}
    assert classes == {16: [15, 2, 1], 32: [31, 16], 64: [63, 32], 128: [64], 512: [511, 300]}
    for starts, per_molecule in ((layout.cu_atoms, lambda n: n), (layout.cu_tokens, lambda n: n + 1), (layout.cu_pairs, lambda n: n * n)):
        assert starts.tolist() == [sum(per_molecule(n) for n in sizes[:b]) for b in range(len(sizes) + 1)]


def cost(sizes, cuts):
    """Padded pairs of molecules by ascending size, cut into buckets, and the rounds for these."""
    return sum(ROUND + len(part) * (-(-(part[-1] + 1) // BUCKET_STEP) * BUCKET_STEP) ** 2 for part in np.split(sizes, cuts))


@pytest.mark.parametrize("seed", range(5))
def test_merged_buckets_take_the_least(seed):
    sizes = np.sort(np.random.default_rng(seed).integers(1, 40, 9))
    buckets = Layout(torch.from_numpy(sizes), "cpu", merged=True).buckets
    found = sum(ROUND + bucket.tokens.shape[0] * bucket.tokens.shape[1] ** 2 for bucket in buckets)
    least = min(cost(sizes, cuts) for count in range(len(sizes)) for cuts in itertools.combinations(range(1, len(sizes)), count))
    assert found == least < cost(sizes, [])


def test_many_molecules_of_a_size_stay_by_themselves():
    """What is merged is small: a large batch has the padding that it had."""
    sizes = torch.tensor([*[11] * 500, *[15] * 500, 50, 54])
    assert [len(bucket.tokens) for bucket in Layout(sizes, "cpu", merged=True).buckets] == [500, 500, 2]
    assert [len(bucket.tokens) for bucket in Layout(sizes, "cpu").buckets] == [500, 500, 1, 1]
