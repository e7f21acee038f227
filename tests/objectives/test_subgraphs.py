"""Paths that use atoms or bonds, bonds drawn, and molecules that atoms were taken from: by loops, and by what the model then sees."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from moleblend_fs.data.graph import MAX_SPD, UNREACHABLE
from moleblend_fs.model.shown import show_all
from moleblend_fs.objectives.common.subgraphs import bonds_in, bonds_of, draw_around, draw_bonds, paths_over, paths_through, select_atoms
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import SHOW_EDGE, SHOW_SPD
from tests.model.molecules import AWKWARD, ORDINARY, batch_of, graph, mixed_batch
from tests.objectives.suite import made, model_of

BATCH = mixed_batch()
LAYOUT = Layout(BATCH.num_atoms, "cpu")
HALF = torch.rand(LAYOUT.num_total_atoms, generator=torch.Generator().manual_seed(0)) < 0.5


def matrices(batch, layout):
    """(first atom, first pair, spd) of each molecule."""
    for b, n in enumerate(batch.num_atoms.tolist()):
        start = int(layout.cu_pairs[b])
        yield int(layout.cu_atoms[b]), start, batch.spd[start : start + n * n].view(n, n).long().numpy()


def by_loops(meets):
    """(P,) bool of a function of (first atom, spd, i, j)."""
    return [meets(first, spd, i, j) for first, _, spd in matrices(BATCH, LAYOUT) for i in range(len(spd)) for j in range(len(spd))]


def test_paths_through_atoms():
    def meets(first, spd, i, j):
        return spd[i, j] != UNREACHABLE and any(HALF[first + k] and spd[i, k] + spd[k, j] == spd[i, j] for k in range(len(spd)))

    expected = by_loops(meets)
    assert paths_through(BATCH, LAYOUT, HALF).tolist() == expected
    assert 0.2 < np.mean(expected) < 0.9


def test_every_bond_is_there_once():
    bonds = bonds_of(BATCH, LAYOUT)
    graphs = [graph(s, seed) for seed, s in enumerate((*ORDINARY, *AWKWARD))]
    assert bonds_in(bonds, LAYOUT).tolist() == [len(g.bonds) for g in graphs]
    ends = {(int(LAYOUT.pair_row[b]), int(LAYOUT.pair_column[b])) for b in bonds}
    first = LAYOUT.cu_atoms.tolist()
    assert ends == {tuple(sorted((first[m] + int(u), first[m] + int(v)))) for m, g in enumerate(graphs) for u, v in g.bonds}


def test_paths_over_bonds():
    bonds = bonds_of(BATCH, LAYOUT)[::3]
    pairs = set(zip(LAYOUT.pair_row[bonds].tolist(), LAYOUT.pair_column[bonds].tolist(), strict=True))

    def meets(first, spd, i, j):
        return spd[i, j] != UNREACHABLE and any(
            (first + u, first + v) in pairs and spd[i, j] in (spd[i, u] + 1 + spd[v, j], spd[i, v] + 1 + spd[u, j])
            for u, v in itertools.combinations(range(len(spd)), 2)
        )

    expected = by_loops(meets)
    assert paths_over(BATCH, LAYOUT, bonds).tolist() == expected
    assert 0.2 < np.mean(expected) < 0.9
    assert not paths_over(BATCH, LAYOUT, bonds[:0]).any()


def test_paths_that_are_longer_than_what_is_stored():
    """Of a chain of 300 atoms all pairs more than 254 bonds apart have the same length; those that may use an atom count as using it."""
    batch = batch_of([graph("C" * 300, coordinates=False)])
    layout = Layout(batch.num_atoms, "cpu")
    middle = torch.zeros(300, dtype=torch.bool)
    middle[150] = True
    through = paths_through(batch, layout, middle).view(300, 300)
    assert int(batch.spd.max()) == MAX_SPD
    assert through[0, 299]
    assert through[100, 200]
    assert not through[0, 149]
    bond = ((layout.pair_row == 150) & (layout.pair_column == 151)).nonzero().squeeze(1)
    over = paths_over(batch, layout, bond).view(300, 300)
    assert over[299, 0]
    assert not over[0, 150]


def test_bonds_are_drawn_alike():
    """Two of a ring's six, each with probability 1/3: within five standard deviations; all where there are no more."""
    batch = batch_of([graph("c1ccccc1", i) for i in range(1500)] + [graph("CC")])
    layout = Layout(batch.num_atoms, "cpu")
    bonds = bonds_of(batch, layout)
    drawn = draw_bonds(batch, layout, bonds, torch.full_like(layout.cu_atoms[1:], 2), stream=1, seed=1, epoch=1)
    assert drawn[-1]
    often = drawn[:-1].view(1500, 6)
    assert (often.sum(dim=1) == 2).all()
    assert ((often.sum(dim=0) - 500).abs() < 5 * (500 * 2 / 3) ** 0.5).all()
    again = draw_bonds(batch, layout, bonds, torch.full_like(layout.cu_atoms[1:], 2), stream=1, seed=1, epoch=2)
    assert not torch.equal(drawn, again)


