"""UnifiedMol: closed values, laying structures onto each other, equivalent atoms, what each view shows, losses by loops."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from moleblend_fs.chem.automorphisms import MOST, automorphisms
from moleblend_fs.data.graph import UNREACHABLE
from moleblend_fs.errors import UserError
from moleblend_fs.objectives.common.alignment import errors_of
from moleblend_fs.objectives.unified_mol import SIDECAR, VALUES, UnifiedMol, UnifiedMolOptions, best_orders, distance_errors, orders_of
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import SHOW_DISTANCE, SHOW_EDGE, SHOW_SPD
from tests.model.molecules import AWKWARD, ORDINARY, batch_of, graph
from tests.objectives.suite import Case, mean_losses, model_of, sums_and_counts


def automorphisms_in(batch):
    """(k, n) of each molecule, the identity alone where there are more than are kept: which those are depends on the order of atoms."""
    layout, found = Layout(batch.num_atoms, "cpu"), []
    for b, n in enumerate(batch.num_atoms.tolist()):
        first, start = int(layout.cu_atoms[b]), int(layout.cu_pairs[b])
        spd = batch.spd[start : start + n * n].view(n, n).numpy()
        classes = batch.path_bonds[start : start + n * n, 0].view(n, n).numpy()
        u, v = np.nonzero(np.triu(spd == 1))
        orders, more = automorphisms(batch.atom_features[first : first + n, 0].numpy(), np.stack([u, v], axis=1), classes[u, v])
        found.append(orders[:1] if more else orders)
    return found


def with_automorphisms(batch):
    """The batch with the lists of the sidecar."""
    lists = [torch.from_numpy(np.concatenate([[len(orders) - 1], orders[1:].reshape(-1)])) for orders in automorphisms_in(batch)]
    batch.extra[SIDECAR] = torch.nn.utils.rnn.pad_sequence(lists, batch_first=True).int()
    return batch


CASE = Case(
    variants={"distances": {"unified_mol_structure": "distances"}, "one round": {"unified_mol_rounds": 1}},
    reached={"one round": 2.5},  # of 44 at first: a small model mends places slowly
    updates=300,
    extra=with_automorphisms,
)


def batch_with(*smiles, **more):
    return with_automorphisms(batch_of([graph(s, i, **more) for i, s in enumerate(smiles)]))


def places(seed, n=5):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 3)))


def error(ours, *theirs):
    molecule = torch.zeros(len(ours), dtype=torch.long)
    return errors_of(ours, torch.stack(theirs, dim=1), molecule, torch.tensor([len(ours)]))[0].tolist()


def test_structures_laid_onto_each_other():
    """A turned and moved copy fits, a mirrored one does not; of carbon dioxide with its oxygens swapped, only in the other order."""
    chiral = places(0)
    turned = chiral @ torch.from_numpy(Rotation.from_euler("xyz", [1, 2, 3]).as_matrix()).T + torch.tensor([3.0, -1, 2])
    assert error(chiral, turned)[0] < 1e-5
    assert error(chiral, turned * torch.tensor([1.0, 1, -1]))[0] > 0.1
    dioxide = torch.tensor([[0.0, 0, 0], [1.2, 0, 0], [-1.1, 0.1, 0]], dtype=torch.float64)
    swapped = dioxide[[0, 2, 1]]
    assert error(swapped, dioxide)[0] > 0.01
    assert error(swapped, dioxide, dioxide[[0, 2, 1]])[1] < 1e-5


@pytest.mark.filterwarnings("ignore:Optimal rotation is not uniquely")
@pytest.mark.parametrize("shape", ["solid", "flat", "line", "point", "two atoms", "one atom"])
def test_rotations_are_the_best(shape):
    """Against SciPy's: as small a sum of squares, also where many rotations are as good."""
    keep = {"flat": [1, 1, 0], "line": [1, 0, 0], "point": [0, 0, 0]}.get(shape, [1, 1, 1])
    n = {"two atoms": 2, "one atom": 1}.get(shape, 7)
    for seed in range(20):
        ours, theirs = places(seed, n), places(seed + 100, n) * torch.tensor(keep)
        ours, theirs = (x - x.mean(0) for x in (ours, theirs))
        mean = error(ours, theirs)[0]
        rotation, _ = Rotation.align_vectors(ours.numpy(), theirs.numpy()) if n > 1 and shape != "point" else (Rotation.identity(), 0)
        laid = torch.from_numpy(rotation.apply(theirs.numpy()))
        assert mean == pytest.approx(float((ours - laid).norm(dim=1).mean()), rel=1e-6, abs=2e-6) or shape == "line"
        if shape == "line":  # any turn around it is as good
            direction = ours.T @ (theirs @ torch.tensor([1.0, 0, 0], dtype=torch.float64))
            laid = theirs[:, :1] * direction / direction.norm()
            assert mean == pytest.approx(float((ours - laid).norm(dim=1).mean()), rel=1e-6)


