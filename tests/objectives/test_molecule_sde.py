"""MoleculeSDE: schedules, closed values, decoders that turn with a molecule and know it from its mirror image, negatives, what counts."""

import dataclasses

import numpy as np
import pytest
import torch

from moleblend_fs.data.batch import GROUP
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.objectives.common.diffusion import GraphDecoder, StructureDecoder, frames_of, schedule
from moleblend_fs.objectives.molecule_sde import (
    GRAPH,
    STRUCTURE,
    MoleculeSDE,
    MoleculeSDEOptions,
    draw_times,
    structure_loss,
    structure_noise,
)
from moleblend_fs.ops.layout import Layout
from tests.model.molecules import ORDINARY, batch_of, graph, mixed_batch
from tests.model.test_invariance import random_rotation
from tests.objectives.suite import SIZE, Case, mean_losses, model_of, sums_and_counts, with_structures

ONLY = {
    name: {f"molecule_sde_{other}_weight": 0.0 for other in ("contrast", "structure", "graph") if other != name}
    for name in ("contrast", "structure", "graph")
}
CASE = Case(
    variants={
        "vp": {"molecule_sde_noise": "vp", "towers": 2, "view_3d_features": "number"},
        "conformers": {"conformers_per_step": 2, "view_3d_features": "none"},
        **{f"{name} alone": options for name, options in ONLY.items()},
    },
    turning=("structure_noise",),
    reached={
        "contrast alone": 0.02,
        "structure alone": 0.01,
        "graph alone": 0.25,
    },  # 32 numbers wide, it cannot hold the noise of 119 elements
    updates=200,
    rate=1e-2,
    extra=with_structures,
)


def prepared(batch, epoch=2, **options):
    return MoleculeSDE(MoleculeSDEOptions(**options)).prepare(batch, Layout(batch.num_atoms, "cpu"), seed=3, epoch=epoch)


def test_schedules():
    half, end = (torch.tensor([t], dtype=torch.float64) for t in (0.5, 1.0))
    assert schedule(half, "ve", 0.1, 10.0).sigma.item() == pytest.approx(1.0)
    assert schedule(half, "ve", 0.1, 10.0).kept.item() == 1
    kept, sigma = schedule(end, "vp", 0.1, 10.0)
    assert (kept.item(), sigma.item()) == pytest.approx((0.740818, 0.671706), abs=1e-6)


def test_times():
    """Of 1,000 each as often; in an odd epoch those of the epoch before it, from the other end; another one for graphs."""
    batch = batch_of([graph("C", 0)] * 4000, range(4000))
    first, odd, other = (draw_times(batch, place, seed=1, epoch=epoch) for place, epoch in ((0, 4), (0, 5), (1, 4)))
    assert torch.allclose(first + odd, torch.full_like(first, 0.999))
    assert set((1000 * first).round().long().tolist()) <= set(range(1000))
    assert float(first.mean()) == pytest.approx(0.4995, abs=5 * 0.2887 / 4000**0.5)
    assert not torch.equal(first, other)
    assert not torch.equal(first, draw_times(batch, 0, seed=1, epoch=6))


def test_closed_values():
    """9 of eps = (1, 2, 2) on one atom and no output, 0 of the noise itself; 3 and 1 in expectation; 10.000091 of equal vectors."""
    noise = torch.tensor([[1.0, 2.0, 2.0]])
    assert float(structure_loss(torch.zeros(1, 3), noise, torch.ones(1))) == 9
    assert float(structure_loss(noise, noise, torch.ones(1))) == 0
    batch = batch_of([graph(ORDINARY[i % 7], i) for i in range(60)])
    objective = MoleculeSDE(MoleculeSDEOptions())
    model = model_of(objective)
    with torch.no_grad():
        for name in (STRUCTURE, GRAPH):
            for parameter in model.heads[name].parameters():
                parameter.zero_()
        for block in model.encoder.blocks:  # the last norm gives every atom the same vector
            block.ffn_norm.weight.zero_()
            block.ffn_norm.bias.fill_(1.0)
    losses = mean_losses(objective, model, batch)
    assert losses["same_atom"] + losses["other_atom"] == pytest.approx(10.000091, abs=1e-6)
    # Within five standard deviations: of |eps|^2 (6 over 60 molecules of ten atoms), of z^2 (2 over 5,000 bonds and 70,000 elements).
    assert losses["structure_noise"] == pytest.approx(3, abs=5 * (6 / 600) ** 0.5)
    assert losses["bond_noise"] == pytest.approx(1, abs=5 * (2 / 4000) ** 0.5)
    assert losses["element_noise"] == pytest.approx(1, abs=5 * (2 / 70_000) ** 0.5)


