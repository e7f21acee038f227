"""The same model and losses the plain way: every molecule padded to the batch's largest, everything materialised.

This is what the packed step is measured against. It reads a `MoleBlend`'s parameters, so that both give the same numbers.
Shape legend: B molecules, n atoms and N = n + 1 tokens of the largest, H heads, w head width, K Gaussians, m pair width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.graph import UNREACHABLE
from moleblend_fs.model.heads import GeometryHead, NoiseHead, PairHead
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import Shown
from moleblend_fs.model.target_classes import EDGE_CLASSES, PretrainingTargets
from moleblend_fs.ops.embedding_rows import FIRST_ELEMENT_ROW, SECOND_ELEMENT_ROW, SPD_FIRST_ROW, UNREACHABLE_ROW
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import SHOW_DISTANCE, SHOW_EDGE, SHOW_SPD
from moleblend_fs.ops.relation_bias.reference import gaussians


class Padding:
    """Places of padded atoms and pairs, and which exist.

    Attributes:
        atoms: (B, n) places in A. atom_exists: (B, n). pairs: (B, n, n) places in P. pair_exists: (B, n, n).
    """

    def __init__(self, layout: Layout):
        n = int(layout.sizes.max())
        size = layout.cu_atoms.diff()
        atom = torch.arange(n, device=layout.device)
        self.atom_exists = atom < size[:, None]
        self.pair_exists = self.atom_exists[:, :, None] & self.atom_exists[:, None, :]
        self.atoms = (layout.cu_atoms[:-1, None] + atom) * self.atom_exists
        self.pairs = (layout.cu_pairs[:-1, None, None] + atom[:, None] * size[:, None, None] + atom) * self.pair_exists


def relation_bias(model: MoleBlend, batch: MoleculeBatch, shown: Shown, pad: Padding) -> tuple[Tensor, Tensor]:
    """(B, H, n, n) bias and (B, n, K) Gaussian sums; all three encodings of all pairs, then what is shown of them."""
    r = model.relations
    spd, path, bits = batch.spd[pad.pairs].long(), batch.path_bonds[pad.pairs].long(), shown.relations[pad.pairs]
    rows = torch.where(spd == UNREACHABLE, UNREACHABLE_ROW, spd + SPD_FIRST_ROW)
    bias = r.spd_table(rows) * ((bits & SHOW_SPD) > 0).unsqueeze(-1)
    table = r.hop_table()
    edge = torch.stack([F.embedding(path[..., hop], table[hop]) for hop in range(path.shape[-1])]).sum(dim=0)
    bias = bias + edge / spd.clamp(1, path.shape[-1]).unsqueeze(-1) * ((bits & SHOW_EDGE) > 0).unsqueeze(-1)
    xyz, element = shown.coordinates[pad.atoms], batch.atom_features[:, 0].long()[pad.atoms]
    distance = (xyz[:, :, None] - xyz[:, None, :]).norm(dim=-1)
    mul = r.distance_mul[element + FIRST_ELEMENT_ROW][:, :, None] + r.distance_mul[element + SECOND_ELEMENT_ROW][:, None, :]
    shift = r.distance_shift[element + FIRST_ELEMENT_ROW][:, :, None] + r.distance_shift[element + SECOND_ELEMENT_ROW][:, None, :]
    features = gaussians((mul * distance + shift).reshape(-1), r.gaussian_means, r.gaussian_stds).view(*distance.shape, -1)
    plain = F.linear(
        F.gelu(F.linear(features, r.distance_hidden.weight, r.distance_hidden.bias)), r.distance_out.weight, r.distance_out.bias
    )
    bias = bias + plain * ((bits & SHOW_DISTANCE) > 0).unsqueeze(-1)
    return bias.permute(0, 3, 1, 2), (features * pad.pair_exists.unsqueeze(-1)).sum(dim=2)


def encode(model: MoleBlend, batch: MoleculeBatch, shown: Shown, pad: Padding, layout: Layout) -> tuple[Tensor, Tensor]:
    """(B, N, d) tokens and (B, H, n, n) bias."""
    bias, sums = relation_bias(model, batch, shown, pad)
    a = model.atoms
    row = batch.degree[pad.atoms].long() + 1
    degree = (a.in_degree_table(row) + a.out_degree_table(row)) * shown.degree[pad.atoms].unsqueeze(-1)
    feature_3d = 0.01 * F.linear(sums, a.from_gaussians.weight, a.from_gaussians.bias) * shown.distances[pad.atoms].unsqueeze(-1)
    atoms = a.atom_table(batch.atom_features[pad.atoms].long() + a.feature_rows).sum(dim=2) + degree + feature_3d
    x = torch.cat([a.graph_token.expand(len(batch), 1, -1), atoms], dim=1)
    full = F.pad(bias, (1, 0, 1, 0))
    graph = model.relations.graph_bias.view(1, -1, 1)
    full = torch.cat([graph.unsqueeze(-1).expand(len(batch), -1, 1, x.shape[1]), full[:, :, 1:]], dim=2)
    full = torch.cat([graph.unsqueeze(-1).expand(len(batch), -1, x.shape[1], 1), full[..., 1:]], dim=3)
    missing = ~F.pad(pad.atom_exists, (1, 0), value=True)
    full = full.masked_fill(missing[:, None, None, :], float("-inf"))
    x = model.encoder.embedding_norm(x)
    for block in model.encoder.blocks:
        x = _block(block, x, full)
    return x, bias


def _block(block, x: Tensor, bias: Tensor) -> Tensor:
    B, N, d = x.shape
    q, k, v = F.linear(x, block.qkv.weight, block.qkv.bias).view(B, N, 3, block.heads, -1).permute(2, 0, 3, 1, 4)
    logits = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]) + bias
    weights = F.dropout(torch.softmax(logits, dim=-1), block.attention_dropout, block.training)
    out = (weights @ v).transpose(1, 2).reshape(B, N, d)
    x = block.attention_norm(x + _drop_path(block, F.linear(out, block.attention_out.weight, block.attention_out.bias)))
    hidden = F.dropout(F.gelu(F.linear(x, block.ffn_in.weight, block.ffn_in.bias)), block.activation_dropout, block.training)
    return block.ffn_norm(x + _drop_path(block, F.linear(hidden, block.ffn_out.weight, block.ffn_out.bias)))


def _drop_path(block, x: Tensor) -> Tensor:
    if not block.training or block.drop_path == 0:
        return x
    keep = torch.empty(len(x), 1, 1, dtype=x.dtype, device=x.device).bernoulli_(1 - block.drop_path)
    return x * keep / (1 - block.drop_path)


def _pair_values(head: PairHead, x: Tensor) -> Tensor:
    """(B, n, n, C): one side contracted with the form, then the other; logits and all."""
    sides = ((head.left, head.left_norm), (head.right, head.right_norm))
    left, right = (norm(F.gelu(F.linear(x, layer.weight, layer.bias))) for layer, norm in sides)
    weight, bias = head.form()
    return torch.einsum("bimc,bjm->bijc", torch.einsum("bia,cam->bimc", left, weight), right) + bias


def _noise(head: NoiseHead, x: Tensor, bias: Tensor, xyz: Tensor, pad: Padding) -> Tensor:
    """(B, n, 3)."""
    B, n, d = x.shape
    q, k, v = (
        F.linear(x, layer.weight, layer.bias).view(B, n, head.heads, -1).transpose(1, 2) for layer in (head.query, head.key, head.value)
    )
    logits = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]) + bias).masked_fill(~pad.atom_exists[:, None, None, :], float("-inf"))
    weights = F.dropout(torch.softmax(logits, dim=-1), head.dropout, head.training)
    step = xyz[:, None, :] - xyz[:, :, None]
    direction = step / (step.norm(dim=-1, keepdim=True) + 1e-5)
    moved = torch.einsum("bhij,bija,bhjw->baihw", weights, direction, v).reshape(B, 3, n, d)
    return torch.einsum("baid,ad->bia", moved, head.axes.weight) + head.axes.bias


def loss_sums(model: MoleBlend, batch: MoleculeBatch, shown: Shown, layout: Layout, targets: PretrainingTargets) -> dict[str, Tensor]:
    """What `MoleBlend` gives as `Outputs.losses`."""
    pad = Padding(layout)
    tokens, bias = encode(model, batch, shown, pad, layout)
    x = tokens[:, 1:]
    losses: dict[str, Tensor] = {}
    for name, head in model.heads.items():
        if isinstance(head, NoiseHead):
            z = _noise(head, x, bias, shown.coordinates[pad.atoms], pad)
            counted = targets.noisy[pad.atoms] & pad.atom_exists
            losses[name] = ((1 - F.cosine_similarity(z, targets.noise[pad.atoms], dim=-1)) * counted).sum()
        elif isinstance(head, GeometryHead):
            z, weight = _pair_values(head, x), targets.geometry_weight[pad.pairs] * pad.pair_exists
            goal = targets.displacement[pad.pairs]
            if name == "displacement":
                losses[name] = ((1 - F.cosine_similarity(z, goal, dim=-1)) * weight).sum()
            else:
                losses[name] = (F.smooth_l1_loss(z[..., 0], goal.norm(dim=-1), reduction="none") * weight).sum()
        else:
            assert isinstance(head, PairHead)
            goal = (targets.spd.unsqueeze(1) if name == "spd" else targets.edge)[pad.pairs].long()
            goal = goal.masked_fill(~pad.pair_exists.unsqueeze(-1), -1).clamp(min=-1).reshape(-1)
            z = _pair_values(head, x).reshape(len(goal), -1)
            assert z.shape[1] in (11, EDGE_CLASSES)
            losses[name] = F.cross_entropy(z, goal, ignore_index=-1, reduction="sum")
    return losses
