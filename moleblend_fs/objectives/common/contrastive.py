"""Losses that tell a vector's own partner from those of other molecules, and the maps before them.

Negatives are of the same group, see `groups`. A vector that has none, or no partner, counts for nothing.
Shape legend: B molecules, N vectors that are compared, M vectors that they are compared with, A atoms, P ordered pairs, d width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.objectives.common.views import POOLINGS
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import Linear
from moleblend_fs.ops.precision import at_least_float32
from moleblend_fs.option_fields import option

DENOMINATORS = ("negatives", "all")
"""What stands under the fraction: the negatives alone, or the partner too."""
FAR = -1e9
"""The score of what is not compared: its exponential is 0, and no gradient comes of it."""


@dataclass(frozen=True, kw_only=True)
class PoolingOptions:
    """Options of objectives that compare molecules."""

    pooling: str = option("token", "what stands for a molecule: its graph token, or the mean of its atoms", POOLINGS)


def check_temperature(option: str, temperature: float) -> None:
    """UserError unless it is above 0."""
    if not temperature > 0:
        raise UserError(f"{option} must be above 0, got {temperature}")


class Projection(nn.Module):
    """Linear(d, hidden), an activation, Linear(hidden, outputs); d for sizes that are not given."""

    def __init__(self, config: ModelConfig, hidden: int = 0, outputs: int = 0, activation: Callable[[Tensor], Tensor] = F.gelu):
        super().__init__()
        hidden = hidden or config.embed_dim
        self.hidden = Linear(config.embed_dim, hidden)
        self.activation = activation
        self.out = Linear(hidden, outputs or config.embed_dim)

    def forward(self, x_Nd: Tensor) -> Tensor:
        """(N, outputs)."""
        return self.out(self.activation(self.hidden(x_Nd)))


def unit(x_Nd: Tensor) -> Tensor:
    """Vectors of length 1, in float32 or wider; one of length 0 stays."""
    return F.normalize(at_least_float32(x_Nd), dim=1, eps=1e-6)


class Compared(NamedTuple):
    """Which vectors are compared: (N, M) bool, those of the same molecule (right), and of another of its group (wrong)."""

    right: Tensor
    wrong: Tensor

    @property
    def counts(self) -> Tensor:
        """(N,) bool, vectors that have both."""
        return self.right.any(dim=1) & self.wrong.any(dim=1)


def compared(group_B: Tensor, ours_N: Tensor, theirs_M: Tensor, *, same: bool = False) -> Compared:
    """Every vector with every one of its group.

    Args:
        group_B: each molecule's group. ours_N, theirs_M: the molecules that vectors belong to, places in the batch.
        same: the two are the same vectors, and none is compared with itself.
    """
    right = ours_N.unsqueeze(1) == theirs_M
    wrong = (group_B[ours_N].unsqueeze(1) == group_B[theirs_M]) & ~right
    if same:
        right = right & ~torch.eye(len(ours_N), dtype=torch.bool, device=right.device)
    return Compared(right, wrong)


def two_views(group_B: Tensor) -> Compared:
    """2B vectors, the first views of all molecules and then the second ones, each against all others (SimCLR, MolCLR)."""
    twice = torch.arange(len(group_B), device=group_B.device).repeat(2)
    return compared(group_B, twice, twice, same=True)


def info_nce(
    ours_Nd: Tensor, theirs_Md: Tensor, meet: Compared, *, temperature: float, denominator: str, weight_M: Tensor | None = None
) -> Tensor:
    """(N,) losses -log[sum over right of w e^s / sum under the fraction of w e^s], s = cosine / T; 0 for what counts nothing.

    With the partner under the fraction ("all") this is InfoNCE, or NT-Xent; without it ("negatives") what GraphCL and 3D InfoMax minimise,
    which has no lower bound at 0.

    Args:
        weight_M: w of each vector that is compared with; 1 by default.
    """
    score = unit(ours_Nd) @ unit(theirs_Md).T / temperature
    if weight_M is not None:
        score = score + weight_M.to(score.dtype).log()
    under = meet.wrong | meet.right if denominator == "all" else meet.wrong
    loss = score.masked_fill(~under, FAR).logsumexp(dim=1) - score.masked_fill(~meet.right, FAR).logsumexp(dim=1)
    return torch.where(meet.counts, loss, 0)


def similarity(ours_Nd: Tensor, theirs_Nd: Tensor, temperature: float) -> Tensor:
    """(N,) cosine / T of vectors that stand beside each other."""
    return (unit(ours_Nd) * unit(theirs_Nd)).sum(dim=1) / temperature


def pairs_within(ours_Ad: Tensor, theirs_Ad: Tensor, layout: Layout) -> Tensor:
    """(P,) products x_i . y_j of the atoms of each molecule."""
    parts = []
    for bucket in layout.buckets:
        products = ours_Ad[bucket.atoms] @ theirs_Ad[bucket.atoms].transpose(1, 2)
        parts.append(products.reshape(-1).index_select(0, bucket.pair_places))
    return torch.cat(parts).index_select(0, layout.pair_order)


def log_sum_exp_by(score_N: Tensor, group_N: Tensor, groups: int) -> Tensor:
    """(groups,) log of the sum of e^s over the members of each group."""
    highest = torch.full_like(score_N[:1], FAR).expand(groups).scatter_reduce(0, group_N, score_N.detach(), "amax")
    return torch.zeros_like(highest).index_add(0, group_N, (score_N - highest[group_N]).exp()).log() + highest


def right_loss(score: Tensor) -> Tensor:
    """log(1 + e^-s): cross-entropy of a pair that is one (EBM-NCE's positive term)."""
    return F.softplus(-score)


def wrong_loss(score: Tensor) -> Tensor:
    """log(1 + e^s): of a pair that is none."""
    return F.softplus(score)
