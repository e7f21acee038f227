"""The model in fairseq's registry, in the shipped sizes."""

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model, register_model_architecture

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.model.config import PRESETS, ModelConfig
from moleblend_fs.model.moleblend import MoleBlend, Outputs
from moleblend_fs.model.shown import Shown
from moleblend_fs.model.targets import PretrainingTargets
from moleblend_fs.ops.layout import Layout


@dataclass
class MoleBlendModelConfig(FairseqDataclass):
    layers: int = field(default=12, metadata={"help": "transformer blocks"})
    embed_dim: int = field(default=768, metadata={"help": "width of an atom's representation"})
    ffn_dim: int = field(default=768, metadata={"help": "hidden width of the feed-forward part"})
    attention_heads: int = field(default=32, metadata={"help": "attention heads; must divide --embed-dim"})
    gaussians: int = field(default=128, metadata={"help": "Gaussians of the distance depiction"})
    pair_dim: int = field(default=32, metadata={"help": "width of each side of the outer-product projection"})
    hidden_3d: int = field(default=256, metadata={"help": "width between the outer product and the 3D outputs"})
    dropout: float = field(default=0.0, metadata={"help": "dropout of the outputs of each block's two branches"})
    attention_dropout: float = field(default=0.1, metadata={"help": "dropout of attention probabilities"})
    activation_dropout: float = field(default=0.1, metadata={"help": "dropout after the feed-forward activation"})
    drop_path: float = field(default=0.1, metadata={"help": "stochastic depth per molecule at the last block, rising linearly from 0"})
    checkpoint_layers: int = field(
        default=0, metadata={"help": "blocks, from the first, that are recomputed in the backward pass: less memory, more time"}
    )


@register_model("moleblend", dataclass=MoleBlendModelConfig)
class FairseqMoleBlend(BaseFairseqModel):
    """`MoleBlend` as fairseq wants it: built from a task, called with a batch."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.model = MoleBlend(config)

    @classmethod
    def build_model(cls, cfg: MoleBlendModelConfig, task: Any) -> "FairseqMoleBlend":
        return cls(task.model_config({f.name: getattr(cfg, f.name) for f in fields(MoleBlendModelConfig) if not f.name.startswith("_")}))

    def forward(self, batch: MoleculeBatch, shown: Shown, layout: Layout, targets: PretrainingTargets | None = None) -> Outputs:
        return self.model(batch, shown, layout, targets)

    def max_positions(self) -> None:
        """No limit: molecules of any size."""

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.model.relations.graph_bias.device


def _register(size: str) -> None:
    @register_model_architecture("moleblend", f"moleblend_{size}")
    def set_defaults(args: Any) -> None:
        for name, value in PRESETS[size].items():
            if not hasattr(args, name):
                setattr(args, name, value)


for _size in PRESETS:
    _register(_size)