def test_bonds_are_drawn_where_molecules_are_more_than_bonds():
    batch = batch_of([graph(smiles, i) for i, smiles in enumerate(("C", "[Na+].[Cl-]", "C", "CO", "C", "CCO"))])
    layout = Layout(batch.num_atoms, "cpu")
    bonds = bonds_of(batch, layout)
    one_each = draw_bonds(batch, layout, bonds, torch.ones_like(layout.cu_atoms[1:]), stream=1, seed=1, epoch=1)
    assert one_each[0]
    assert int(one_each[1:].sum()) == 1
    none = draw_bonds(batch, layout, bonds[:0], torch.ones_like(layout.cu_atoms[1:]), stream=1, seed=1, epoch=1)
    assert none.tolist() == []


def test_atoms_around_one():
    """The nearest ones first, each atom the first one alike; another place, another first atom; never beyond a part or a distance."""
    batch = batch_of([graph("C" * 9, i) for i in range(300)] + [graph("CCCCC.[Na+]"), graph("C")])
    layout = Layout(batch.num_atoms, "cpu")

    def around(count, **how):
        chosen = draw_around(batch, layout, torch.full_like(layout.cu_atoms[1:], count), stream=1, seed=1, epoch=1, **how)
        return [layout.atom_number[chosen & (layout.atom_molecule == m)].tolist() for m in range(len(batch))]

    first, other, four = around(1), around(1, place=1), around(4)
    assert all(a != b for a, b in zip(first[:-1], other[:-1], strict=True))
    assert first[-1] == other[-1] == [0]
    often = torch.bincount(torch.tensor(first[:300]).view(-1))
    assert ((often - 300 / 9).abs() < 5 * (300 / 9) ** 0.5).all()
    for (start,), atoms in zip(first[:300], four[:300], strict=True):
        distances = sorted(abs(a - start) for a in range(9))
        assert sorted(abs(a - start) for a in atoms) == distances[:4]
    assert four[300] == [5] or (len(four[300]) == 4 and 5 not in four[300])
    assert all(max(abs(a - start) for a in atoms) <= 1 for (start,), atoms in zip(first[:300], around(9, within=1)[:300], strict=True))
    assert not any(around(0))


def first_kept():
    """About half of the atoms, and the first of every molecule."""
    return HALF.index_fill(0, LAYOUT.cu_atoms[:-1], True)


def test_what_is_left_of_molecules():
    keep = first_kept()
    sub = select_atoms(BATCH, LAYOUT, keep)
    for name in ("atom_features", "degree", "coordinates"):
        assert torch.equal(getattr(sub.batch, name), getattr(BATCH, name)[keep]), name
    place = 0
    gone = paths_through(BATCH, LAYOUT, ~keep)
    for b, (first, start, spd) in enumerate(matrices(BATCH, LAYOUT)):
        own = [i for i in range(len(spd)) if keep[first + i]]
        assert sub.batch.num_atoms[b] == len(own)
        for i, j in itertools.product(own, own):
            assert sub.batch.spd[place] == spd[i, j]
            assert torch.equal(sub.batch.path_bonds[place], BATCH.path_bonds[start + i * len(spd) + j])
            assert sub.cut[place] == gone[start + i * len(spd) + j]
            place += 1
    assert place == len(sub.batch.spd) == sub.layout.num_pairs
    assert sub.batch.molecule_id is BATCH.molecule_id


def test_what_was_taken_away_has_no_path():
    """Another atom there, with other bonds and other paths through it, gives the same tokens; and nothing else of a view is lost."""
    model = model_of(made("distance", "")).eval()
    keep = first_kept()
    through = paths_through(BATCH, LAYOUT, ~keep)
    other = dataclasses.replace(
        BATCH,
        atom_features=torch.where(keep.unsqueeze(1), BATCH.atom_features, (BATCH.atom_features + 1) % 3),
        path_bonds=torch.where(through.unsqueeze(1), (BATCH.path_bonds + 12) % 61, BATCH.path_bonds),
        coordinates=torch.where(keep.unsqueeze(1), BATCH.coordinates, BATCH.coordinates + 5),
    )
    for modality in ("2d", "2d+3d"):
        tokens = []
        for batch in (BATCH, other):
            sub = select_atoms(batch, LAYOUT, keep)
            with torch.no_grad():
                tokens.append(model.encode(sub.batch, sub.show(show_all(batch, LAYOUT, modality)), sub.layout)[0])
        assert torch.equal(*tokens), modality


@pytest.mark.parametrize("modality", ["2d", "2d+3d"])
def test_nothing_taken_away_is_the_whole(modality):
    model = model_of(made("distance", "")).eval()
    sub, view = select_atoms(BATCH, LAYOUT, torch.ones_like(HALF)), show_all(BATCH, LAYOUT, modality)
    hidden = dataclasses.replace(view, hidden=HALF)
    with torch.no_grad():
        for shown in (view, hidden):
            whole, part = model.encode(BATCH, shown, LAYOUT)[0], model.encode(sub.batch, sub.show(shown), sub.layout)[0]
            assert torch.equal(whole, part)
    assert not sub.cut.any()


def test_cut_pairs_show_no_path():
    sub = select_atoms(BATCH, LAYOUT, first_kept())
    shown = sub.show(show_all(BATCH, LAYOUT, "2d+3d")).relations
    paths = SHOW_SPD | SHOW_EDGE
    assert ((shown & paths) == torch.where(sub.cut, 0, paths)).all()
    assert torch.equal(shown & ~paths & 0xFF, show_all(BATCH, LAYOUT, "2d+3d").relations[sub.pairs] & ~paths & 0xFF)
