"""What a forward pass is shown of each molecule: decided outside the model, so that every path can be tested exactly."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.model_description import INPUTS, PREDICTED
from moleblend_fs.errors import UserError
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import SHOW_DISTANCE, SHOW_EDGE, SHOW_SPD


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The input of one pass over a batch of A atoms and P ordered pairs.

    Attributes:
        relations: (P,) uint8, bits SHOW_SPD | SHOW_EDGE | SHOW_DISTANCE: a pair's bias is the sum of what they name.
        degree: (A,) bool, atoms that get their degree embedding.
        distances: (A,) bool, atoms that get their 3D feature.
        coordinates: (A, 3) float32, Angstrom, noise included.
        hidden: (A,) bool, atoms that are masked: one row for all masked atoms in place of their nine features, and of their element in the
            distance encoding; neither degree nor 3D feature, whatever the two above say. None: none. Their relations, and their
            coordinates in those, are shown as `relations` says.
        predicted: distances are those that the model's `DistancePredictor` gives, and coordinates are not looked at.
        bare: (A,) bool, atoms of whose nine features only the element is shown. None: none.
    """

    relations: Tensor
    degree: Tensor
    distances: Tensor
    coordinates: Tensor
    hidden: Tensor | None = None
    bare: Tensor | None = None
    predicted: bool = False

    def visible(self, atoms: Tensor) -> Tensor:
        """(A,) bool, those of some atoms that are not hidden."""
        return atoms if self.hidden is None else atoms & ~self.hidden


def show_all(batch: MoleculeBatch, layout: Layout, modality: str) -> Shown:
    """Everything of the chosen modalities, as in finetuning (paper, Eq. 12-14).

    Molecules without coordinates fall back to 2D under "2d+3d"; under "3d" they are an error, since nothing would be left.
    Under "2d+predicted3d" all molecules have distances, predicted ones.
    """
    if modality not in INPUTS:
        raise UserError(f"inputs must be one of {', '.join(INPUTS)}, got {modality!r}")
    if modality == PREDICTED:
        every = torch.ones_like(batch.has_coordinates)
        return replace(_show(batch, layout, every, every), predicted=True)
    has_3d = batch.has_coordinates & (modality != "2d")
    two_d = torch.full_like(has_3d, modality != "3d")
    return _show(batch, layout, two_d, has_3d)


def show_random_modality(batch: MoleculeBatch, layout: Layout, uniform_B: Tensor) -> Shown:
    """2D+3D, 2D or 3D per molecule with probabilities 0.2, 0.2, 0.6 (Transformer-M); 2D where there are no coordinates.

    Args:
        uniform_B: (B,) uniform draws in [0, 1).
    """
    has_3d = batch.has_coordinates & ((uniform_B < 0.2) | (uniform_B >= 0.4))
    two_d = (uniform_B < 0.4) | ~batch.has_coordinates
    return _show(batch, layout, two_d, has_3d)


def _show(batch: MoleculeBatch, layout: Layout, two_d_B: Tensor, three_d_B: Tensor) -> Shown:
    """All 2D relations of some molecules, all 3D relations of some."""
    bits = two_d_B.to(torch.uint8) * (SHOW_SPD | SHOW_EDGE) + three_d_B.to(torch.uint8) * SHOW_DISTANCE
    return Shown(
        relations=bits[layout.pair_molecule],
        degree=two_d_B[layout.atom_molecule],
        distances=three_d_B[layout.atom_molecule],
        coordinates=batch.coordinates,
    )
