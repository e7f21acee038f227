"""The assembled model.

Shape legend: B molecules, A atoms, T tokens, P ordered pairs, H heads, d embedding width.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.graph import MAX_HOPS
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.embedding import AtomEmbedding, RelationEncoder
from moleblend_fs.model.encoder import Encoder
from moleblend_fs.model.heads import HEADS, NoiseHead, PairHead, WithStart, build_head
from moleblend_fs.model.predicted_distances import DistancePredictor
from moleblend_fs.model.readout import read_out
from moleblend_fs.model.shown import Shown
from moleblend_fs.model.target_classes import PretrainingTargets
from moleblend_fs.ops.atom_rows import atoms_of
from moleblend_fs.ops.attention import prepare_bias
from moleblend_fs.ops.compile_ahead import Kernels
from moleblend_fs.ops.dispatch import make_ready
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import autocast_in_products, for_readers


# No slots: DeepSpeed reads vars() of what a module gives.
@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a pass gives; heads that the model does not carry are None.

    Attributes:
        tokens: (T, d) final representations.
        bias: (P, H) attention bias of atom pairs, without the graph token's row and column.
        spd: (P, 11) logits.
        edge: (P, 5, 24) logits per hop.
        displacement: (P, 3) predicted r_j - r_i, up to a factor.
        distance: (P,) predicted |r_i - r_j|, Angstrom.
        noise: (A, 3) predicted noise, up to a factor.
        properties: (B, tasks).
        losses: the sum of each pretraining head's losses (scalars, float32 or wider), in place of the head's predictions,
            where the pass was given targets.
    """

    tokens: Tensor
    bias: Tensor
    spd: Tensor | None = None
    edge: Tensor | None = None
    displacement: Tensor | None = None
    distance: Tensor | None = None
    noise: Tensor | None = None
    properties: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)


class MoleBlend(nn.Module):
    """A transformer over atoms whose attention bias blends 2D and 3D relations, with its prediction heads."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.atoms = AtomEmbedding(config)
        self.relations = RelationEncoder(config)
        self.encoder = Encoder(config)
        self.heads = nn.ModuleDict({name: build_head(name, config) for name in config.heads})
        self.distances = DistancePredictor(config, MoleBlend) if config.predicted_3d else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Linear and Embedding normal(0, init_std), biases and padding rows 0; Gaussians uniform in [0, 3], mul table 1, shift table 0."""
        for name, parameter in self.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            elif name.endswith("bias") and name != "relations.graph_bias":
                parameter.zero_()
            else:
                parameter.normal_(0, self.config.init_std)
        for module in self.modules():
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()
        self.relations.gaussian_means.uniform_(0, 3)
        self.relations.gaussian_stds.uniform_(0, 3)
        self.relations.distance_mul.fill_(1)
        self.relations.distance_shift.zero_()
        for head in self.heads.values():
            if isinstance(head, WithStart):
                head.start()

    def kernels(self) -> list[Kernels]:
        """What a pass runs on a GPU, in training with the losses of the heads."""
        c, dtype, heads = self.config, self.relations.graph_bias.dtype, list(self.heads.values()) if self.training else []
        of_head = (c.attention_heads, c.embed_dim // c.attention_heads)
        shapes: list[tuple[str, tuple[int, ...]]] = [
            ("relation_bias", (c.attention_heads, c.gaussians)),
            ("attention", of_head),
            ("residual_norm", (c.embed_dim,)),
            ("gelu_dropout", (c.ffn_dim,)),
        ]
        if any(isinstance(head, PairHead) for head in heads):
            shapes += [("residual_norm", (c.pair_dim,)), ("pair_projection", (c.pair_dim,))]
        if any(isinstance(head, NoiseHead) for head in heads):
            shapes.append(("atom_forces", of_head))
        return [Kernels(op, dtype, shape) for op, shape in shapes]

    @autocast_in_products
    def encode(self, batch: MoleculeBatch, shown: Shown, layout: Layout, blocks: int | None = None) -> tuple[Tensor, Tensor]:
        """Token representations (T, d), those after the first `blocks` blocks where that is given, and the pairs' attention bias (P, H)."""
        tokens, bias = self.embed(batch, shown, layout)
        return self.encode_embedded(tokens, bias, layout, blocks), bias

    @autocast_in_products
    def embed(self, batch: MoleculeBatch, shown: Shown, layout: Layout) -> tuple[Tensor, Tensor]:
        """What goes into the encoder: embedding sums of all tokens (T, d), and the pairs' attention bias (P, H)."""
        make_ready(batch.spd.device, self.kernels())
        distances = None
        if shown.predicted:
            assert self.distances is not None, "a model that predicts distances"
            distances = self.distances(batch, layout)
        bias, gaussian_sums = self.relations(batch, shown, layout, distances)
        return self.atoms(batch, shown, gaussian_sums, layout), bias

    @autocast_in_products
    def encode_embedded(
        self, tokens_Td: Tensor, bias_PH: Tensor, layout: Layout, blocks: int | None = None, *, normalised: bool = False
    ) -> Tensor:
        """Token representations (T, d) of what `embed` gave; `normalised`: after the encoder's `embedding_norm`."""
        width = self.config.embed_dim // self.config.attention_heads
        bias = prepare_bias(bias_PH, self.relations.graph_bias, layout, width)
        return self.encoder(tokens_Td, bias, layout, blocks, normalised=normalised)

    def read_out(self, tokens_Td: Tensor, layout: Layout) -> Tensor:
        """(B, d) what stands for each molecule, of all tokens' representations; see `model.readout`."""
        return read_out(tokens_Td, layout, self.config.readout)

    @autocast_in_products
    def forward(self, batch: MoleculeBatch, shown: Shown, layout: Layout, targets: PretrainingTargets | None = None) -> Outputs:
        """All of `HEADS` that the model carries on one packed batch: their predictions, or their losses where there are targets."""
        tokens, bias = self.encode(batch, shown, layout)
        own = {name: head for name, head in self.heads.items() if name in HEADS}
        readers = [head.layers() for head in own.values() if head.reads != "molecules"]  # type: ignore[operator]
        atoms_of_heads = iter(for_readers(atoms_of(tokens, layout), readers))
        results: dict[str, Tensor] = {}
        losses: dict[str, Tensor] = {}
        for name, head in own.items():
            if head.reads == "molecules":
                results["properties"] = head(self.read_out(tokens, layout))
                continue
            atoms = next(atoms_of_heads)
            inputs = (atoms, bias, shown.coordinates.to(bias.dtype), layout) if head.reads == "structure" else (atoms, layout)
            if targets is None:
                results[name] = head(*inputs)
            else:
                losses[name] = head(*inputs, targets.of_head(name))
        if "edge" in results:
            results["edge"] = results["edge"].view(layout.num_pairs, MAX_HOPS, -1)
        if "distance" in results:
            results["distance"] = results["distance"].squeeze(1)
        return Outputs(tokens=tokens, bias=bias, losses=losses, **results)
