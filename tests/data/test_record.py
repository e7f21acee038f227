"""Records: bytes out, the same molecule back."""

import zlib

import numpy as np
import pytest

from moleblend_fs.data.graph import bond_class
from moleblend_fs.data.record import HEADER, LARGE, ONE_HEADER, decode, encode, inflate, section_bounds, smiles_in, summary
from moleblend_fs.errors import UserError
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


@pytest.mark.parametrize("n", [1, 31, 300])
def test_records_that_are_not_stored_hold_the_same_and_are_packed_only_where_they_are_large(n):
    graph = random_graph(np.random.default_rng(n), n, 2, 1)
    stored, other = encode(graph, 5), encode(graph, 5, stored=False)
    raw = inflate(stored)
    assert inflate(other) == raw
    assert (other == stored) == (len(raw) >= LARGE) == (n == 300)
    assert (raw in other) == (n < 300), "as it is"


def test_the_smiles_of_a_record():
    graph = random_graph(np.random.default_rng(0), 9, 3, 2)
    for graph.smiles in ("", "C", "Cäx"):
        record = encode(graph, 2**40)
        assert smiles_in(record) == decode(record)[1].smiles == graph.smiles
        assert ONE_HEADER.pack(*np.frombuffer(inflate(record), HEADER, count=1)[0].tolist()) == inflate(record)[: HEADER.itemsize]
    for raw in (inflate(record)[:-1], inflate(record) + b"x", inflate(record)[:-1] + b"\xff"):
        with pytest.raises(UserError, match="damaged"):
            smiles_in(zlib.compress(raw))


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
