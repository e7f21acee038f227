"""The blend's kernel against the objective's own draws and targets in plain torch."""

import pytest
import torch

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.graph import NUM_BOND_CLASSES
from moleblend_fs.model.target_classes import PretrainingTargets
from moleblend_fs.objectives.blend_then_predict import BlendConfig, BlendThenPredict, rules_of
from moleblend_fs.ops import dispatch
from moleblend_fs.ops.layout import Layout

pytest.importorskip("triton", reason="triton is not installed")
from moleblend_fs.ops.blend import launch, selftest

CONFIGS = {
    "default": BlendConfig(),
    "hidden pairs, distances": BlendConfig(predict_pairs="hidden", geometry_target="distance", mask_ratio=0.15),
    "SPD alone": BlendConfig(blend_ratio=(1.0, 0.0, 0.0), mask_ratio=0.3, noise_weight=0.0),
    "3D alone": BlendConfig(blend_ratio=(0.0, 0.0, 1.0), edge_weight=0.0, noise_scale=1.5),
}
SIZES = {"one atom": [1], "mixed": [3, 1, 17, 12, 2, 9], "more atoms and pairs than a program takes at once": [40, 5]}


def batch_of(sizes, device) -> MoleculeBatch:
    """Random molecules, every third one without coordinates, with numbers from all of 64 bits."""
    random = torch.Generator().manual_seed(sum(sizes))
    numbers = torch.tensor([5, -3, (7 << 40) + 11, 1 << 33, 0, 2**62])[: len(sizes)]
    atoms, pairs = sum(sizes), sum(n * n for n in sizes)

    def below(limit, *shape):
        return torch.randint(limit, shape, generator=random, dtype=torch.uint8)

    spd = below(16, pairs)
    spd[torch.rand(pairs, generator=random) < 0.1] = 255
    batch = MoleculeBatch(
        num_atoms=torch.tensor(sizes),
        molecule_id=numbers,
        atom_features=below(5, atoms, 9),
        degree=below(4, atoms),
        coordinates=3 * torch.randn(atoms, 3, generator=random),
        has_coordinates=torch.arange(len(sizes)) % 3 != 1,
        spd=spd,
        path_bonds=below(NUM_BOND_CLASSES, pairs, 5),
        labels=torch.zeros(len(sizes), 0, dtype=torch.float64),
        has_label=torch.zeros(len(sizes), 0, dtype=torch.bool),
    )
    return batch.to(device)


@pytest.fixture
def prepared(device, monkeypatch):
    """What an objective prepares of molecules, by an implementation."""

    def prepare(implementation, config, sizes, seed=3, epoch=2):
        monkeypatch.setenv(dispatch.VARIABLE, f"blend={implementation}")
        batch = batch_of(sizes, device)
        return BlendThenPredict(config).prepare(batch, Layout(batch.num_atoms.cpu(), device), seed=seed, epoch=epoch)

    return prepare


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_same_as_plain_torch(config, sizes, prepared):
    """To the bit, but for the noise, whose logarithm and cosine are other libraries'."""
    ours, theirs = prepared("triton", config, sizes), prepared("reference", config, sizes)
    assert ours.parts.tallies is not None
    assert theirs.parts.tallies is None
    for name in ("relations", "degree", "distances", "coordinates", *PretrainingTargets._fields):
        part = "targets" if name in PretrainingTargets._fields else "shown"
        a, b = (getattr(getattr(each.parts, part), name) for each in (ours, theirs))
        assert a.dtype == b.dtype, name
        if name in ("noise", "coordinates"):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
        else:
            assert torch.equal(a, b), name
    assert torch.equal(ours.counts, theirs.counts)
    objective = BlendThenPredict(config)
    found, expected = objective.statistics(ours), objective.statistics(theirs)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name].double(), expected[name].double()) for name in expected)
    if sum(sizes) > 40:
        assert ours.counts.min() > 0
        assert found["bonds_out_of_range"].item() > 0 or "edge" not in found


def test_another_seed_and_epoch_draw_otherwise(prepared):
    """Keys are handed over as signed numbers, of which half are negative."""
    first = prepared("triton", BlendConfig(), [17, 12])
    for seed, epoch in ((4, 2), (3, 3), (2**31 + 3, 2)):
        other, plain = (prepared(kind, BlendConfig(), [17, 12], seed, epoch) for kind in ("triton", "reference"))
        assert torch.equal(other.parts.shown.relations, plain.parts.shown.relations)
        assert 0.3 < (other.parts.shown.relations != first.parts.shown.relations).float().mean() < 0.8


def test_opcheck(device):
    batch = batch_of([3, 1, 5], device)
    layout, rules = Layout(batch.num_atoms.cpu(), device), rules_of(BlendConfig(), seed=1, epoch=1)
    numbers = (torch.tensor(rules.edge_class, dtype=torch.int8), torch.tensor(rules.limits), torch.tensor([0.2, 6.28], dtype=torch.float64))
    given = (batch.molecule_id, batch.has_coordinates.view(torch.uint8), layout.cu_atoms, layout.cu_pairs, batch.spd, batch.path_bonds)
    constants = [each.to(device) for each in numbers]
    torch.library.opcheck(torch.ops.moleblend.blend, (*given, batch.coordinates, *constants, [1, 2**32 - 1, 3, 4], False))


def test_self_test_fails_on_other_numbers(device, monkeypatch):
    selftest.self_test(device)
    right = launch.blend
    monkeypatch.setattr(selftest, "blend", lambda *given: right(*given[:-1], given[-1]._replace(atom_key=2)))
    with pytest.raises(dispatch.OtherNumbers, match="distances"):
        selftest.self_test(device)
