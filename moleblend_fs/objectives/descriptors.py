"""Regression of molecular descriptors (as CheMeleon, arXiv 2506.15792): RDKit's 2D descriptors, standardised, from a molecule's readout.

    L = mean over the values that there are of (W' GELU(W g) - y)^2

y is winsorised and standardised over the training split, see `data.sidecar`; g is the readout, see `model.readout`, of the view that is
asked for.
Shape legend: B molecules, D descriptors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.manifest import Manifest
from moleblend_fs.data.sidecar import SidecarManifest
from moleblend_fs.errors import UserError
from moleblend_fs.model.heads import MoleculeHead, register_head
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import Shown
from moleblend_fs.objectives.blend_then_predict import BlendConfig, draw_blend
from moleblend_fs.objectives.common.views import encode, full_view
from moleblend_fs.objectives.objective import Curve, Objective, Prepared, Term
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.precision import at_least_float32
from moleblend_fs.option_fields import option

VIEWS = ("2d", "3d", "2d+3d", "blended")
SIDECAR = "descriptors"


register_head("descriptors", lambda config: MoleculeHead(config, config.molecule_values))


@dataclass(frozen=True, kw_only=True)
class DescriptorOptions:
    """What of a molecule its descriptors are predicted from."""

    descriptors_view: str = option(
        "2d",
        "what is shown of a molecule; blended: one relation of each pair and noise, as blend-then-predict draws them by default",
        VIEWS,
    )

    def __post_init__(self) -> None:
        if self.descriptors_view not in VIEWS:
            raise UserError(f"--descriptors-view must be one of {', '.join(VIEWS)}, got {self.descriptors_view!r}")


class Described(NamedTuple):
    """What is shown, the descriptors (B, D), and which of them count (B, D) bool."""

    shown: Shown
    target: Tensor
    present: Tensor


class DescriptorRegression(Objective):
    """See the module."""

    name: ClassVar[str] = "descriptors"
    Options: ClassVar[type] = DescriptorOptions
    options: DescriptorOptions
    curves: ClassVar[dict[str, Curve]] = {"regression": Curve("RDKit descriptors", "squared error (standardised)", uninformed=1.0)}
    width = 0

    def heads(self) -> tuple[str, ...]:
        return ("descriptors",)

    def terms(self) -> tuple[Term, ...]:
        return (Term("regression", 1.0),)

    def check(self, manifest: Manifest, store: str) -> None:
        if manifest.molecules_with_3d == 0 and self.options.descriptors_view == "3d":
            raise UserError(f"{store} has no 3D structures; use --descriptors-view 2d, or preprocess a source with structures")

    def sidecars(self) -> tuple[str, ...]:
        return (SIDECAR,)

    def take_sidecars(self, sidecars: Mapping[str, SidecarManifest]) -> None:
        self.width = len(sidecars[SIDECAR].columns)

    def config_fields(self) -> dict[str, Any]:
        return {"molecule_values": self.width}

    @property
    def prepares_on_device(self) -> bool:
        return True

    def prepare(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Prepared:
        view = self.options.descriptors_view
        if view == "blended":
            shown, _ = draw_blend(batch, layout, BlendConfig(), seed=seed, epoch=epoch)
        else:
            shown = full_view(batch, layout, view)
        target = batch.extra[SIDECAR]
        present = target.isfinite()
        if view == "3d":  # of others nothing would be seen but their atoms
            present = present & batch.has_coordinates.unsqueeze(1)
        return Prepared(batch, layout, present.sum().double().reshape(1), Described(shown, target, present))

    def loss_sums(self, model: MoleBlend, prepared: Prepared) -> Tensor:
        shown, target, present = prepared.parts
        tokens = encode(model, prepared.batch, shown, prepared.layout).tokens
        prediction = at_least_float32(model.heads["descriptors"](model.read_out(tokens, prepared.layout)))
        # Before the square: NaN times 0 would be NaN, in the gradient too.
        difference = torch.where(present, prediction - torch.where(present, target, 0), 0)
        return difference.square().sum().reshape(1)
