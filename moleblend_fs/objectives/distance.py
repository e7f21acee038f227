"""Distance prediction, the baseline of GeoSSL (Liu et al. 2022): every pair's distance from both atoms' vectors, in the clean structure.

The input holds the answer, so that the task is an identity: weak by construction.
Shape legend: A atoms, P ordered pairs.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.manifest import Manifest
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.heads import GeometryHead, register_head
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.objectives.common.views import encode, full_view
from moleblend_fs.objectives.objective import Curve, Objective, Prepared, Term, needs_structures
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import Linear
from moleblend_fs.ops.precision import at_least_float32
from moleblend_fs.option_fields import option


class ConcatenatedPairHead(nn.Module):
    """Linear(2 d, 1) of [h_i, h_j], as the sum of one map of each: the pairs' vectors are never built."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.left = Linear(config.embed_dim, 1)
        self.right = Linear(config.embed_dim, 1, bias=False)

    def forward(self, x_Ad: Tensor, layout: Layout) -> Tensor:
        """(P, 1)."""
        return self.left(x_Ad)[layout.pair_row] + self.right(x_Ad)[layout.pair_column]


HEADS = {"concat": "distance_concat", "outer": "distance_outer"}
register_head(HEADS["concat"], ConcatenatedPairHead)
register_head(HEADS["outer"], lambda config: GeometryHead(config, 1))


@dataclass(frozen=True, kw_only=True)
class DistanceOptions:
    """GeoSSL's by default."""

    distance_head: str = option(
        "concat", "a linear map of both atoms' vectors, as published, or blend-then-predict's outer product", tuple(HEADS)
    )


class Distance(Objective):
    """See the module."""

    name: ClassVar[str] = "distance"
    Options: ClassVar[type] = DistanceOptions
    options: DistanceOptions
    curves: ClassVar[dict[str, Curve]] = {"pair_distance": Curve("3D distance (distance)", "absolute error (\u00c5)")}

    def heads(self) -> tuple[str, ...]:
        return (HEADS[self.options.distance_head],)

    def terms(self) -> tuple[Term, ...]:
        return (Term("pair_distance", 1.0),)

    def check(self, manifest: Manifest, store: str) -> None:
        needs_structures(manifest, store, self.name)

    @property
    def prepares_on_device(self) -> bool:
        return True

    def prepare(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Prepared:
        counted = (layout.pair_row != layout.pair_column) & batch.has_coordinates[layout.pair_molecule]
        return Prepared(batch, layout, counted.sum().double().reshape(1), counted)

    def loss_sums(self, model: MoleBlend, prepared: Prepared) -> Tensor:
        batch, layout = prepared.batch, prepared.layout
        encoded = encode(model, batch, full_view(batch, layout, "3d"), layout)
        predicted = at_least_float32(model.heads[self.heads()[0]](encoded.atoms, layout)).squeeze(1)
        coordinates = batch.coordinates.to(predicted.dtype)
        true = (coordinates[layout.pair_row] - coordinates[layout.pair_column]).norm(dim=1)
        return torch.where(prepared.parts, (predicted - true).abs(), 0).sum().reshape(1)
