"""Uni-Mol: what is drawn, hidden, replaced and moved, and closed values of its losses."""

import math

import pytest
import torch

from moleblend_fs.errors import UserError
from moleblend_fs.objectives.uni_mol import UniMol, UniMolOptions, standardised
from moleblend_fs.ops.layout import Layout
from tests.model.molecules import ORDINARY, batch_of, graph, mixed_batch
from tests.objectives.suite import Case, mean_losses, model_of

CASE = Case(
    variants={"class defaults": {"uni_mol_unchanged": 0.1, "uni_mol_random": 0.1}, "replaced": {"uni_mol_random": 0.9}},
    still={"uni_mol_noise": 1e-9},
    turning=("coordinates",),
    reached={"": 0.6},
    updates=150,
    rate=1e-2,
)


def ready_of(batch, **options):
    return UniMol(UniMolOptions(**options)).prepare(batch, Layout(batch.num_atoms, "cpu"), seed=1, epoch=1)


def among(atoms, batch):
    """(A,) bool of places in A."""
    return torch.zeros(len(batch.degree), dtype=torch.bool).index_fill(0, atoms, True)


def test_shares_and_what_becomes_of_them():
    """15 % of atoms, of these 5 % unchanged and 5 % replaced; noise on the others alone. Counts within five standard deviations."""
    batch = batch_of([graph("CCNCCOCCCF", i) for i in range(3000)])
    noised, shown, atoms, noise, pairs = ready_of(batch).parts
    drawn = among(atoms, batch)
    assert int(drawn.sum()) == pytest.approx(4500, abs=5 * math.sqrt(3000 * 0.25))  # 1 or 2 of 10, half of the time each
    moved = noise.abs().amax(dim=1) > 0
    replaced = (noised.atom_features != batch.atom_features).any(dim=1)
    unchanged = drawn & ~moved
    kept = drawn & ~shown.hidden & moved
    assert not (moved & ~drawn).any()
    assert not (replaced & ~kept).any()
    for some, share in ((unchanged, 0.05), (kept, 0.05), (shown.hidden, 0.9)):
        assert int(some.sum()) == pytest.approx(4500 * share, abs=5 * math.sqrt(4500 * share * (1 - share)) + 5)
    assert noise.abs().max() <= 1
    values = noise[moved]
    assert float(values.square().mean()) == pytest.approx(1 / 3, abs=0.02)
    # In expectation a prediction of no noise costs 1/6: the mean of u^2 / 2.
    assert float(torch.nn.functional.smooth_l1_loss(torch.zeros_like(values), values)) == pytest.approx(1 / 6, abs=0.01)
    assert torch.equal(shown.coordinates, batch.coordinates + noise)
    layout = Layout(batch.num_atoms, "cpu")
    assert torch.equal(pairs, drawn[layout.pair_row] & (layout.pair_row != layout.pair_column))


def test_replacements_are_other_atoms_of_the_molecule():
    batch = batch_of([graph("CNOF", i) for i in range(200)])
    noised, _, atoms, *_ = ready_of(batch, uni_mol_random=1.0, uni_mol_unchanged=0.0, uni_mol_rate=0.5).parts
    drawn = among(atoms, batch)
    assert drawn.any()
    assert (noised.atom_features[drawn, 0] != batch.atom_features[drawn, 0]).all()
    assert set(noised.atom_features[drawn, 0].tolist()) == set(batch.atom_features[:, 0].tolist())
    assert torch.equal(noised.atom_features[~drawn], batch.atom_features[~drawn])


def test_closed_values():
    """Zero heads: ln 119; Smooth-L1 of the noise itself, and of the standardised distance."""
    batch = mixed_batch(ORDINARY, without_3d=(1,))
    objective = UniMol(UniMolOptions(uni_mol_rate=0.4))
    model = model_of(objective)
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.zero_()
    losses = mean_losses(objective, model, batch)
    layout = Layout(batch.num_atoms, "cpu")
    _, _, atoms, noise, pairs = objective.prepare(batch, layout, seed=3, epoch=2).parts
    drawn = among(atoms, batch)
    distance = (batch.coordinates[layout.pair_row] - batch.coordinates[layout.pair_column]).double().norm(dim=1)[pairs]

    def smooth(x):
        return torch.where(x.abs() < 1, x.square() / 2, x.abs() - 0.5).mean()

    assert losses["drawn_element"] == pytest.approx(math.log(119))
    assert losses["coordinates"] == pytest.approx(float(smooth(noise[drawn].double())), rel=1e-6)
    assert losses["drawn_distance"] == pytest.approx(float(smooth((distance - 6.312581655060595) / 3.3899264663911888)), rel=1e-6)
    assert not drawn[layout.atom_molecule == 1].any()
    assert float(standardised(torch.tensor(4.0, dtype=torch.float64), UniMolOptions())) == pytest.approx(-0.682192, abs=1e-6)
    half, two = (float(smooth(torch.tensor([x]))) for x in (0.5, 2.0))
    assert (half, two) == (0.125, 1.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"uni_mol_rate": 0.0}, "--uni-mol-rate"),
        ({"uni_mol_unchanged": 0.6, "uni_mol_random": 0.6}, "sum to at most 1"),
        ({"uni_mol_noise": 0.0}, "--uni-mol-noise must be above 0"),
        ({"uni_mol_distance_std": 0.0}, "--uni-mol-distance-std must be above 0"),
        ({"uni_mol_token_weight": 0.0}, "--uni-mol-token-weight must be above 0"),
    ],
)
def test_options_that_cannot_be_are_told(change, message):
    with pytest.raises(UserError, match=message):
        UniMolOptions(**change)
