"""Blend-then-predict as an objective: that its terms, counts, sums and logged numbers are in one order, of one draw."""

import math

import numpy as np
import pytest
import torch

from moleblend_fs.data.manifest import Manifest
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.objectives.blend_then_predict import BlendConfig, BlendThenPredict, draw_blend
from moleblend_fs.objectives.objective import Read
from moleblend_fs.ops.layout import Layout
from tests.model.molecules import batch_of, graph
from tests.objectives.suite import Case, mean_losses, model_of

CASE = Case(
    variants={"hidden distances": {"predict_pairs": "hidden", "geometry_target": "distance"}},
    still={"noise_scale": 1e-12},
    turning=("displacement", "noisy_nodes"),
    reached={"": 2.5},
    updates=60,
    rate=1e-2,
)

SIZE = {"layers": 1, "embed_dim": 16, "ffn_dim": 16, "attention_heads": 2, "gaussians": 8, "pair_dim": 4, "hidden_3d": 8}
NAMES = {"spd": "spd", "edge": "edge", "displacement": "displacement", "distance": "distance", "noise": "noisy_nodes"}
CONFIGS = [
    BlendConfig(),
    BlendConfig(geometry_target="distance", spd_weight=0.0, edge_weight=3.0),
    BlendConfig(noise_weight=0.0, geometry_weight=0.0, spd_weight=2.0),
]


@pytest.fixture(scope="module")
def batch():
    return batch_of([graph("CCO", 0), graph("c1ccccc1C(=O)O", 1), graph("C", 2), graph("CC#N", 3, coordinates=False)])


@pytest.mark.parametrize("options", CONFIGS)
def test_terms_counts_and_sums_are_in_one_order(options, batch):
    objective = BlendThenPredict(options)
    weights = {"spd": options.spd_weight, "edge": options.edge_weight, options.geometry_target: options.geometry_weight}
    weights["noise"] = options.noise_weight
    expected = {NAMES[name]: weight for name, weight in weights.items() if weight > 0}
    assert list(objective.terms()) == list(expected.items())
    assert [NAMES[head] for head in objective.heads()] == list(expected)

    layout = Layout(batch.num_atoms, "cpu")
    prepared = objective.prepare(batch, layout, seed=3, epoch=2)
    shown, noise = draw_blend(batch, layout, options, seed=3, epoch=2)
    assert (prepared.batch, prepared.layout) == (batch, layout)
    assert torch.equal(prepared.parts.shown.relations, shown.relations)
    assert torch.equal(prepared.parts.shown.coordinates, shown.coordinates)
    assert torch.equal(prepared.parts.targets.noise, noise)

    atoms = batch.num_atoms.long()
    with_3d = batch.has_coordinates & (atoms > 1)
    counts = {"spd": int((atoms * (atoms - 1)).sum()), "displacement": int(with_3d.sum()), "distance": int(with_3d.sum())}
    counts["edge"] = int((prepared.parts.targets.edge >= 0).sum())
    counts["noisy_nodes"] = int((shown.distances & (atoms > 1)[layout.atom_molecule]).sum())
    assert prepared.counts.tolist() == [counts[name] for name in expected]
    assert prepared.counts.dtype == torch.float64

    torch.manual_seed(0)
    model = MoleBlend(ModelConfig(**SIZE, heads=objective.heads())).eval()
    with torch.no_grad():
        sums = objective.loss_sums(model, prepared)
        losses = model(batch, shown, layout, prepared.parts.targets).losses
    assert {NAMES[name]: float(value) for name, value in losses.items()} == dict(zip(expected, sums.tolist(), strict=True))
    assert len(set(sums.tolist())) == len(sums), "no two terms could be exchanged unseen"


def test_a_model_that_knows_nothing(batch):
    """0.1 ln 11 + 0.1 ln 24 + 0.5 + 6 = 7.057595: equal logits, and directions that are none."""
    objective = BlendThenPredict(BlendConfig())
    model = model_of(objective)
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.zero_()
        losses = mean_losses(objective, model, batch)
    assert losses == pytest.approx({"spd": math.log(11), "edge": math.log(24), "displacement": 1, "noisy_nodes": 1})
    assert sum(term.weight * losses[term.name] for term in objective.terms()) == pytest.approx(7.057595, abs=1e-6)


def test_what_is_logged_beside_the_losses(batch):
    """H(classes) - loss: of two classes as frequent as each other ln 2, less the loss."""
    objective = BlendThenPredict(BlendConfig())
    statistics = objective.statistics(objective.prepare(batch, Layout(batch.num_atoms, "cpu"), seed=1, epoch=1))
    assert {name: len(vector) for name, vector in statistics.items()} == {"bonds_out_of_range": 1, "spd": 11, "edge": 24}
    stored = {"bonds_out_of_range": np.array([7.0]), "spd": np.array([5.0, 5.0]), "edge": np.array([1.0, 0.0, 3.0])}
    means = {"spd": 0.25, "edge": 0.125, "displacement": 9.0, "noisy_nodes": 8.0}
    read = Read(means.__getitem__, stored.__getitem__)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert {name: value(read) for name, value in objective.logged().items()} == {
        "bonds_out_of_range": 7.0,
        "spd_information": round(math.log(2) - 0.25, 4),
        "edge_information": round(entropy - 0.125, 4),
    }
    assert set(BlendThenPredict(CONFIGS[1]).logged()) == {"bonds_out_of_range", "edge_information"}


def test_a_store_without_3d_is_refused_for_3d_targets_alone(qm9_store):
    manifest = qm9_store.manifest
    flat = Manifest(**{**{name: getattr(manifest, name) for name in manifest.__dataclass_fields__}, "molecules_with_3d": 0})
    for options in (BlendConfig(noise_weight=0.0), BlendConfig(geometry_weight=0.0), BlendConfig()):
        BlendThenPredict(options).check(manifest, "STORE")
        with pytest.raises(UserError, match=r"STORE has no 3D structures, but 3D targets are asked for; set --geometry-weight 0"):
            BlendThenPredict(options).check(flat, "STORE")
    BlendThenPredict(CONFIGS[2]).check(flat, "STORE")
