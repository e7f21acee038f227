"""Reading the weights of the reference release (and of files that share its parameter names)."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from moleblend_fs.data.graph import MAX_HOPS
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig

ROOT = "encoder.molecule_encoder."

RENAMED = {
    "atoms.atom_table.weight": "atom_feature.atom_encoder.weight",
    "atoms.in_degree_table.weight": "atom_feature.in_degree_encoder.weight",
    "atoms.out_degree_table.weight": "atom_feature.out_degree_encoder.weight",
    "atoms.graph_token": "atom_feature.graph_token.weight",
    "atoms.from_gaussians.weight": "molecule_3d_bias.edge_proj.weight",
    "atoms.from_gaussians.bias": "molecule_3d_bias.edge_proj.bias",
    "relations.spd_table.weight": "molecule_attn_bias.spatial_pos_encoder.weight",
    "relations.bond_table.weight": "molecule_attn_bias.edge_encoder.weight",
    "relations.hop_matrices": "molecule_attn_bias.edge_dis_encoder.weight",
    "relations.graph_bias": "molecule_attn_bias.graph_token_virtual_distance.weight",
    "relations.gaussian_means": "molecule_3d_bias.gbf.means.weight",
    "relations.gaussian_stds": "molecule_3d_bias.gbf.stds.weight",
    "relations.distance_mul": "molecule_3d_bias.gbf.mul.weight",
    "relations.distance_shift": "molecule_3d_bias.gbf.bias.weight",
    "relations.distance_hidden.weight": "molecule_3d_bias.gbf_proj.layer1.weight",
    "relations.distance_hidden.bias": "molecule_3d_bias.gbf_proj.layer1.bias",
    "relations.distance_out.weight": "molecule_3d_bias.gbf_proj.layer2.weight",
    "relations.distance_out.bias": "molecule_3d_bias.gbf_proj.layer2.bias",
    "encoder.embedding_norm.weight": "emb_layer_norm.weight",
    "encoder.embedding_norm.bias": "emb_layer_norm.bias",
    "heads.noise.query.weight": "atom_proc.q_proj.weight",
    "heads.noise.query.bias": "atom_proc.q_proj.bias",
    "heads.noise.key.weight": "atom_proc.k_proj.weight",
    "heads.noise.key.bias": "atom_proc.k_proj.bias",
    "heads.noise.value.weight": "atom_proc.v_proj.weight",
    "heads.noise.value.bias": "atom_proc.v_proj.bias",
    "heads.property.hidden.weight": "proj_out.dense.weight",
    "heads.property.hidden.bias": "proj_out.dense.bias",
    "heads.property.out.weight": "proj_out.out_proj.weight",
    "heads.property.out.bias": "proj_out.out_proj.bias",
}
"""Our name -> theirs, where one tensor corresponds to one (reshaped where needed)."""

PAIR_HEADS = {
    "spd": ("blend_spd_pred_head", "linear"),
    "edge": ("blend_edge_pred_head", "linear_map_feature"),
    "displacement": ("blend_3d_pred_head", "linear"),
}

BLOCK = {
    "attention_out": ("self_attn.out_proj",),
    "attention_norm": ("self_attn_layer_norm",),
    "ffn_in": ("fc1",),
    "ffn_out": ("fc2",),
    "ffn_norm": ("final_layer_norm",),
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
}

UNUSED = ("lm_head_transform_weight.", "lm_output_learned_bias", "embed_out.", "layer_norm.")
"""Parameters of the release that no output depends on."""


def sources(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Our parameter name -> the release's names, to be concatenated along the first axis."""
    names: dict[str, tuple[str, ...]] = {
        ours: (ROOT + theirs if not theirs.startswith("proj_out") else "encoder." + theirs,) for ours, theirs in RENAMED.items()
    }
    for block in range(config.layers):
        for ours, parts in BLOCK.items():
            for kind in ("weight", "bias"):
                names[f"encoder.blocks.{block}.{ours}.{kind}"] = tuple(f"{ROOT}layers.{block}.{part}.{kind}" for part in parts)
    for head, (theirs, out) in PAIR_HEADS.items():
        for kind in ("weight", "bias"):
            names[f"heads.{head}.out.{kind}"] = (f"{ROOT}{theirs}.{out}.{kind}",)
            for ours, side in (("left", LEFT), ("right", RIGHT)):
                names[f"heads.{head}.{ours}.{kind}"] = (f"{ROOT}{theirs}.transform_n2_head.{side}_head.{kind}",)
                names[f"heads.{head}.{ours}_norm.{kind}"] = (f"{ROOT}{theirs}.transform_n2_head.{side}_LayerNorm.{kind}",)
    for kind in ("weight", "bias"):
        names[f"heads.displacement.axes.{kind}"] = tuple(f"{ROOT}blend_3d_pred_head.force_proj{axis}.{kind}" for axis in (1, 2, 3))
        names[f"heads.noise.axes.{kind}"] = tuple(f"{ROOT}atom_proc.force_proj{axis}.{kind}" for axis in (1, 2, 3))
    return names


