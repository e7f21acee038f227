"""The model in fairseq's registry, in the shipped sizes."""

from typing import Any

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model, register_model_architecture

from fairseq_plugins.options import fairseq_dataclass
from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.model.config import PRESETS, ModelConfig
from moleblend_fs.model.moleblend import MoleBlend, Outputs
from moleblend_fs.model.shown import Shown
from moleblend_fs.model.targets import PretrainingTargets
from moleblend_fs.ops.layout import Layout

MoleBlendModelConfig = fairseq_dataclass("MoleBlendModelConfig", __name__, ModelConfig, FairseqDataclass)


@register_model("moleblend", dataclass=MoleBlendModelConfig)
class FairseqMoleBlend(BaseFairseqModel):
    """`MoleBlend` as fairseq wants it: built from a task, called with a batch."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.model = MoleBlend(config)

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "FairseqMoleBlend":
        return cls(task.model_config(cfg))

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
