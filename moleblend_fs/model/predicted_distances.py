"""Distances between atoms that a pretrained model predicts from the 2D view, in place of those of a structure.

Shape legend: P ordered pairs.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.shown import show_all
from moleblend_fs.ops.layout import Layout

DISTANCE_HEAD = "distance"
"""The head that predicts them: that of blend-then-predict with --geometry-target distance."""


class DistancePredictor(nn.Module):
    """A pretrained model that learns no more. It travels with the finetuned one, which needs it for every new molecule.

    Its weights are buffers: saved and moved like others, not seen by optimizers, and float32 whatever the model around it is.
    """

    def __init__(self, config: ModelConfig, build: Callable[[ModelConfig], Any]):
        super().__init__()
        self.model = build(replace(config, heads=(DISTANCE_HEAD,), predicted_3d=False))
        for module in self.model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, parameter.detach())
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Dropout stays off."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moved to other devices; of another precision only where that is wider."""

        def moved(value: Tensor) -> Tensor:
            found = fn(value)
            return value.to(found.device) if found.dtype in (torch.float16, torch.bfloat16) else found

        return super()._apply(moved, recurse)

    @torch.no_grad()
    def forward(self, batch: MoleculeBatch, layout: Layout) -> Tensor:
        """(P,) Angstrom: the mean of both orders of a pair, not below 0, and 0 from an atom to itself."""
        tokens, _ = self.model.encode(batch, show_all(batch, layout, "2d"), layout)
        ordered = self.model.heads[DISTANCE_HEAD](tokens.index_select(0, layout.atom_tokens), layout).squeeze(1)
        both = (ordered + ordered[layout.pair_reversed]) / 2
        return torch.where(layout.pair_row == layout.pair_column, 0, both.clamp(min=0))
