"""Coordinate denoising: the noise on each atom, from the noised structure (Godwin et al. 2022; Zaidi et al. 2023).

Shape legend: A atoms, P ordered pairs.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.manifest import Manifest
from moleblend_fs.errors import UserError
from moleblend_fs.model.heads import NoiseHead, register_head
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import Shown, show_all
from moleblend_fs.objectives.common.hashed_draws import draw_noise
from moleblend_fs.objectives.common.views import encode
from moleblend_fs.objectives.objective import Curve, Objective, Prepared, Term, needs_structures
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.precision import at_least_float32
from moleblend_fs.option_fields import option

HEAD = "denoise"
LOSSES, VIEWS = ("l2", "cosine"), ("3d", "2d+3d")
register_head(HEAD, NoiseHead)


@dataclass(frozen=True, kw_only=True)
class DenoiseOptions:
    """Zaidi et al.'s by default; --noise-loss cosine --denoise-scale 0.2 is Transformer-M's."""

    noise_loss: str = option(
        "l2", "squared error of the noise in units of its standard deviation, or 1 - cosine of its direction alone", LOSSES
    )
    noise_view: str = option("3d", "what is shown besides the noised structure", VIEWS)
    noise_mean: str = option("keep", "whether a molecule's mean noise, which no structure can tell, is taken off it", ("keep", "remove"))
    denoise_scale: float = option(0.04, "standard deviation of the coordinate noise, Angstrom")

    def __post_init__(self) -> None:
        if not self.denoise_scale > 0:
            raise UserError(f"--denoise-scale must be above 0, got {self.denoise_scale}")


def noise_losses(prediction_A3: Tensor, noise_A3: Tensor, kind: str) -> Tensor:
    """(A,) mean over axes of the squared error, or 1 - cosine."""
    if kind == "l2":
        return (prediction_A3 - noise_A3).square().mean(dim=1)
    return 1 - F.cosine_similarity(prediction_A3, noise_A3, dim=1)


def noisy_atoms(batch: MoleculeBatch, layout: Layout) -> Tensor:
    """(A,) bool, atoms whose noise can be told: they have coordinates and a neighbour that these are relative to."""
    return batch.has_coordinates[layout.atom_molecule] & (layout.cu_atoms.diff() > 1)[layout.atom_molecule]


class Noised(NamedTuple):
    """What is shown, the noise (A, 3) in units of its scale, and which atoms (A,) count."""

    shown: Shown
    noise: Tensor
    noisy: Tensor


class Denoise(Objective):
    """See the module."""

    name: ClassVar[str] = "denoise"
    Options: ClassVar[type] = DenoiseOptions
    options: DenoiseOptions
    curves: ClassVar[dict[str, Curve]] = {
        "denoising": Curve("Noise on the coordinates (denoise)", "squared error, or 1 - cosine", uninformed=1.0)
    }

    def heads(self) -> tuple[str, ...]:
        return (HEAD,)

    def terms(self) -> tuple[Term, ...]:
        return (Term("denoising", 1.0),)

    def check(self, manifest: Manifest, store: str) -> None:
        needs_structures(manifest, store, self.name)

    @property
    def prepares_on_device(self) -> bool:
        return True

    def prepare(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Prepared:
        scale = self.options.denoise_scale
        noise = draw_noise(batch, layout, scale=scale, seed=seed, epoch=epoch)
        if self.options.noise_mean == "remove":
            total = noise.new_zeros(layout.num_molecules, 3).index_add(0, layout.atom_molecule, noise)
            noise = noise - (total / layout.cu_atoms.diff().unsqueeze(1))[layout.atom_molecule]
        plain = show_all(batch, layout, self.options.noise_view)
        shown = Shown(relations=plain.relations, degree=plain.degree, distances=plain.distances, coordinates=batch.coordinates + noise)
        noisy = noisy_atoms(batch, layout)
        return Prepared(batch, layout, noisy.sum().double().reshape(1), Noised(shown, noise / scale, noisy))

    def loss_sums(self, model: MoleBlend, prepared: Prepared) -> Tensor:
        (shown, noise, noisy), layout = prepared.parts, prepared.layout
        encoded = encode(model, prepared.batch, shown, layout)
        predicted = model.heads[HEAD](encoded.atoms, encoded.bias, shown.coordinates.to(encoded.bias.dtype), layout)
        # Before the loss: a cosine has no gradient at 0, and 0 times NaN would be NaN.
        predicted = torch.where(noisy.unsqueeze(1), at_least_float32(predicted), 0)
        losses = noise_losses(predicted, noise.to(predicted.dtype), self.options.noise_loss)
        return torch.where(noisy, losses, 0).sum().reshape(1)
