"""Files of the reference release, made here from models of ours: read back, they are the same model, whatever its size and heads."""

import pytest
import torch

from moleblend_fs.checkpoint.read import convert
from moleblend_fs.checkpoint.reference_release import ROOT, convert_weights, infer_config, sources
from moleblend_fs.data.graph import MAX_HOPS
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.moleblend import MoleBlend

SIZE = {"layers": 3, "embed_dim": 12, "ffn_dim": 20, "attention_heads": 4, "gaussians": 7, "pair_dim": 5, "hidden_3d": 6}
PRETRAINING = ("spd", "edge", "displacement", "noise")


def released(config: ModelConfig) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(our weights, the same as the release has them: in parts, hop matrices in one table of more hops than are read)."""
    torch.manual_seed(0)
    ours = {name: torch.randn_like(value) for name, value in MoleBlend(config).state_dict().items()}
    theirs = {}
    for name, parts in sources(config).items():
        if name in ours:
            theirs |= dict(zip(parts, ours[name].chunk(len(parts)), strict=True))
    heads = config.attention_heads
    hops = f"{ROOT}molecule_attn_bias.edge_dis_encoder.weight"
    more = torch.randn(40 - MAX_HOPS, heads, heads)
    theirs[hops] = torch.cat([theirs[hops], more]).reshape(-1, 1)
    return ours, theirs


@pytest.mark.parametrize(
    ("heads", "tasks"),
    [
        (PRETRAINING, 1),
        (("property",), 3),
        (("spd",), 1),
        (("edge",), 1),
        (("displacement",), 1),
        (("noise",), 1),
        ((*PRETRAINING, "property"), 2),
    ],
)
def test_the_same_model_comes_back(heads, tasks):
    config = ModelConfig(**SIZE, heads=heads, tasks=tasks)
    ours, theirs = released(config)
    found = convert({**theirs, "encoder.embed_out.weight": torch.zeros(2), "encoder.other": torch.zeros(1)}, "FILE")
    sizes = dict(SIZE)  # those of heads that are not there cannot be seen, and do not matter
    if not {"spd", "edge", "displacement"} & set(heads):
        del sizes["pair_dim"]
    if "displacement" not in heads:
        del sizes["hidden_3d"]
    assert found.config == ModelConfig(**sizes, heads=heads, tasks=tasks)
    assert found.weights.keys() == ours.keys()
    assert all(torch.equal(found.weights[name], value) for name, value in ours.items())
    assert found.about == {"file": "FILE", "format": "reference release", "not_understood": ["encoder.other"]}
    found.build()


def test_a_model_of_2d_alone_lacks_the_distances_and_nothing_else():
    config = ModelConfig(**SIZE, heads=("spd", "edge"))
    ours, theirs = released(config)
    flat = {name: value for name, value in theirs.items() if "molecule_3d_bias" not in name}
    inferred = infer_config(flat)
    assert inferred.gaussians == ModelConfig().gaussians
    weights, unknown = convert_weights(flat, {name: value.shape for name, value in ours.items()}, config)
    lacking = ours.keys() - weights.keys()
    assert unknown == []
    assert lacking == {name for name in ours if name.startswith(("relations.gaussian", "relations.distance", "atoms.from_gaussians"))}


def test_heads_of_attention_can_be_given():
    _, theirs = released(ModelConfig(**SIZE, heads=("spd",)))
    assert infer_config(theirs).attention_heads == 4
    assert infer_config(theirs, attention_heads=2).attention_heads == 2


@pytest.mark.parametrize("absent", ["emb_layer_norm.weight", "molecule_attn_bias.spatial_pos_encoder.weight", "layers.0.fc1.weight"])
def test_files_that_are_something_else_are_told_by_what_they_lack(absent):
    _, theirs = released(ModelConfig(**SIZE, heads=("spd",)))
    del theirs[ROOT + absent]
    with pytest.raises(UserError, match=rf"^FILE: not a checkpoint of the reference release: no parameter '{ROOT}{absent}'"):
        convert(theirs, "FILE")


def test_weights_of_two_models_are_told():
    _, theirs = released(ModelConfig(**SIZE, heads=("spd",)))
    theirs[f"{ROOT}layers.1.fc1.weight"] = torch.zeros(20, 13)
    with pytest.raises(UserError, match=r"^FILE: its weights are not those of one model: "):
        convert(theirs, "FILE")
    _, theirs = released(ModelConfig(**SIZE, heads=("spd",)))
    theirs[f"{ROOT}layers.1000.fc1.weight"] = torch.zeros(20, 12)
    with pytest.raises(UserError, match=r"^FILE: 1001 layers, but \d+ weights"):
        convert(theirs, "FILE")