def test_the_slope_of_places():
    """Of the mean distance with the rotation held: unit vectors over n, less their mean, since places are centred; 0 where they fit."""
    ours, theirs = places(1).requires_grad_(), places(2)
    molecule, size = torch.zeros(5, dtype=torch.long), torch.tensor([5])
    errors_of(ours, theirs.unsqueeze(1), molecule, size).sum().backward()
    held, around = ours.detach() - ours.detach().mean(0), theirs - theirs.mean(0)
    rotation, _ = Rotation.align_vectors(held.numpy(), around.numpy())
    away = held - torch.from_numpy(rotation.apply(around.numpy()))
    unit = away / away.norm(dim=1, keepdim=True)
    torch.testing.assert_close(ours.grad, (unit - unit.mean(0)) / 5, rtol=1e-5, atol=1e-6)
    same = theirs.clone().requires_grad_()
    errors_of(same, theirs.unsqueeze(1), molecule, size).sum().backward()
    assert same.grad.isfinite().all()


@pytest.mark.parametrize(
    ("smiles", "number"),
    [
        ("C", 1),
        ("O=C=O", 2),
        ("CC", 2),
        ("CO", 1),
        ("CC(C)(C)O", 6),
        ("c1ccccc1", 12),
        ("Cc1ccccc1", 2),
        ("C1CC1", 6),
        ("CC=O", 1),
        ("C.C", 2),
    ],
)
def test_automorphisms(smiles, number):
    """Counted by all orders of the atoms, of those that are small enough."""
    g = graph(smiles, 0)
    found, more = automorphisms(g.atom_features[:, 0], g.bonds, g.bond_classes)
    assert (len(found), more) == (number, False)
    assert found[0].tolist() == list(range(g.num_atoms))
    bond = {frozenset(pair): kind for pair, kind in zip(map(tuple, g.bonds.tolist()), (g.bond_classes - 1) // 12, strict=True)}

    def keeps(order):
        moved = {frozenset(order[a] for a in pair): kind for pair, kind in bond.items()}
        return moved == bond and all(g.atom_features[a, 0] == g.atom_features[order[a], 0] for a in range(g.num_atoms))

    assert all(keeps(order) for order in found.tolist())
    if g.num_atoms <= 6:
        assert sum(map(keeps, itertools.permutations(range(g.num_atoms)))) == number


def test_more_automorphisms_than_are_kept():
    g = graph("CC(C)(C)C(C(C)(C)C)C(C)(C)C", 0)
    found, more = automorphisms(g.atom_features[:, 0], g.bonds, g.bond_classes)
    assert (len(found), more) == (MOST, True)
    assert len(np.unique(found, axis=0)) == MOST
    assert found[0].tolist() == list(range(g.num_atoms))


def test_orders_from_lists():
    batch = batch_with("CO", "O=C=O", "C", "Cc1ccccc1")
    layout = Layout(batch.num_atoms, "cpu")
    orders = orders_of(batch.extra[SIDECAR], layout)
    assert orders.shape == (13, 2)
    assert orders[:, 0].tolist() == list(range(13))
    assert orders[:6, 1].tolist() == [0, 1, 4, 3, 2, 5]
    assert orders_of(torch.zeros(4, 0, dtype=torch.int32), layout).tolist() == [[i] for i in range(13)]


def test_a_model_that_knows_nothing():
    """Nine cross-entropies of equal logits; distances of 0; places stay where they began."""
    batch = batch_with(*ORDINARY[:5])
    objective = UnifiedMol(UnifiedMolOptions())
    model = model_of(objective)
    layout = Layout(batch.num_atoms, "cpu")
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.zero_()
        losses = mean_losses(objective, model, batch)
    assert sum(map(math.log, VALUES)) == pytest.approx(18.630773, abs=1e-6)
    assert losses["hidden_features"] == pytest.approx(18.630773, abs=1e-6)
    assert losses["structure_features"] == pytest.approx(18.630773, abs=1e-6)
    asked = objective.prepare(batch, layout, seed=3, epoch=2).parts
    true = (batch.coordinates[layout.pair_row] - batch.coordinates[layout.pair_column]).norm(dim=1)
    assert losses["hidden_place"] == pytest.approx(float(true[asked.pairs].mean()), rel=1e-6)
    expected = []
    for b, orders in enumerate(automorphisms_in(batch)):
        part = slice(int(layout.cu_atoms[b]), int(layout.cu_atoms[b + 1]))
        ours, theirs = (x[part].double() - x[part].double().mean(0) for x in (asked.guess, batch.coordinates))
        each = [Rotation.align_vectors(ours.numpy(), theirs[order].numpy())[0].apply(theirs[order].numpy()) for order in orders]
        expected.append(min(float(np.linalg.norm(ours.numpy() - laid, axis=1).mean()) for laid in each))
    assert losses["structure"] == pytest.approx(np.mean(expected), rel=1e-5)
    assert losses["early_structure"] == pytest.approx(losses["structure"], rel=1e-9)
    assert [term.weight for term in objective.terms()] == [1, 1, 1, 0.1, 1]
    assert objective.passes == 4


def test_distances_in_the_best_order():
    """The distances of a molecule whose equivalent atoms are numbered otherwise fit, and others by how much they differ."""
    batch = batch_with("O=C=O", "CC(C)(C)O", "CO")
    layout = Layout(batch.num_atoms, "cpu")
    orders = orders_of(batch.extra[SIDECAR], layout)
    coordinates = batch.coordinates.double()

    def distances(x):
        return (x[layout.pair_row] - x[layout.pair_column]).norm(dim=1)

    moved = coordinates[torch.tensor([2, 1, 0, 0 + 3, 1 + 3, 3 + 3, 2 + 3, 4 + 3, 8, 9])]
    assert distance_errors(distances(moved), distances(coordinates), orders[:, :1], layout)[1] > 1e-3
    assert distance_errors(distances(moved), distances(coordinates), orders, layout).tolist() == pytest.approx([0, 0, 0], abs=1e-9)
    longer = distance_errors(distances(moved) + 0.25, distances(coordinates), orders, layout)
    assert longer.tolist() == pytest.approx([0.25] * 3, abs=1e-9)
    assert torch.equal(coordinates[best_orders(moved, coordinates, orders, layout)], moved)


def test_what_the_masked_view_shows():
    """A quarter of atoms, and of places; bonds at hidden atoms in no path; distances between places that are there, and no atom's 3D
    feature where one is not."""
    batch = batch_with(*ORDINARY, *AWKWARD, "C", coordinates=True)
    layout = Layout(batch.num_atoms, "cpu")
    rates = []
    for epoch in range(1, 9):
        asked = UnifiedMol(UnifiedMolOptions()).prepare(batch, layout, seed=1, epoch=epoch).parts
        view, row, column = asked.masked, layout.pair_row, layout.pair_column
        hidden = view.hidden
        assert hidden.nonzero().squeeze(1).tolist() == asked.hidden.tolist()
        shown = (view.relations & SHOW_DISTANCE) > 0
        lost = torch.zeros_like(hidden)
        lost[row[asked.pairs]] = True
        within = layout.pair_molecule
        both_there = ~lost[row] & ~lost[column]
        anyone = torch.zeros(len(batch), dtype=torch.bool).index_put((within[both_there & shown],), torch.tensor(True))
        assert torch.equal(shown[anyone[within]], both_there[anyone[within]])
        assert not (asked.pairs & shown).any()
        has_lost = torch.zeros(len(batch), dtype=torch.long).index_add(0, layout.atom_molecule, lost.long()) > 0
        assert not (view.distances & has_lost[layout.atom_molecule]).any()
        at = (hidden[row] | hidden[column]) & (row != column) & (batch.spd != UNREACHABLE)
        assert not (view.relations[at] & SHOW_EDGE).any()
        assert ((view.relations & SHOW_SPD) > 0).all()
        rates.append([float(hidden.double().mean()), float(lost.double().mean())])
    assert np.mean(rates, axis=0) == pytest.approx([0.25, 0.25], abs=0.08)


def test_rounds_follow_each_other():
    """Each sees the places that the last one left, in 2D and 3D; the first ones are drawn; atoms are hidden in the structure alone."""
    batch = batch_with("CCO", "CC(C)C")
    objective = UnifiedMol(UnifiedMolOptions(unified_mol_rounds=3))
    model = model_of(objective)
    seen, encode = [], model.encode

    def watched(batch, shown, layout):
        seen.append(shown)
        return encode(batch, shown, layout)

    model.encode = watched
    with torch.no_grad():
        _, counts = sums_and_counts(objective, model, batch)
    masked, solid, *rounds = seen
    assert (len(rounds), objective.passes) == (3, 5)
    assert solid.hidden.all()
    assert {int(x) for x in solid.relations.unique()} == {SHOW_DISTANCE}
    for shown in rounds:
        assert shown.hidden is None
        assert {int(x) for x in shown.relations.unique()} == {SHOW_SPD | SHOW_EDGE | SHOW_DISTANCE}
        assert shown.degree.all()
        assert float(shown.coordinates[:3].mean(0).abs().max()) < 1e-6
    assert not torch.equal(rounds[0].coordinates, rounds[1].coordinates)
    assert counts.tolist()[2:4] == [2, 4]
    assert not torch.equal(masked.coordinates, rounds[0].coordinates)


def test_options_that_cannot_be_are_told():
    for wrong, told in (
        ({"unified_mol_rate": 1.0}, "--unified-mol-rate must lie between 0 and 1"),
        ({"unified_mol_rounds": 0}, "--unified-mol-rounds must be at least 1"),
        ({"unified_mol_early_weight": 0.0}, "--unified-mol-early-weight must be above 0"),
    ):
        with pytest.raises(UserError, match=told):
            UnifiedMolOptions(**wrong)
