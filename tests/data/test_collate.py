"""Packed batches against decoding molecule by molecule."""

import numpy as np
import pytest
import torch

from moleblend_fs.data.batch import collate
from moleblend_fs.data.record import decode, encode
from tests.data.random_graphs import random_graph


def records(sizes, labels=3, conformers=(1,)):
    rng = np.random.default_rng(1)
    graphs = [random_graph(rng, n, labels, conformers[i % len(conformers)]) for i, n in enumerate(sizes)]
    for graph in graphs[::2]:
        graph.labels[:1] = np.nan
    return [encode(graph, 1000 + i) for i, graph in enumerate(graphs)]


@pytest.mark.parametrize("labels", [0, 1, 12])
@pytest.mark.parametrize("sizes", [[1], [1, 1, 1], [5, 1, 300, 2, 31], list(range(1, 40))])
@pytest.mark.parametrize("conformers", [(0,), (1,), (0, 1, 3)])
def test_batch_is_the_molecules_end_to_end(sizes, labels, conformers):
    made = records(sizes, labels, conformers)
    batch = collate(made)
    graphs = [decode(record)[1] for record in made]
    assert len(batch) == len(sizes)
    assert batch.num_atoms.tolist() == sizes
    assert batch.molecule_id.tolist() == [1000 + i for i in range(len(sizes))]
    np.testing.assert_array_equal(batch.atom_features, np.concatenate([g.atom_features for g in graphs]))
    np.testing.assert_array_equal(batch.degree, np.concatenate([g.degree for g in graphs]))
    np.testing.assert_array_equal(batch.spd, np.concatenate([g.spd.reshape(-1) for g in graphs]))
    np.testing.assert_array_equal(batch.path_bonds, np.concatenate([g.path_bonds.reshape(-1, 5) for g in graphs]))
    coordinates = [np.zeros((g.num_atoms, 3)) if g.coordinates is None else g.coordinates[0] for g in graphs]
    np.testing.assert_array_equal(batch.coordinates, np.concatenate(coordinates))
    assert batch.has_coordinates.tolist() == [g.coordinates is not None for g in graphs]
    wanted = np.stack([g.labels for g in graphs])
    np.testing.assert_array_equal(batch.has_label, ~np.isnan(wanted))
    np.testing.assert_array_equal(batch.labels, np.nan_to_num(wanted))
    assert batch.labels.shape == (len(sizes), labels)
    kinds = {name: getattr(batch, name).dtype for name in ("num_atoms", "atom_features", "coordinates", "spd", "labels", "has_label")}
    assert list(kinds.values()) == [torch.int64, torch.uint8, torch.float32, torch.uint8, torch.float64, torch.bool]


def test_conformer_draws():
    """Draw 0 is the first conformer; others depend on the draw and the molecule alone, and use all conformers evenly."""
    made = records([2] * 600, conformers=(4,))
    conformers = np.stack([decode(record)[1].coordinates for record in made])  # (600, 4, 2, 3)

    def drawn(draw, subset=slice(None)):
        found = collate(made[subset], conformer_draw=draw).coordinates.view(-1, 1, 2, 3).numpy()
        return (conformers[subset] == found).all(axis=(2, 3)).argmax(axis=1)

    assert not drawn(0).any()
    assert drawn(7).tolist() == [*drawn(7, slice(0, 100)), *drawn(7, slice(100, 600))]
    assert (drawn(7) != drawn(8)).mean() > 0.5
    # 150 expected of each; 5 standard deviations are 53.
    assert all(abs(count - 150) < 53 for count in np.bincount(drawn(7), minlength=4))


def test_batch_moves_as_a_whole():
    batch = collate(records([3, 4]))
    moved = batch.to("cpu")
    assert torch.equal(moved.spd, batch.spd)
    assert moved.num_atoms.device.type == "cpu"


def test_several_conformers_of_each_molecule():
    """The drawn one and those that follow it, none twice; molecules that have fewer say so, and their places are 0."""
    graphs = [random_graph(np.random.default_rng(i), 4 + i, conformers=c) for i, c in enumerate((4, 1, 0, 2))]
    records = [encode(g, i) for i, g in enumerate(graphs)]
    for draw in (0, 1, 5):
        one, several = collate(records, draw), collate(records, draw, conformers=3)
        assert several.extra["num_structures"].tolist() == [3, 1, 0, 2]
        assert torch.equal(several.coordinates, one.coordinates)
        assert torch.equal(several.extra["structures"][:, 0], one.coordinates)
        for g, found in zip(graphs, several.extra["structures"].split(several.num_atoms.tolist()), strict=True):
            there = [] if g.coordinates is None else [c.tobytes() for c in g.coordinates]
            names = [there.index(found[:, i].contiguous().numpy().tobytes()) for i in range(min(3, len(there)))]
            assert names == [(names[0] + i) % len(there) for i in range(len(names))]
            assert not found[:, len(names) :].any()
        assert not one.extra
    again = type(several).from_arrays(several.to_arrays())
    assert torch.equal(again.extra["structures"], several.extra["structures"])
