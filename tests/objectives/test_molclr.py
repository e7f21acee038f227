"""MolCLR: how many atoms and bonds each view lacks, in each augmentation; closed values; the loss by loops; what removed bonds tell."""

import dataclasses
import math

import pytest
import torch

from moleblend_fs.data.batch import GROUP
from moleblend_fs.errors import UserError
from moleblend_fs.objectives.common.contrastive import info_nce, two_views
from moleblend_fs.objectives.common.subgraphs import bonds_in, bonds_of, paths_over
from moleblend_fs.objectives.molclr import MolCLR, MolCLROptions
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import SHOW_EDGE, SHOW_SPD
from tests.model.molecules import AWKWARD, ORDINARY, batch_of, graph
from tests.objectives.suite import Case, mean_losses, model_of, sums_and_counts

CASE = Case(
    variants={
        "subgraph": {"molclr_augmentation": "subgraph"},
        "mix": {"molclr_augmentation": "mix", "pooling": "mean"},
        "warm": {"molclr_temperature": 1.0},
    },
    reached={"": 0.2},
    updates=60,
    rate=1e-2,
)
SMILES = (*ORDINARY, *AWKWARD)
BATCH = batch_of([graph(smiles, i) for i, smiles in enumerate(SMILES)])
LAYOUT = Layout(BATCH.num_atoms, "cpu")
PATHS = SHOW_SPD | SHOW_EDGE


def views_of(batch=BATCH, epoch=1, **options):
    return MolCLR(MolCLROptions(**options)).prepare(batch, Layout(batch.num_atoms, "cpu"), seed=1, epoch=epoch).parts.views


def removed_bonds(batch, layout, shown):
    """Places of bonds whose own pair shows no path."""
    bonds = bonds_of(batch, layout)
    return bonds[(shown.relations[bonds] & PATHS) == 0]


def of_molecules(batch, layout, atoms_A):
    return torch.zeros(len(batch), dtype=torch.long).index_add(0, layout.atom_molecule, atoms_A.long()).tolist()


