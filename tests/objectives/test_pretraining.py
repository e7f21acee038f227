"""Targets and losses of blend-then-predict, against a pair-by-pair reading of the method."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from moleblend_fs.data.graph import bond_class
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.objectives.blend_then_predict import (
    IGNORED,
    OUT_OF_RANGE,
    BlendConfig,
    bonds_out_of_range,
    class_counts,
    count_targets,
    draw_blend,
    edge_class_table,
    targets_of,
)
from moleblend_fs.ops.layout import Layout
from tests.model.molecules import AWKWARD, ORDINARY, batch_of, graph, mixed_batch
from tests.objectives.oracle import tally

OPTIONS = {
    "default": {},
    "hidden": {"predict_pairs": "hidden"},
    "distance": {"geometry_target": "distance"},
    "hidden distance, masked": {"predict_pairs": "hidden", "geometry_target": "distance", "mask_ratio": 0.4},
    "noisy nodes only": {"spd_weight": 0.0, "edge_weight": 0.0, "geometry_weight": 0.0},
    "spd masking": {"blend_ratio": (1, 0, 0), "mask_ratio": 0.5, "predict_pairs": "hidden"}
    | {"edge_weight": 0.0, "geometry_weight": 0.0, "noise_weight": 0.0},
}


def step(batch, config: BlendConfig, seed: int = 1):
    """(outputs and losses, shown, noise, targets, layout) of a small float64 model."""
    torch.manual_seed(seed)
    size = ModelConfig(layers=1, embed_dim=12, ffn_dim=8, attention_heads=2, gaussians=5, pair_dim=4, hidden_3d=6, heads=config.predict)
    model = MoleBlend(size).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    layout = Layout(batch.num_atoms, "cpu")
    shown, noise = draw_blend(batch, layout, config, seed=seed, epoch=1)
    targets = targets_of(batch, layout, shown, noise, config)
    predictions, outputs = model(batch, shown, layout), model(batch, shown, layout, targets)
    assert predictions.losses == {}
    return replace(outputs, **{name: getattr(predictions, name) for name in config.predict}), shown, noise, targets, layout


@pytest.mark.parametrize("name", OPTIONS)
def test_losses_and_counts(name):
    config = BlendConfig(**OPTIONS[name])
    batch = mixed_batch((*ORDINARY[:5], *AWKWARD), without_3d=(1, 4))
    with torch.no_grad():
        outputs, shown, noise, targets, layout = step(batch, config)
    expected = tally(batch, outputs, shown.relations, noise, shown.distances, config.predict_pairs == "hidden")
    sums, counts = outputs.losses, count_targets(targets, layout, config)
    assert set(config.predict) == set(sums) == set(expected.total)
    assert dict(zip(config.predict, counts.tolist(), strict=True)) == expected.count
    for loss in config.predict:
        # Targets of the geometry and the noise are float32 values.
        assert float(sums[loss]) == pytest.approx(expected.total[loss], rel=1e-6 if loss not in ("spd", "edge") else 1e-12), loss
    if "edge" in config.predict:
        assert int(bonds_out_of_range(targets)) == expected.out_of_range
        assert expected.out_of_range > 0, "the dative bonds of the batch have no class"


def test_spd_classes():
    """1 ... 10, and 11 or more; none on the diagonal and between the parts of a salt."""
    batch = batch_of([graph("C" * 26, 0), graph("C.C", 1)])
    *_, targets, _ = step(batch, BlendConfig())
    chain = targets.spd[: 26 * 26].view(26, 26)
    gaps = (torch.arange(26)[:, None] - torch.arange(26)).abs()
    assert torch.equal(chain, torch.where(gaps == 0, IGNORED, gaps.clamp(max=11) - 1))
    assert targets.spd[26 * 26 :].tolist() == [IGNORED] * 4


def test_edge_classes():
    """6 type + 2 stereo + conjugated; no class for misc bonds and for CIS, TRANS, ANY."""
    table = edge_class_table(torch.device("cpu"))
    seen = set()
    for kind in range(5):
        for stereo in range(6):
            for conjugated in range(2):
                target = int(table[int(bond_class(np.array([kind, stereo, conjugated])))])
                inside = kind < 4 and stereo < 3
                assert target == (6 * kind + 2 * stereo + conjugated if inside else OUT_OF_RANGE)
                seen.add(target)
    assert table[0] == IGNORED
    assert seen == {*range(24), OUT_OF_RANGE}


def test_stereo_of_a_real_molecule():
    """F/C=C/Cl: a single, a double bond with stereo E, a single one."""
    *_, targets, _ = step(batch_of([graph("F/C=C/Cl", 0)]), BlendConfig())
    path = targets.edge.view(4, 4, 5)[0, 3]
    assert path[3:].tolist() == [IGNORED] * 2
    single, double, other = path[:3].tolist()
    assert (single // 6, double // 6, other // 6) == (0, 1, 0)
    assert double % 6 // 2 == 2


def test_every_molecule_weighs_the_same_in_the_3d_loss():
    batch = mixed_batch(("CCO", "C" * 9, "C", "CCN"), without_3d=(3,))
    *_, targets, layout = step(batch, BlendConfig())
    weights = torch.zeros(4).index_add(0, layout.pair_molecule, targets.geometry_weight)
    torch.testing.assert_close(weights, torch.tensor([1.0, 1, 0, 0]), rtol=0, atol=1e-6)
    assert not targets.geometry_weight[layout.pair_row == layout.pair_column].any()


@pytest.mark.parametrize(
    ("smiles", "without"),
    [(("C", "[Na+]", "C"), ()), (("C", "C"), (0, 1)), (("CCO", "CC"), (0, 1)), (("[Na+].[Cl-]",), ())],
    ids=["single atoms", "single atoms without 3D", "no coordinates", "no paths"],
)
@pytest.mark.parametrize("target", ["displacement", "distance"])
def test_batches_that_lack_targets_have_losses_and_gradients_of_zero_not_nan(smiles, without, target):
    config = BlendConfig(geometry_target=target)
    outputs, _, _, targets, layout = step(mixed_batch(smiles, without), config)
    sums, counts = outputs.losses, count_targets(targets, layout, config)
    outputs.tokens.retain_grad()
    total = torch.stack([loss / count.clamp(min=1) for loss, count in zip(sums.values(), counts, strict=True)]).sum()
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(outputs.tokens.grad).all()
    for (name, loss), count in zip(sums.items(), counts, strict=True):
        assert count > 0 or float(loss.detach()) == 0, name


def test_clean_coordinates_are_the_target_and_noisy_ones_the_input():
    batch = mixed_batch(("CCO", "CCN"), ())
    _, shown, noise, targets, layout = step(batch, BlendConfig(noise_scale=0.7))
    assert noise.abs().max() > 0.3
    torch.testing.assert_close(shown.coordinates - noise, batch.coordinates)
    expected = batch.coordinates[layout.pair_column] - batch.coordinates[layout.pair_row]
    assert torch.equal(targets.displacement, expected)
    assert torch.equal(targets.noise, noise)
    assert torch.equal(targets.noisy, shown.distances)


def test_lone_atoms_do_not_blow_the_gradient_up():
    """They have no neighbour to tell their noise: the prediction is exactly the bias, 0 at first, where 1 - cos has a gradient of 1e8."""

    def gradient(smiles) -> float:
        batch = batch_of([graph(s, seed) for seed, s in enumerate(smiles)])
        config = BlendConfig()
        torch.manual_seed(0)
        model = MoleBlend(ModelConfig(layers=1, embed_dim=16, ffn_dim=16, attention_heads=2, gaussians=8, heads=config.predict)).eval()
        layout = Layout(batch.num_atoms, "cpu")
        shown, noise = draw_blend(batch, layout, config, seed=1, epoch=1)
        targets = targets_of(batch, layout, shown, noise, config)
        assert shown.distances[-4:].any()
        loss = model(batch, shown, layout, targets).losses["noise"] / targets.noisy.sum()
        loss.backward()
        return float(model.heads["noise"].axes.bias.grad.norm())

    assert gradient((*ORDINARY, "C", "[He]", "C", "C")) == pytest.approx(gradient(ORDINARY), rel=1e-4)


def test_class_histograms():
    config = BlendConfig()
    *_, targets, _ = step(mixed_batch(), config)
    counts = class_counts(targets, config)
    assert counts["spd"].tolist() == [int((targets.spd == c).sum()) for c in range(11)]
    assert counts["edge"].tolist() == [int((targets.edge == c).sum()) for c in range(24)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blend_ratio": (0.2, 0.2, 0.5)}, r"--blend-ratio must be three shares .* sum to 1.*sum 0\.9; the paper's is 0\.2,0\.2,0\.6"),
        ({"blend_ratio": (0.5, 0.5)}, "--blend-ratio"),
        ({"blend_ratio": (1.2, -0.2, 0)}, "--blend-ratio"),
        ({"mask_ratio": 1.0}, "--mask-ratio"),
        ({"noise_scale": 0.0}, "--noise-weight 0 as well"),
        ({"noise_weight": -1.0}, "--noise-weight must not be negative"),
        (dict.fromkeys(("spd_weight", "edge_weight", "geometry_weight", "noise_weight"), 0.0), "all loss weights are 0"),
    ],
)
def test_objectives_that_cannot_be_are_told(change, message):
    with pytest.raises(UserError, match=message):
        BlendConfig(**change)


@pytest.mark.parametrize("ratio", [(0.7, 0.2, 0.1), (1 / 3, 1 / 3, 1 / 3), (0.1, 0.2, 0.7)])
def test_ratios_that_sum_to_one_but_for_rounding_are_kept(ratio):
    """The reference release replaces 0.7, 0.2, 0.1 by its default."""
    assert BlendConfig(blend_ratio=ratio).blend_ratio == ratio
