"""Transformer-M (Luo et al. 2023): a label from the graph token, and the noise on the structure; 2D+3D, 2D or 3D at random.

It learns from labels, so its results stand apart from those of all other objectives.
Shape legend: A atoms, B molecules.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.manifest import Manifest
from moleblend_fs.data.units import factor
from moleblend_fs.errors import UserError
from moleblend_fs.model.heads import NoiseHead, PropertyHead, register_head
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import Shown, show_random_modality
from moleblend_fs.objectives.common.hashed_draws import draw_modality, draw_noise
from moleblend_fs.objectives.common.views import encode
from moleblend_fs.objectives.denoise import noise_losses, noisy_atoms
from moleblend_fs.objectives.objective import Curve, Label, Objective, Prepared, Term
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.precision import at_least_float32
from moleblend_fs.option_fields import option

NOISE_HEAD, LABEL_HEAD = "transformer_m_noise", "transformer_m_label"
USUAL = "gap"
register_head(NOISE_HEAD, NoiseHead)
register_head(LABEL_HEAD, lambda config: PropertyHead(dataclasses.replace(config, tasks=1)))


@dataclass(frozen=True, kw_only=True)
class TransformerMOptions:
    """Luo et al.'s."""

    transformer_m_label: str = option("", f"label of the store that is learned; {USUAL}, or the store's only label, unless named")
    transformer_m_scale: float = option(0.2, "standard deviation of the coordinate noise, Angstrom")
    transformer_m_noise_weight: float = option(1.0, "weight of the denoising loss beside the label's; 0: no noise is predicted")

    def __post_init__(self) -> None:
        if self.transformer_m_noise_weight < 0:
            raise UserError(f"--transformer-m-noise-weight must not be negative, got {self.transformer_m_noise_weight}")
        if not self.transformer_m_scale > 0:
            raise UserError(f"--transformer-m-scale must be above 0, got {self.transformer_m_scale}")


class Seen(NamedTuple):
    """What is shown, the noise (A, 3) on it, atoms (A,) whose noise is predicted, molecules (B,) that have the label."""

    shown: Shown
    noise: Tensor
    noisy: Tensor
    labelled: Tensor


class TransformerM(Objective):
    """See the module."""

    name: ClassVar[str] = "transformer_m"
    Options: ClassVar[type] = TransformerMOptions
    options: TransformerMOptions
    curves: ClassVar[dict[str, Curve]] = {
        "label": Curve("The label (transformer_m)", "absolute error (eV, or standard deviations)"),
        "structure_noise": Curve("Noise on the coordinates (transformer_m)", "1 - cosine", uninformed=1.0),
    }
    label = Label(0, 0.0, 1.0, "eV")

    def heads(self) -> tuple[str, ...]:
        return (LABEL_HEAD, NOISE_HEAD) if self.options.transformer_m_noise_weight > 0 else (LABEL_HEAD,)

    def terms(self) -> tuple[Term, ...]:
        weight = self.options.transformer_m_noise_weight
        label = Term("label", 1.0)
        return (label, Term("structure_noise", weight)) if weight > 0 else (label,)

    def labels(self, manifest: Manifest) -> tuple[str, ...]:
        names = [label.name for label in manifest.labels if label.kind == "regression"]
        asked = self.options.transformer_m_label or (USUAL if USUAL in names else names[0] if len(names) == 1 else "")
        if asked not in names:
            what = f"no label {asked!r} of regression" if asked else "several labels"
            raise UserError(
                f"--objective {self.name} learns a label, and the store has {what}; choose one with --transformer-m-label: "
                f"{', '.join(names) or 'it has none'}"
            )
        return (asked,)

    def take_labels(self, labels: Mapping[str, Label]) -> None:
        asked = self.options.transformer_m_label
        self.label = labels[asked] if asked else labels[USUAL] if USUAL in labels else next(iter(labels.values()))

    @property
    def size(self) -> float:
        """What an error of a standard deviation costs: electronvolts of an energy, 1 of anything else."""
        electronvolts = factor(self.label.unit, "eV") if self.label.unit else None
        return 1.0 if electronvolts is None else self.label.std * electronvolts

    @property
    def prepares_on_device(self) -> bool:
        return True

    def prepare(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Prepared:
        shown = show_random_modality(batch, layout, draw_modality(batch, seed=seed, epoch=epoch))
        noise = draw_noise(batch, layout, scale=self.options.transformer_m_scale, seed=seed, epoch=epoch)
        shown = dataclasses.replace(shown, coordinates=batch.coordinates + noise)
        noisy = noisy_atoms(batch, layout) & shown.distances & ~shown.degree  # of molecules in 3D alone
        labelled = batch.has_label[:, self.label.column]
        counts = [labelled.sum(), noisy.sum()][: len(self.terms())]
        return Prepared(batch, layout, torch.stack(counts).double(), Seen(shown, noise, noisy, labelled))

    def loss_sums(self, model: MoleBlend, prepared: Prepared) -> Tensor:
        (shown, noise, noisy, labelled), batch, layout = prepared.parts, prepared.batch, prepared.layout
        encoded = encode(model, batch, shown, layout)
        output = at_least_float32(model.heads[LABEL_HEAD](model.read_out(encoded.tokens, layout))).squeeze(1)
        scaled = torch.where(labelled, (batch.labels[:, self.label.column] - self.label.mean) / self.label.std, 0)
        error = self.size * (output - scaled.to(output.dtype)).abs()
        sums = [torch.where(labelled, error, 0).sum()]
        if self.options.transformer_m_noise_weight > 0:
            predicted = model.heads[NOISE_HEAD](encoded.atoms, encoded.bias, shown.coordinates.to(encoded.bias.dtype), layout)
            predicted = torch.where(noisy.unsqueeze(1), at_least_float32(predicted), 0)
            losses = noise_losses(predicted, noise.to(predicted.dtype), "cosine")
            sums.append(torch.where(noisy, losses, 0).sum())
        return torch.stack(sums)