def test_the_structure_decoder_turns_with_the_molecule():
    """A rotated structure has a rotated output; a mirrored one has no mirrored one, unless it is flat."""
    torch.manual_seed(0)
    decoder = StructureDecoder(ModelConfig(**SIZE)).double()
    h, place = torch.randn(6, SIZE["embed_dim"], dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    sigma = torch.full((6,), 0.5, dtype=torch.float64)
    first, second = torch.tensor([(i, j) for i in range(6) for j in range(6) if i != j]).T
    turn, mirror = random_rotation(0).double(), torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    with torch.no_grad():
        output, turned, mirrored = (
            decoder(h, place @ m.T, sigma, first, second) for m in (torch.eye(3, dtype=torch.float64), turn, mirror)
        )
        flat = place * torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
        in_plane = decoder(h, flat, sigma, first, second)
    torch.testing.assert_close(turned, output @ turn.T)
    assert (mirrored - output @ mirror.T).abs().max() > 0.1 * output.abs().max()
    assert in_plane[:, 2].abs().max() > 0, "the cross product of places in a plane leaves it"
    frames = frames_of(place, first, second)
    torch.testing.assert_close(frames_of(place @ turn.T, first, second).told, frames.told)
    products = frames.axes @ frames.axes.mT
    torch.testing.assert_close(products, torch.eye(3, dtype=torch.float64).expand_as(products), atol=1e-3, rtol=0)


def test_the_graph_decoder_knows_no_order_of_a_pair():
    torch.manual_seed(0)
    decoder, d = GraphDecoder(ModelConfig(**SIZE)).double(), SIZE["embed_dim"]
    h, element, sigma = torch.randn(4, d).double(), torch.randn(4, 119).double(), torch.full((4,), 0.3).double()
    bond, first, second = torch.randn(6).double(), *torch.tensor([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]).T
    ours, theirs = (decoder(h, element, bond, sigma, *ends) for ends in ((first, second), (second, first)))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    assert ours[0].shape == (4, 119)
    assert ours[1].shape == (6,)


def test_what_is_compared_denoised_and_left_out():
    """Molecules without a structure have no part; negatives are other molecules' atoms, of the group; edges have up to three bonds."""
    batch = mixed_batch((*ORDINARY, "C", "[Na+].[Cl-]"), without_3d=(1, 4))
    batch.extra[GROUP] = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2])
    layout = Layout(batch.num_atoms, "cpu")
    (one,) = prepared(batch).parts.structures
    molecule = layout.atom_molecule
    assert one.atoms.tolist() == [a for a in range(layout.num_total_atoms) if int(molecule[a]) not in (1, 4)]
    ours, theirs = molecule[one.atoms], molecule[one.others]
    assert one.different.tolist() == (ours != 8).tolist()  # the salt is alone in its group
    assert (ours != theirs)[one.different].all()
    assert (batch.extra[GROUP][ours] == batch.extra[GROUP][theirs]).all()
    assert batch.has_coordinates[theirs].all()
    seen = {tuple(x) for epoch in range(40) for x in _pairs(prepared(batch, epoch).parts.structures[0], molecule)}
    assert {(0, 2), (0, 3), (2, 0), (5, 6), (7, 5)} <= seen
    spd = {(int(i), int(j)): int(s) for i, j, s in zip(layout.pair_row, layout.pair_column, batch.spd, strict=True)}
    edges = {tuple(edge) for edge in one.edges.T.tolist()}
    assert edges == {pair for pair, s in spd.items() if 1 <= s <= 3 and batch.has_coordinates[molecule[pair[0]]]}
    per_molecule = torch.zeros(9, dtype=torch.float64).index_add(0, molecule, one.share)
    assert per_molecule.tolist() == pytest.approx([1, 0, 1, 1, 0, 1, 1, 0, 0])
    counts = prepared(batch).counts.tolist()
    n = batch.num_atoms[batch.has_coordinates]
    assert counts == [len(one.atoms), 2 * int(one.different.sum()), 5, len(one.atoms), int((n * (n - 1) // 2).sum())]


def _pairs(one, molecule):
    return torch.stack([molecule[one.atoms], molecule[one.others]], dim=1)[one.different].tolist()


def test_numbers_of_bonds():
    """Acetonitrile's C-C and C#N, benzene's aromatic ring, and 0 where there is no bond."""
    batch = batch_of([graph("CC#N", 0), graph("c1ccccc1", 1)])
    (one,) = prepared(batch).parts.structures
    bonds = {tuple(pair): number for pair, number in zip(one.pairs.T.tolist(), one.bonds.tolist(), strict=True)}
    assert (bonds[0, 1], bonds[1, 2], bonds[0, 2]) == (1, 3, 0)
    assert sorted(bonds[pair] for pair in bonds if min(pair) > 2) == [0] * 9 + [4] * 6


def test_noise_is_drawn_of_each_structure_anew():
    batch = with_structures(batch_of([graph(smiles, i) for i, smiles in enumerate(ORDINARY)]))
    one, two = prepared(batch, conformers_per_step=2).parts.structures
    layout = Layout(batch.num_atoms, "cpu")
    noises = [structure_noise(batch, layout, each.draw) for each in (one, two)]
    assert not torch.equal(*noises)
    assert float(torch.cat(noises).square().mean()) == pytest.approx(1, abs=5 * (2 / (6 * len(noises[0]))) ** 0.5)
    other = dataclasses.replace(batch, molecule_id=batch.molecule_id + 1)
    assert not torch.equal(structure_noise(other, layout, one.draw), noises[0])


def test_a_batch_of_one_molecule_has_no_negatives():
    objective = MoleculeSDE(MoleculeSDEOptions())
    sums, counts = sums_and_counts(objective, model_of(objective), batch_of([graph("CCO", 0)]))
    assert counts.tolist() == [3, 0, 1, 3, 3]
    assert sums[1] == 0
    assert (sums[[0, 2, 3, 4]] > 0).all()


def test_what_cannot_be_is_told():
    for wrong, told in (
        ({"molecule_sde_temperature": 0.0}, "--molecule-sde-temperature must be above 0"),
        (
            {"molecule_sde_structure_smallest": 2.0},
            "--molecule-sde-structure-smallest and --molecule-sde-structure-largest must be above 0",
        ),
        ({"molecule_sde_graph_smallest": 0.0}, "--molecule-sde-graph-smallest"),
        ({"molecule_sde_graph_weight": -1.0}, "--molecule-sde-graph-weight must not be negative"),
        ({f"molecule_sde_{name}_weight": 0.0 for name in ONLY}, "nothing is left to learn"),
    ):
        with pytest.raises(UserError, match=told):
            MoleculeSDEOptions(**wrong)
    assert np.isclose(MoleculeSDE(MoleculeSDEOptions(conformers_per_step=2)).passes, 3.3)
