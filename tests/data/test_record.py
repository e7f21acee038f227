"""Records: bytes out, the same molecule back."""

import numpy as np
import pytest

from moleblend_fs.data.graph import bond_class
from moleblend_fs.data.record import HEADER, decode, encode, section_bounds, summary
from tests.data.random_graphs import random_graph


@pytest.mark.parametrize("n", [1, 2, 31, 300])
@pytest.mark.parametrize("conformers", [0, 1, 11])
@pytest.mark.parametrize("labels", [0, 617])
def test_round_trip(n, conformers, labels):
    graph = random_graph(np.random.default_rng(n), n, labels, conformers)
    if labels:
        graph.labels[0] = np.nan
    molecule_id, back = decode(encode(graph, 2**40 + n))
    assert molecule_id == 2**40 + n
    for name in ("atom_features", "bonds", "bond_classes", "spd", "path_bonds", "labels", "coordinates"):
        np.testing.assert_array_equal(getattr(back, name), getattr(graph, name), err_msg=name)
    assert back.smiles == graph.smiles
    np.testing.assert_array_equal(back.degree, graph.degree)
    atoms, count, values = summary(encode(graph, 0))
    assert (atoms, count) == (n, conformers)
    np.testing.assert_array_equal(values, graph.labels)


def test_section_bounds_of_many_headers():
    headers = np.zeros(2, HEADER)
    headers["num_atoms"], headers["num_bonds"] = (3, 500), (2, 499)
    headers["num_labels"], headers["num_conformers"], headers["smiles_bytes"] = 1, 2, 7
    lengths = np.diff(section_bounds(headers), axis=1)
    assert lengths[0].tolist() == [8, 72, 8, 2, 27, 3, 9, 45, 7]
    assert lengths[1].tolist() == [8, 12_000, 1996, 499, 4500, 500, 250_000, 1_250_000, 7]


def test_bond_classes_are_checked():
    with pytest.raises(ValueError, match="bond features"):
        bond_class(np.array([[5, 0, 0]]))
    assert bond_class(np.zeros((0, 3), dtype=int)).shape == (0,)
