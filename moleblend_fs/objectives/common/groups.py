"""Groups of molecules that compare themselves with each other: where negatives come from.

An epoch's molecules, in their random order, are cut into groups before they are cut into batches, and a batch holds whole groups. So a
group never lies on two ranks or in two micro-batches, and a loss whose negatives stay inside groups is the same however an update is split.
Within a group nothing depends on the order of molecules: they stand in a circle in the order of a hash of (seed, epoch, molecule).
Shape legend: B molecules.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from moleblend_fs.data.batch import GROUP, MoleculeBatch
from moleblend_fs.errors import UserError
from moleblend_fs.objectives.common.hashed_draws import CIRCLE, bits, next_in_circle
from moleblend_fs.option_fields import option


@dataclass(frozen=True, kw_only=True)
class GroupOptions:
    """Options of objectives with negatives."""

    negatives_group: int = option(
        0,
        "molecules that are each other's negatives; batches hold whole groups of so many (the last of an epoch may be smaller). "
        "0: 256, or as many as --batch-size, --max-tokens and --max-pairs surely have room for",
    )

    def __post_init__(self) -> None:
        if self.negatives_group < 0 or self.negatives_group == 1:
            raise UserError(f"--negatives-group must be at least 2, or 0 for the default, got {self.negatives_group}")


def group_of(batch: MoleculeBatch) -> Tensor:
    """(B,) int64, number of each molecule's group in the batch; one group where nobody cut any."""
    found = batch.extra.get(GROUP)
    return torch.zeros_like(batch.molecule_id) if found is None else found


def group_sizes(group_B: Tensor) -> Tensor:
    """(B,) int64, how many molecules each molecule's group has."""
    counts = torch.zeros_like(group_B).index_add(0, group_B, torch.ones_like(group_B))
    return counts[group_B]


def next_in_group(batch: MoleculeBatch, *, seed: int, epoch: int, shift: int = 1, among: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A molecule's negative: the one `shift` places on in its group's circle.

    Args:
        among: (B,) bool, molecules that take part; the others stand in no circle.

    Returns:
        (B,) int64, its place in the batch, and (B,) bool, whether it is another molecule than itself.
    """
    group = group_of(batch)
    if among is not None:  # those that take no part are each a group of their own
        group = torch.where(among, group, len(group) + torch.arange(len(group), device=group.device))
        group = torch.unique(group, return_inverse=True)[1]
    key = bits(CIRCLE, seed, epoch, batch.molecule_id, torch.zeros_like(batch.molecule_id))
    partner = next_in_circle(group, key, shift)
    return partner, partner != torch.arange(len(partner), device=partner.device)


def same_group(batch: MoleculeBatch) -> Tensor:
    """(B, B) bool, pairs of molecules of one group."""
    group = group_of(batch)
    return group.unsqueeze(0) == group.unsqueeze(1)
