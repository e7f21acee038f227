"""The model in float64 against a second, naive one written from the method's description."""

import pytest
import torch

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.heads import HEADS
from moleblend_fs.model.moleblend import MoleBlend, Outputs
from moleblend_fs.model.shown import Shown, show_all
from moleblend_fs.ops.layout import Layout
from tests.model.molecules import AWKWARD, ORDINARY, mixed_batch, random_relations
from tests.model.oracle import Oracle, molecules_of

TOLERANCE = 1e-9
"""Rounding of float64 through a few layers is about 1e-13."""

CONFIGS = {
    "odd sizes": ModelConfig(
        layers=3, embed_dim=21, ffn_dim=13, attention_heads=3, gaussians=7, pair_dim=5, hidden_3d=11, heads=HEADS, tasks=3
    ),
    "width = Gaussians": ModelConfig(
        layers=1, embed_dim=16, ffn_dim=16, attention_heads=2, gaussians=16, pair_dim=16, hidden_3d=16, heads=HEADS
    ),
    "one head, no blocks to speak of": ModelConfig(
        layers=1, embed_dim=5, ffn_dim=1, attention_heads=1, gaussians=1, pair_dim=2, hidden_3d=1, heads=("spd", "noise")
    ),
}


def build(config: ModelConfig) -> MoleBlend:
    """A float64 model whose every parameter is random, padding rows too: what is not to be read must not be."""
    torch.manual_seed(5)
    model = MoleBlend(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
        for name in ("spd_table", "bond_table"):
            getattr(model.relations, name).weight[0] = 0
    return model


def packed(name: str, parts: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    rows = [part[name] for part in parts]
    if name == "properties":
        return torch.stack(rows)
    return torch.cat([row.flatten(0, 1) if row.ndim == 3 else row for row in rows])


def largest_errors(outputs: Outputs, parts: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    """max |ours - oracle| / max |oracle| of every output."""
    errors = {}
    for name in parts[0]:
        ours, expected = getattr(outputs, name), packed(name, parts)
        assert ours.dtype == torch.float64, name
        ours = ours.reshape(expected.shape)
        errors[name] = float((ours - expected).abs().max() / expected.abs().max())
    return errors


def random_shown(batch: MoleculeBatch, seed: int) -> Shown:
    relations, distances = random_relations(batch, seed)
    degree = torch.rand(len(distances), generator=torch.Generator().manual_seed(seed + 1)) < 0.5
    return Shown(relations=relations, degree=degree, distances=distances, coordinates=batch.coordinates.double())


@pytest.mark.parametrize("name", CONFIGS)
def test_every_output_of_any_blend(name):
    batch, model = mixed_batch(), build(CONFIGS[name])
    shown = random_shown(batch, 3)
    with torch.no_grad():
        outputs = model(batch, shown, Layout(batch.num_atoms, "cpu"))
    oracle = Oracle(model.state_dict(), layers=model.config.layers, heads=model.config.attention_heads)
    parts = [oracle.outputs(m) for m in molecules_of(batch, shown.relations, shown.degree, shown.distances, shown.coordinates)]
    errors = largest_errors(outputs, parts)
    assert set(errors) >= {"bias", "tokens", "spd", "noise"}
    assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.parametrize("modality", ["2d", "3d", "2d+3d"])
def test_finetuning_inputs(modality):
    """2D: SPD + edge, degrees. 3D: distances and their sums. Both: all added. Without coordinates "2d+3d" is 2D."""
    missing = () if modality == "3d" else (0, 6)
    batch, model = mixed_batch((*ORDINARY[:4], *AWKWARD), missing), build(CONFIGS["odd sizes"])
    layout = Layout(batch.num_atoms, "cpu")
    shown = show_all(batch, layout, modality)
    with torch.no_grad():
        outputs = model(batch, shown, layout)
    sizes = batch.num_atoms
    two_d = torch.full_like(batch.has_coordinates, modality != "3d")
    three_d = batch.has_coordinates if modality != "2d" else torch.zeros_like(batch.has_coordinates)
    relations = (two_d * 3 + three_d * 4).repeat_interleave(sizes**2)
    degree, distances = two_d.repeat_interleave(sizes), three_d.repeat_interleave(sizes)
    oracle = Oracle(model.state_dict(), layers=3, heads=3)
    parts = [oracle.outputs(m) for m in molecules_of(batch, relations, degree, distances, batch.coordinates)]
    # Coordinates are float32 here: distances carry 1e-7 of relative rounding.
    errors = largest_errors(outputs, parts)
    assert max(errors.values()) < (TOLERANCE if modality == "2d" else 2e-5), errors


@pytest.mark.parametrize(
    "swap",
    [
        ("heads.spd.left.weight", "heads.spd.right.weight", "spd"),
        ("heads.edge.left.weight", "heads.edge.right.weight", "edge"),
        ("atoms.in_degree_table.weight", "atoms.atom_table.weight", "tokens"),
        ("heads.noise.query.weight", "heads.noise.value.weight", "noise"),
        ("relations.gaussian_means", "relations.gaussian_stds", "bias"),
    ],
)
def test_the_comparison_notices_swapped_weights(swap):
    batch, model = mixed_batch(ORDINARY[2:5], ()), build(CONFIGS["odd sizes"])
    shown = random_shown(batch, 3)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    first, second, output = swap
    rows = min(len(weights[first]), len(weights[second]))
    weights[first][:rows], weights[second][:rows] = weights[second][:rows].clone(), weights[first][:rows].clone()
    oracle = Oracle(weights, layers=3, heads=3)
    parts = [oracle.outputs(m) for m in molecules_of(batch, shown.relations, shown.degree, shown.distances, shown.coordinates)]
    with torch.no_grad():
        errors = largest_errors(model(batch, shown, Layout(batch.num_atoms, "cpu")), parts)
    assert errors[output] > 1e4 * TOLERANCE, errors
