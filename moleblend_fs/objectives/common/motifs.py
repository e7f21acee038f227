"""Motifs of a batch's molecules, from the sidecar `motifs`: what objectives that learn them share.

Shape legend: B molecules, A atoms, N motifs of all molecules, K members (atoms of motifs).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.motif_lists import MOTIFS, MotifLists, motifs_of
from moleblend_fs.data.sidecar import SidecarManifest
from moleblend_fs.errors import UserError
from moleblend_fs.objectives.common.vocabulary import Vocabulary
from moleblend_fs.objectives.objective import Objective
from moleblend_fs.ops.layout import Layout
from moleblend_fs.option_fields import option

SIZE = "motifs"
"""Size of the heads that tell motifs apart."""


@dataclass(frozen=True, kw_only=True)
class MotifOptions:
    """Options of objectives that tell motifs apart."""

    motif_classes: int = option(4000, "motifs that are told apart, the most frequent ones; 0: all, as published")
    motif_min_count: int = option(10, "motifs that are rarer in the store are not told apart; 1: all, as published")

    def __post_init__(self) -> None:
        if self.motif_classes < 0:
            raise UserError(f"--motif-classes must be at least 1, or 0 for all, got {self.motif_classes}")
        if self.motif_min_count < 1:
            raise UserError(f"--motif-min-count must be at least 1, got {self.motif_min_count}")

    def vocabulary(self, sidecars: Mapping[str, SidecarManifest]) -> Vocabulary:
        """The motifs that are told apart."""
        return Vocabulary(sidecars[MOTIFS].vocabularies[MOTIFS], self.motif_classes, self.motif_min_count, "--motif-min-count")


class LearnsMotifs(Objective):
    """An objective that tells motifs apart.

    Attributes:
        vocabulary: the motifs; known when the sidecar is.
    """

    options: MotifOptions
    vocabulary: Vocabulary

    def sidecars(self) -> tuple[str, ...]:
        return (MOTIFS,)

    def take_sidecars(self, sidecars: Mapping[str, SidecarManifest]) -> None:
        self.vocabulary = self.options.vocabulary(sidecars)

    def config_fields(self) -> dict[str, Any]:
        return {"sizes": {SIZE: self.vocabulary.classes}}


class Motifs(NamedTuple):
    """Motifs of a batch, and their atoms.

    Attributes:
        lists: molecules, numbers, parents, see `data.motif_lists`.
        classes: (N,) int64.
        atoms: (K,) int64, place in A of each member; `lists.owner` is its motif.
    """

    lists: MotifLists
    classes: Tensor
    atoms: Tensor


def motifs_in(batch: MoleculeBatch, layout: Layout, vocabulary: Vocabulary) -> Motifs:
    """The motifs of a batch that carries the sidecar's lists."""
    lists = motifs_of(batch.extra[MOTIFS])
    return Motifs(lists, vocabulary.classes_of(lists.code), layout.cu_atoms[lists.molecule[lists.owner]] + lists.atom)


def sums_over_motifs(atoms_Ad: Tensor, places_K: Tensor, owner_K: Tensor, count: int) -> Tensor:
    """(count, d), of each motif the sum over its atoms."""
    return atoms_Ad.new_zeros(count, atoms_Ad.shape[1]).index_add(0, owner_K, atoms_Ad.index_select(0, places_K))