def test_atoms_and_bonds_that_a_view_lacks():
    """max(1, floor(n / 4)) atoms and floor(m / 4) bonds."""
    bonds = bonds_in(bonds_of(BATCH, LAYOUT), LAYOUT).tolist()
    for shown in views_of():
        assert of_molecules(BATCH, LAYOUT, shown.hidden) == [max(1, n // 4) for n in BATCH.num_atoms.tolist()]
        assert bonds_in(removed_bonds(BATCH, LAYOUT, shown), LAYOUT).tolist() == [m // 4 for m in bonds]


def test_views_differ_from_each_other_and_from_epoch_to_epoch():
    first, second = views_of()
    again, _ = views_of(epoch=2)
    for one, other in ((first, second), (first, again)):
        assert not torch.equal(one.hidden, other.hidden)
        assert not torch.equal(one.relations, other.relations)


def test_every_path_over_a_removed_bond_is_gone_and_no_other():
    for augmentation in ("node", "subgraph", "mix"):
        for shown in views_of(molclr_augmentation=augmentation):
            removed = removed_bonds(BATCH, LAYOUT, shown)
            gone = (shown.relations & PATHS) == 0
            assert torch.equal(gone, paths_over(BATCH, LAYOUT, removed))
            assert ((shown.relations & PATHS == PATHS) | gone).all()


def hangs_together(batch, layout, atoms):
    """Whether chosen atoms of a batch of one are connected through each other."""
    bonds = bonds_of(batch, layout)
    ends = {frozenset(pair) for pair in zip(layout.pair_row[bonds].tolist(), layout.pair_column[bonds].tolist(), strict=True)}
    reached, left = {atoms[0]}, set(atoms[1:])
    while near := {a for a in left if any(frozenset((a, b)) in ends for b in reached)}:
        reached, left = reached | near, left - near
    return not left


def test_subgraphs():
    """floor(n / 4) atoms that hang together, nearest first, with exactly their own bonds; the two views begin at different atoms."""
    for smiles in ("CC(C)CC1=CC=C(C=C1)C(C)C(=O)O", "C" * 12, "c1ccc2ccccc2c1"):
        starts = []
        for epoch in range(12):
            batch = batch_of([graph(smiles, 0)])
            layout = Layout(batch.num_atoms, "cpu")
            hidden = [shown.hidden.nonzero().squeeze(1).tolist() for shown in views_of(batch, epoch, molclr_augmentation="subgraph")]
            for shown, atoms in zip(views_of(batch, epoch, molclr_augmentation="subgraph"), hidden, strict=True):
                assert len(atoms) == int(batch.num_atoms[0]) // 4
                assert hangs_together(batch, layout, atoms)
                bonds = bonds_of(batch, layout)
                at = shown.hidden[layout.pair_row[bonds]] | shown.hidden[layout.pair_column[bonds]]
                assert removed_bonds(batch, layout, shown).tolist() == bonds[at].tolist()
            starts.append(hidden)
        assert sum(one != other for one, other in starts) > 6, "they begin at different atoms"


def test_subgraphs_of_salts_stay_in_their_part():
    batch = batch_of([graph("CCCCCCCCCCC.[Na+]", i) for i in range(200)])
    layout = Layout(batch.num_atoms, "cpu")
    for shown in views_of(batch, molclr_augmentation="subgraph"):
        sizes = of_molecules(batch, layout, shown.hidden)
        sodium = shown.hidden[layout.cu_atoms[1:] - 1].tolist()
        assert {(n, ion) for n, ion in zip(sizes, sodium, strict=True)} == {(3, False), (1, True)}


def test_mixed():
    """A subgraph of up to a fifth of the atoms, and others up to a quarter; bonds up to a quarter, or more around the subgraph."""
    batch = batch_of([graph("C" * 40, i) for i in range(60)])
    layout = Layout(batch.num_atoms, "cpu")
    first, second = views_of(batch, molclr_augmentation="mix")
    for shown in (first, second):
        assert of_molecules(batch, layout, shown.hidden) == [10] * 60
        counts = bonds_in(removed_bonds(batch, layout, shown), layout).tolist()
        assert set(counts) == {9}  # floor(39 / 4); of at most 7 atoms in a row there are at most 8
        bonds = bonds_of(batch, layout)
        whole = shown.hidden[layout.pair_row[bonds]] & shown.hidden[layout.pair_column[bonds]]
        assert 60 * 10 * 9 / 39 * 1.3 < int(whole.sum()) < 60 * 8, "more neighbours among them than at random"


def test_closed_values():
    """Four molecules, all vectors equal: ln 7, through the model; orthonormal pairs at T = 0.1."""
    batch = batch_of([graph(smiles, i) for i, smiles in enumerate(ORDINARY[:4])])
    objective = MolCLR(MolCLROptions())
    model = model_of(objective)
    with torch.no_grad():
        model.heads["molclr"].out.weight.zero_()
        model.heads["molclr"].out.bias.fill_(1.0)
    assert mean_losses(objective, model, batch) == {"two_views": pytest.approx(1.945910, abs=1e-6)}
    pairs = torch.eye(4, dtype=torch.float64).repeat(2, 1)
    losses = info_nce(pairs, pairs, two_views(torch.zeros(4, dtype=torch.long)), temperature=0.1, denominator="all")
    assert losses.tolist() == pytest.approx([2.723625e-4] * 8, rel=1e-6)


def test_against_loops():
    """Two groups and a molecule on its own, which counts for nothing."""
    batch = batch_of([graph(smiles, i) for i, smiles in enumerate(SMILES[:7])])
    group = [0, 1, 0, 0, 2, 1, 1]
    batch.extra[GROUP] = torch.tensor(group)
    objective = MolCLR(MolCLROptions())
    model = model_of(objective)
    layout = Layout(batch.num_atoms, "cpu")
    with torch.no_grad():
        sums, counts = sums_and_counts(objective, model, batch)
        views = objective.prepare(batch, layout, seed=3, epoch=2).parts.views
        z = [model.heads["molclr"](model.encode(batch, shown, layout)[0][layout.graph_tokens]) for shown in views]
    unit = {(i, v): z[v][i] / z[v][i].norm() for i in range(7) for v in (0, 1)}
    total, number = 0.0, 0
    for (i, v), own in unit.items():
        if group.count(group[i]) == 1:
            continue
        others = {key: math.exp(float(own @ x) / 0.1) for key, x in unit.items() if group[key[0]] == group[i] and key != (i, v)}
        total, number = total - math.log(others[i, 1 - v] / sum(others.values())), number + 1
    assert counts.tolist() == [number] == [12]
    assert float(sums) == pytest.approx(total, rel=1e-9)


def test_removed_bonds_and_hidden_atoms_have_no_path():
    """Another element there, and other bonds in every path over removed ones: the same tokens, bit for bit."""
    model = model_of(MolCLR(MolCLROptions())).eval()
    for shown in views_of():
        gone = (shown.relations & PATHS) == 0
        other = dataclasses.replace(
            BATCH,
            atom_features=torch.where(shown.hidden.unsqueeze(1), (BATCH.atom_features + 1) % 3, BATCH.atom_features),
            path_bonds=torch.where(gone.unsqueeze(1), (BATCH.path_bonds + 12) % 61, BATCH.path_bonds),
            spd=torch.where(gone, (BATCH.spd + 1) % 7, BATCH.spd),
        )
        with torch.no_grad():
            assert torch.equal(model.encode(BATCH, shown, LAYOUT)[0], model.encode(other, shown, LAYOUT)[0])


def test_options_that_cannot_be_are_told():
    with pytest.raises(UserError, match="--molclr-rate must lie between 0 and 1, got 0"):
        MolCLROptions(molclr_rate=0.0)
    with pytest.raises(UserError, match="--molclr-temperature must be above 0"):
        MolCLROptions(molclr_temperature=0.0)
    with pytest.raises(UserError, match="--negatives-group"):
        MolCLROptions(negatives_group=1)
