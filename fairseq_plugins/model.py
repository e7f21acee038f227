"""The model in fairseq's registry, in the shipped sizes."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model, register_model_architecture

from fairseq_plugins.options import fairseq_dataclass
from moleblend_fs.model.config import PRESETS, ModelConfig
from moleblend_fs.model.moleblend import MoleBlend

T = TypeVar("T")

MoleBlendModelConfig = fairseq_dataclass("MoleBlendModelConfig", __name__, [ModelConfig], FairseqDataclass)


@register_model("moleblend", dataclass=MoleBlendModelConfig)
class FairseqMoleBlend(BaseFairseqModel):
    """`MoleBlend` as fairseq needs it: built from a task, called with a batch."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.model = MoleBlend(config)

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "FairseqMoleBlend":
        made = cls(task.model_config(cfg))
        task.begin_model(made.model)
        return made

    def forward(self, compute: Callable[[MoleBlend], T]) -> T:
        """What a criterion computes with the model. It is handed in, so that however many passes it makes are one call of this module,
        around which DDP and DeepSpeed do their work."""
        return compute(self.model)

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
