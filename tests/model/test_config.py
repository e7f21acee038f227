"""Shipped sizes: each is built and makes a step; what they cost is written down."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from moleblend_fs.errors import UserError
from moleblend_fs.model.config import PRESETS, ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.objectives.blend_then_predict import BlendConfig, count_targets, draw_blend, targets_of
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.residual_norm import residual_sum
from tests.model.molecules import batch_of, graph


def expected_parameters(c: ModelConfig) -> int:
    """From the method's description: tables, distance encoder, blocks."""
    d, h, k, f = c.embed_dim, c.attention_heads, c.gaussians, c.ffn_dim
    atoms = (9 * 512 + 1) * d + 2 * 512 * d + d + (k + 1) * d
    relations = 512 * h + (3 * 512 + 1) * h + 5 * h * h + h + 2 * 3 * 512 + 2 * k + (k + 1) * k + (k + 1) * h
    block = 4 * (d + 1) * d + (d + 1) * f + (f + 1) * d + 4 * d
    return atoms + relations + 2 * d + c.layers * block


def expected_head_parameters(c: ModelConfig) -> int:
    d, m = c.embed_dim, c.pair_dim
    sides = 2 * ((d + 1) * m + 2 * m)
    spd, edge = sides + (m * m + 1) * 11, sides + (m * m + 1) * 120
    displacement = sides + (m * m + 1) * c.hidden_3d + (c.hidden_3d + 1) * 3
    return spd + edge + displacement + 3 * (d + 1) * d + (d + 1) * 3


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_of_a_shipped_size(name):
    """Built of tensors without content: a billion parameters take 4 GB."""
    config = ModelConfig(**PRESETS[name], heads=BlendConfig().predict)
    with FakeTensorMode():
        count = sum(p.numel() for p in MoleBlend(config).parameters())
    assert count == expected_parameters(config) + expected_head_parameters(config)
    if name == "huge":
        assert 0.95e9 < count < 1.05e9


@pytest.mark.parametrize("name", PRESETS)
def test_a_shipped_size_is_built_and_makes_a_step(name):
    blend = BlendConfig()
    config = ModelConfig(**PRESETS[name], heads=blend.predict)
    assert config.embed_dim % config.attention_heads == 0
    if name in ("large", "huge"):
        config = replace(config, layers=2)  # all 24 or 40, which are alike, take up to 10 GB and minutes; `base` has all of its own
    torch.manual_seed(0)
    model = MoleBlend(config).train()
    batch = batch_of([graph("CCO", 0), graph("C1CC1N", 1)])
    layout = Layout(batch.num_atoms, "cpu")
    shown, noise = draw_blend(batch, layout, blend, seed=1, epoch=1)
    targets = targets_of(batch, layout, shown, noise, blend)
    counts = count_targets(targets, layout, blend)

    def loss() -> torch.Tensor:
        losses = model(batch, shown, layout, targets).losses
        sums = torch.stack([losses[name] for name in blend.predict])
        return (sums.new_tensor(list(blend.weights.values())) * sums / counts.clamp(min=1)).sum()

    first = loss()
    first.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert silent == []
    model.eval()
    with torch.no_grad():
        before = loss()
        norm = torch.sqrt(sum(p.grad.square().sum() for p in model.parameters()))
        for p in model.parameters():
            p -= 1e-3 / norm * p.grad
        assert loss() < before


def test_base_is_the_papers():
    base = ModelConfig(**PRESETS["base"])
    assert (base.layers, base.embed_dim, base.ffn_dim, base.attention_heads, base.gaussians) == (12, 768, 768, 32, 128)
    assert (base.dropout, base.attention_dropout, base.activation_dropout, base.drop_path) == (0.0, 0.1, 0.1, 0.1)


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"embed_dim": 50}, "--embed-dim 50 must be a multiple of --attention-heads 32"),
        ({"layers": 0}, "--layers must be at least 1"),
        ({"drop_path": 1.0}, r"--drop-path must lie in \[0, 1\)"),
    ],
)
def test_sizes_that_cannot_be_are_told(change, flag):
    with pytest.raises(UserError, match=flag):
        ModelConfig(**change)


@torch.no_grad()
def test_initialisation():
    """Linear and embedding normal(0, 0.02), biases and padding rows 0; Gaussians uniform in [0, 3], mul 1, shift 0."""
    torch.manual_seed(1)
    model = MoleBlend(ModelConfig(**PRESETS["small"], heads=("spd", "displacement", "noise", "property")))
    for name, p in model.named_parameters():
        if "norm" in name:
            assert torch.equal(p, torch.full_like(p, float(name.endswith("weight")))), name
        elif name in ("relations.gaussian_means", "relations.gaussian_stds"):
            assert p.min() >= 0, name
            assert 2.5 < p.max() <= 3, name
            assert p.std() > 0.6, name
        elif name == "relations.distance_mul":
            assert (p == 1).all()
        elif name == "relations.distance_shift" or (name.endswith("bias") and name != "relations.graph_bias"):
            assert (p == 0).all(), name
        elif p.numel() > 1000:
            assert abs(float(p.std()) - 0.02) < 0.001, name
        else:
            assert 0 < float(p.abs().max()) < 0.1, name
    for table in (model.atoms.atom_table, model.atoms.in_degree_table, model.relations.spd_table, model.relations.bond_table):
        assert (table.weight[0] == 0).all()


def test_stochastic_depth_rises_and_drops_whole_molecules():
    config = ModelConfig(
        layers=5, embed_dim=8, ffn_dim=8, attention_heads=2, gaussians=4, drop_path=0.4, attention_dropout=0, activation_dropout=0
    )
    model = MoleBlend(config).train()
    assert [block.drop_path for block in model.encoder.blocks] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    block = model.encoder.blocks[4]
    layout = Layout(torch.full((4000,), 3), "cpu")
    torch.manual_seed(0)

    def added(layout: Layout) -> torch.Tensor:
        """What a block adds to zeros where a branch gives ones."""
        ones = torch.ones(layout.num_tokens, 8)
        return residual_sum(torch.zeros_like(ones), block._branch(ones, block.ffn_out, bare=False), layout)

    out = added(layout).view(4000, 4 * 8)
    kept = out[:, 0] > 0
    assert ((out > 0) == kept[:, None]).all()
    assert torch.allclose(out[kept], torch.tensor(1 / 0.6))
    # Four standard deviations of a binomial share.
    assert abs(float(kept.float().mean()) - 0.6) < 4 * (0.24 / 4000) ** 0.5
    model.eval()
    assert torch.equal(added(Layout(torch.tensor([3]), "cpu")), torch.ones(4, 8))


def test_a_head_that_there_is_not_is_told():
    with pytest.raises(UserError, match="unknown head 'colour'; there are spd, "):
        MoleBlend(ModelConfig(**PRESETS["tiny"], heads=("spd", "colour")))


def test_sizes_of_heads():
    """By name, 1 where they are not known; a configuration with some is another one, and can still be a key."""
    plain, sized = ModelConfig(), ModelConfig(sizes={"contexts": 7})
    assert (sized.size_of("contexts"), sized.size_of("others"), plain.size_of("contexts")) == (7, 1, 1)
    assert len({plain, sized, ModelConfig(sizes={"contexts": 7})}) == 2