LEFT, RIGHT = "row", "column"
"""Which of the release's two projections reads atom i of pair (i, j)."""


def infer_config(weights: Mapping[str, Tensor], attention_heads: int | None = None) -> ModelConfig:
    """Model size from the shapes of the release's weights."""
    try:
        embed_dim = weights[f"{ROOT}emb_layer_norm.weight"].shape[0]
        heads = weights[f"{ROOT}molecule_attn_bias.spatial_pos_encoder.weight"].shape[1]
        ffn_dim = weights[f"{ROOT}layers.0.fc1.weight"].shape[0]
    except KeyError as error:
        raise UserError(f"not a checkpoint of the reference release: no parameter {error.args[0]!r}") from error
    layers = 1 + max(int(m.group(1)) for name in weights if (m := re.match(re.escape(ROOT) + r"layers\.(\d+)\.", name)))
    present = {
        "spd": f"{ROOT}blend_spd_pred_head.linear.bias",
        "edge": f"{ROOT}blend_edge_pred_head.linear_map_feature.bias",
        "displacement": f"{ROOT}blend_3d_pred_head.linear.bias",
        "noise": f"{ROOT}atom_proc.force_proj1.bias",
        "property": "encoder.proj_out.out_proj.bias",
    }
    means = weights.get(f"{ROOT}molecule_3d_bias.gbf.means.weight")
    hidden = weights.get(f"{ROOT}blend_3d_pred_head.linear.bias")
    each_side = (weights.get(f"{ROOT}{head}.transform_n2_head.{LEFT}_head.bias") for head, _ in PAIR_HEADS.values())
    side = next((bias for bias in each_side if bias is not None), None)
    tasks = weights.get("encoder.proj_out.out_proj.bias")
    defaults = ModelConfig()
    return ModelConfig(
        layers=layers,
        embed_dim=embed_dim,
        ffn_dim=ffn_dim,
        attention_heads=attention_heads or heads,
        gaussians=defaults.gaussians if means is None else means.numel(),
        pair_dim=defaults.pair_dim if side is None else len(side),
        hidden_3d=defaults.hidden_3d if hidden is None else len(hidden),
        tasks=1 if tasks is None else len(tasks),
        heads=tuple(head for head, name in present.items() if name in weights),
    )


def to_ours(theirs: torch.Tensor, shape: torch.Size, name: str) -> Tensor:
    """One converted tensor: reshaped, and the hop matrices cut to the hops in use."""
    if name == "relations.hop_matrices":
        theirs = theirs.view(-1, shape[1], shape[2])[:MAX_HOPS]
    return theirs.reshape(shape)


def convert_weights(
    weights: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], config: ModelConfig
) -> tuple[dict[str, Tensor], list[str]]:
    """The release's weights under our names.

    Args:
        weights: the release's parameters.
        shapes: shape of every one of our parameters.

    Returns:
        Our weights (without those that the file lacks, such as the distance encoder of a 2D-only model), and the names
        of the file that were neither used nor known to be unused.
    """
    used: set[str] = set()
    result: dict[str, Tensor] = {}
    for ours, theirs in sources(config).items():
        if ours not in shapes or not all(name in weights for name in theirs):
            continue
        used.update(theirs)
        result[ours] = to_ours(torch.cat([weights[name] for name in theirs]), shapes[ours], ours)
    ignored = tuple(f"encoder.{name}" for name in UNUSED)
    return result, sorted(name for name in weights if name not in used and not name.startswith(ignored))
