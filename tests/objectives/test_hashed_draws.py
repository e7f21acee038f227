"""Blend and noise draws: their distribution, and that nothing but (seed, epoch, molecule) decides them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from moleblend_fs.data.batch import MoleculeBatch, collate
from moleblend_fs.data.record import encode
from moleblend_fs.objectives.blend_then_predict import BlendConfig, draw_blend
from moleblend_fs.objectives.common.hashed_draws import draw_modality, draw_noise
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import SHOW_DISTANCE, SHOW_EDGE, SHOW_SPD
from tests.model.molecules import batch_of, graph

DEFAULT = BlendConfig()
RELATIONS = (SHOW_SPD, SHOW_EDGE, SHOW_DISTANCE, 0)
MOLECULES = [graph("c1ccc2c(c1)[nH]c1ccccc12", s, coordinates=s % 3 != 0) for s in range(150)]


@pytest.fixture(scope="module")
def batch() -> MoleculeBatch:
    return batch_of(MOLECULES, [3 * i + (1 << 33) * (i % 2) for i in range(len(MOLECULES))])


def drawn(batch: MoleculeBatch, config: BlendConfig = DEFAULT, seed: int = 1, epoch: int = 1):
    """(shown, noise, pairs' molecules, atoms' molecules)."""
    layout = Layout(batch.num_atoms, "cpu")
    shown, noise = draw_blend(batch, layout, config, seed=seed, epoch=epoch)
    return shown, noise, layout.pair_molecule, layout.atom_molecule


def within(count: int, total: int, share: float) -> bool:
    """Whether a binomial count is what chance gives in all but one of a million trials."""
    return stats.binomtest(count, total, share).pvalue > 1e-6


@pytest.mark.parametrize(
    ("ratio", "mask"), [((0.2, 0.2, 0.6), 0.0), ((0.7, 0.2, 0.1), 0.0), ((0.5, 0.5, 0.0), 0.3), ((0.2, 0.2, 0.6), 0.5)]
)
def test_shares_of_the_relations(batch, ratio, mask):
    shown, _, pair_molecule, atom_molecule = drawn(batch, BlendConfig(blend_ratio=ratio, mask_ratio=mask))
    for has_3d in (True, False):
        shares = np.array(ratio if has_3d else [ratio[0], ratio[1], 0]) / (1 if has_3d else ratio[0] + ratio[1])
        pairs = shown.relations[batch.has_coordinates[pair_molecule] == has_3d]
        for relation, share in zip(RELATIONS, [*(shares * (1 - mask)), mask], strict=True):
            count = int((pairs == relation).sum())
            assert within(count, len(pairs), share) if 0 < share < 1 else count == share * len(pairs)
        atoms = shown.distances[batch.has_coordinates[atom_molecule] == has_3d]
        share = ratio[2] * has_3d
        assert within(int(atoms.sum()), len(atoms), share) if share else not atoms.any()
    assert torch.equal(shown.degree, ~shown.distances)
    # The bounds are narrow: a ratio a tenth away would be outside.
    total = int(batch.has_coordinates[pair_molecule].sum())
    assert not within(round(total * 0.22), total, 0.2)


def test_only_the_distance_asked_for():
    """Molecules without coordinates then show nothing, and their atoms keep the degree."""
    batch = batch_of([graph("CCO", 0, coordinates=False), graph("CCN", 1)])
    shown, noise, pair_molecule, atom_molecule = drawn(batch, BlendConfig(blend_ratio=(0, 0, 1)))
    assert (shown.relations[pair_molecule == 0] == 0).all()
    assert (shown.relations[pair_molecule == 1] == SHOW_DISTANCE).all()
    assert torch.equal(shown.distances, atom_molecule == 1)
    assert not noise[atom_molecule == 0].any()
    assert not shown.coordinates[atom_molecule == 0].any()


def test_pairs_are_drawn_independently(batch):
    """(i, j) and (j, i), neighbours in a row, the same pair of other molecules: agreement as often as by chance."""
    n = 13
    ids = drawn(batch)[0].relations[batch.has_coordinates[drawn(batch)[2]]].view(-1, n, n)
    chance = 0.2**2 + 0.2**2 + 0.6**2
    upper = torch.ones(n, n).triu(1).bool()
    for first, second in (
        (ids[:, upper], ids.transpose(1, 2)[:, upper]),
        (ids[:, :, :-1], ids[:, :, 1:]),
        (ids[:, :-1], ids[:, 1:]),
        (ids[:-1], ids[1:]),
    ):
        assert within(int((first == second).sum()), first.numel(), chance)


def values(batch: MoleculeBatch, **options) -> dict[int, tuple]:
    """Everything drawn, by molecule id."""
    shown, noise, pair_molecule, atom_molecule = drawn(batch, **options)
    return {
        int(molecule): (
            shown.relations[pair_molecule == b].tolist(),
            shown.distances[atom_molecule == b].tolist(),
            noise[atom_molecule == b].tolist(),
            float(draw_modality(batch, seed=1, epoch=1)[b]),
        )
        for b, molecule in enumerate(batch.molecule_id)
    }


def test_batch_mates_and_order_do_not_matter(batch):
    records = [encode(g, int(i)) for g, i in zip(MOLECULES, batch.molecule_id, strict=True)]
    expected = values(batch)
    order = np.random.default_rng(0).permutation(len(records))
    joined: dict[int, tuple] = {}
    for part in np.array_split(order, [1, 2, 9, 70]):
        joined |= values(collate([records[i] for i in part]))
    assert joined == expected


def test_width_of_the_coordinates_does_not_matter(batch):
    wide = MoleculeBatch(
        **{name: getattr(batch, name) for name in MoleculeBatch.__dataclass_fields__} | {"coordinates": batch.coordinates.double()}
    )
    (first, noise, *_), (second, other, *_) = drawn(batch), drawn(wide)
    assert torch.equal(first.relations, second.relations)
    assert torch.equal(first.distances, second.distances)
    assert torch.equal(noise, other)


@pytest.mark.parametrize("change", [{"epoch": 2}, {"seed": 2}, {"seed": 1 + 2**20}, {"epoch": 0}])
def test_another_epoch_or_seed_draws_anew(batch, change):
    first, second = drawn(batch), drawn(batch, **change)
    has_3d = batch.has_coordinates[first[2]]
    same = first[0].relations[has_3d] == second[0].relations[has_3d]
    assert within(int(same.sum()), len(same), 0.44)
    correlation = float(torch.corrcoef(torch.stack([first[1].reshape(-1), second[1].reshape(-1)]))[0, 1])
    assert abs(correlation) < 5 / first[1].numel() ** 0.5


PROGRAM = """
import json, sys
import torch
torch.manual_seed(int(sys.argv[1])); torch.rand(3)
from tests.model.molecules import batch_of, graph
from tests.objectives.test_hashed_draws import values
print(json.dumps(values(batch_of([graph("CCO", 1), graph("CCN", 2, coordinates=False)], [7, 1 << 40]))))
"""


def test_another_process_draws_the_same():
    command = [sys.executable, "-c", PROGRAM, "123"]
    there = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]).stdout)
    here = values(batch_of([graph("CCO", 1), graph("CCN", 2, coordinates=False)], [7, 1 << 40]))
    assert there == {str(key): list(value) for key, value in here.items()}


def test_draws_of_this_seed_stay_what_they_are():
    """A change of the hash would silently change what a resumed run sees."""
    shown, noise, *_ = drawn(batch_of([graph("CCO", 1)], [7]), seed=5, epoch=3)
    assert shown.relations.tolist() == FIRST_RELATIONS
    torch.testing.assert_close(noise[0], torch.tensor(FIRST_NOISE), rtol=0, atol=1e-6)


FIRST_RELATIONS = [4, 4, 4, 4, 4, 4, 4, 2, 4]
FIRST_NOISE = [-0.3302658, 0.1152068, 0.1243198]


@pytest.mark.parametrize("scale", [0.2, 1.5])
def test_noise_is_normal(batch, scale):
    layout = Layout(batch.num_atoms, "cpu")
    noise = draw_noise(batch, layout, scale=scale, seed=3, epoch=4)
    present = batch.has_coordinates[layout.atom_molecule]
    assert not noise[~present].any()
    sample = noise[present].double().numpy() / scale
    assert stats.kstest(sample.reshape(-1), "norm").pvalue > 1e-4
    assert abs(sample.mean()) < 4 / sample.size**0.5
    assert abs(sample.std() - 1) < 4 / (2 * sample.size) ** 0.5
    correlations = np.corrcoef(sample.T)[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < 4 / len(sample) ** 0.5
    # The test has teeth: a scale off by a fifth is refused.
    assert stats.kstest(sample.reshape(-1) * 1.2, "norm").pvalue < 1e-4


def test_noise_is_added_to_the_coordinates_once_and_the_batch_is_left_alone(batch):
    before = batch.coordinates.clone()
    shown, noise, *_ = drawn(batch)
    again = drawn(batch)[0]
    assert torch.equal(shown.coordinates, before + noise)
    assert torch.equal(again.coordinates, shown.coordinates)
    assert torch.equal(batch.coordinates, before)


def test_modality_draws_are_uniform(batch):
    many = torch.cat([draw_modality(batch, seed=1, epoch=epoch) for epoch in range(30)])
    assert stats.kstest(many.numpy(), "uniform").pvalue > 1e-4
