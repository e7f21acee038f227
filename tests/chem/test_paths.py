"""Shortest paths against the rule of the published weights, written out in plain Python."""

import resource
import threading
from itertools import pairwise

import numpy as np
import pytest

from moleblend_fs.chem.paths import shortest_paths
from moleblend_fs.data.graph import bond_class

FAR = 10**9


def oracle(n: int, bonds: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Floyd-Warshall, k outermost, strictly shorter replaces, the last k remembered, unfolded recursively."""
    distance = [[0 if i == j else FAR for j in range(n)] for i in range(n)]
    via = [[-1] * n for _ in range(n)]
    bond = {}
    for (a, b), c in zip(bonds.tolist(), classes.tolist(), strict=True):
        distance[a][b] = distance[b][a] = 1
        bond[a, b] = bond[b, a] = c
    for k in range(n):
        for i in range(n):
            for j in range(n):
                if distance[i][k] + distance[k][j] < distance[i][j]:
                    distance[i][j] = distance[i][k] + distance[k][j]
                    via[i][j] = k

    def atoms_between(i: int, j: int) -> list[int]:
        k = via[i][j]
        return [] if k < 0 else [*atoms_between(i, k), k, *atoms_between(k, j)]

    spd = np.full((n, n), 255, dtype=np.uint8)
    hops = np.zeros((n, n, 5), dtype=np.uint8)
    for i in range(n):
        for j in range(n):
            if distance[i][j] < FAR:
                spd[i, j] = min(distance[i][j], 254)
                atoms = [i, *atoms_between(i, j), j] if i != j else []
                for h, pair in enumerate(list(pairwise(atoms))[:5]):
                    hops[i, j, h] = bond[pair]
    return spd, hops


def random_graph(rng: np.random.Generator, n: int, extra: int, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """A forest of `parts` trees with extra bonds that close rings, atoms shuffled."""
    label = rng.permutation(n)
    bonds = {tuple(sorted((int(label[i]), int(label[rng.integers(max(0, i - 4), i)])))) for i in range(1, n) if i % max(1, n // parts)}
    for _ in range(extra if n > 1 else 0):
        a, b = rng.choice(n, 2, replace=False)
        bonds.add(tuple(sorted((int(a), int(b)))))
    ordered = np.array(sorted(bonds, key=lambda _: rng.random()), dtype=np.uint16).reshape(-1, 2)
    return ordered, rng.integers(1, 61, len(ordered)).astype(np.uint8)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13, 21, 34, 55])
def test_random_graphs_follow_the_rule(n):
    rng = np.random.default_rng(n)
    for trial in range(6):
        bonds, classes = random_graph(rng, n, extra=trial * n // 6, parts=1 + trial % 3)
        spd, hops = shortest_paths(n, bonds, classes)
        expected_spd, expected_hops = oracle(n, bonds, classes)
        np.testing.assert_array_equal(spd, expected_spd)
        np.testing.assert_array_equal(hops, expected_hops)


def test_a_large_sheet_of_rings_follows_the_rule():
    """A shuffled grid of 25 x 25 atoms, where nearly every pair has many shortest paths, against the rule with NumPy's rows."""
    side = 25
    n = side * side
    rng = np.random.default_rng(11)
    place = rng.permutation(n).reshape(side, side)
    ends = [(place[:, :-1], place[:, 1:]), (place[:-1], place[1:])]
    bonds = np.concatenate([np.stack([a.ravel(), b.ravel()], axis=1) for a, b in ends]).astype(np.uint16)
    classes = rng.integers(1, 61, len(bonds)).astype(np.uint8)
    distance = np.full((n, n), FAR)
    np.fill_diagonal(distance, 0)
    distance[bonds[:, 0], bonds[:, 1]] = distance[bonds[:, 1], bonds[:, 0]] = 1
    via = np.full((n, n), -1)
    for k in range(n):
        through = distance[:, k, None] + distance[k]
        shorter = through < distance
        distance[shorter], via[shorter] = through[shorter], k
    of_bond = {pair: c for (a, b), c in zip(bonds.tolist(), classes.tolist(), strict=True) for pair in ((a, b), (b, a))}

    def atoms_between(i: int, j: int) -> list[int]:
        k = int(via[i, j])
        return [] if k < 0 else [*atoms_between(i, k), k, *atoms_between(k, j)]

    spd, hops = shortest_paths(n, bonds, classes)
    np.testing.assert_array_equal(spd, distance)
    for i, j in rng.integers(0, n, (3000, 2)).tolist():
        atoms = [i, *atoms_between(i, j), j] if i != j else []
        wanted = [of_bond[pair] for pair in list(pairwise(atoms))[:5]]
        assert hops[i, j].tolist() == wanted + [0] * (5 - len(wanted))


def test_the_rule_is_not_any_shortest_path():
    """The ties matter: breaking them by another order of k gives other bonds on graphs like those above."""
    rng = np.random.default_rng(0)
    differing = 0
    for _ in range(10):
        bonds, classes = random_graph(rng, 20, extra=10, parts=1)
        _, hops = shortest_paths(20, bonds, classes)
        flipped_spd_hops = shortest_paths(20, (19 - bonds).astype(np.uint16), classes)[1][::-1, ::-1]
        differing += not np.array_equal(hops, flipped_spd_hops)
    assert differing == 10


@pytest.mark.parametrize("name", ["pretrain", "finetune_2d", "finetune_2d3d"])
def test_golden_paths(shared, name):
    golden = np.load(shared / "golden" / f"{name}.npz")
    for m in range(int(golden["n_molecules"])):
        ends, features, spd = (golden[f"m{m}/{key}"] for key in ("edge_index", "edge_features", "spd"))
        # Each bond stands there twice, once in each direction.
        ours, hops = shortest_paths(len(spd), ends[:, ::2].T.astype(np.uint16), bond_class(features[::2]))
        np.testing.assert_array_equal(ours, np.where(spd == 510, 255, spd))
        if f"m{m}/path_bonds" in golden:
            wanted = golden[f"m{m}/path_bonds"]
            np.testing.assert_array_equal(hops, np.where(wanted[..., 0] < 0, 0, bond_class(np.maximum(wanted, 0))))


def test_long_chain_is_clamped():
    n = 300
    bonds = np.stack([np.arange(n - 1), np.arange(1, n)], axis=1).astype(np.uint16)
    classes = (1 + np.arange(n - 1) % 60).astype(np.uint8)
    spd, hops = shortest_paths(n, bonds, classes)
    distance = np.abs(np.arange(n)[:, None] - np.arange(n))
    np.testing.assert_array_equal(spd, np.minimum(distance, 254))
    np.testing.assert_array_equal(hops[0, 299], classes[:5])
    np.testing.assert_array_equal(hops[299, 0], classes[::-1][:5])


def test_atoms_without_bonds():
    spd, hops = shortest_paths(2, np.zeros((0, 2), np.uint16), np.zeros(0, np.uint8))
    np.testing.assert_array_equal(spd, [[0, 255], [255, 0]])
    assert not hops.any()
    assert shortest_paths(0, np.zeros((0, 2), np.uint16), np.zeros(0, np.uint8))[0].shape == (0, 0)


@pytest.mark.parametrize(
    ("n", "bonds", "classes"),
    [(2, [[0, 2]], [1]), (2, [[1, 1]], [1]), (2, [[0, 1]], [1, 1]), (16_384, [[0, 1]], [1]), (-1, [], [])],
)
def test_bad_graphs_are_refused(n, bonds, classes):
    with pytest.raises(ValueError, match=r"atoms|bond"):
        shortest_paths(n, np.array(bonds, dtype=np.uint16).reshape(-1, 2), np.array(classes, dtype=np.uint8))


def test_threads_agree_and_nothing_leaks():
    """Calls from four threads at once (the extension drops the interpreter lock); 400 calls of 3 MB each leave no memory behind."""
    rng = np.random.default_rng(5)
    bonds, classes = random_graph(rng, 400, extra=60, parts=1)
    expected = shortest_paths(400, bonds, classes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wrong = []

    def work() -> None:
        for _ in range(25):
            spd, hops = shortest_paths(400, bonds, classes)
            if not (np.array_equal(spd, expected[0]) and np.array_equal(hops, expected[1])):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    # Leaking one result a call would take 96 MB; the four in flight take about 10.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 48 * 1024
