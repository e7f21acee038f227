"""A molecule's 2D view beside its structures, for objectives that bring the two together: what is shown, and which encoder sees it.

Shape legend: B molecules, A atoms, d embedding width.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.manifest import Manifest
from moleblend_fs.data.packed_arrays import NUM_STRUCTURES, STRUCTURES
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.heads import register_head
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import Shown, show_all
from moleblend_fs.objectives.common.contrastive import PoolingOptions
from moleblend_fs.objectives.common.groups import GroupOptions, group_of
from moleblend_fs.objectives.common.views import full_view
from moleblend_fs.objectives.objective import Objective, Read, needs_structures
from moleblend_fs.ops.layout import Layout
from moleblend_fs.option_fields import option

TOWER = "structure_tower"
FEATURES_3D = ("all", "number", "none")


class Tower(MoleBlend):
    """A second encoder, of the same size and with weights of its own. A head of the model that finetunes, which leaves it behind."""

    def start(self) -> None:
        """As every model begins."""
        self.reset_parameters()


def build_tower(config: ModelConfig) -> Tower:
    return Tower(dataclasses.replace(config, heads=()))


register_head(TOWER, build_tower)


@dataclass(frozen=True, kw_only=True)
class StructureOptions(GroupOptions):
    """Options of objectives that show a molecule's structures beside its 2D view."""

    towers: int = option(1, "encoders: 1 sees both views, or 2, of which only the one that sees the 2D view is finetuned")
    view_3d_features: str = option(
        "all", "what of an atom the 3D view shows beside its place: all features, its atomic number alone, or nothing", FEATURES_3D
    )
    conformers_per_step: int = option(1, "structures of each molecule in a step, where the store has so many; each costs a pass")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.towers not in (1, 2):
            raise UserError(f"--towers must be 1 or 2, got {self.towers}")
        if not 1 <= self.conformers_per_step <= 64:
            raise UserError(f"--conformers-per-step must lie between 1 and 64, got {self.conformers_per_step}")

    @property
    def heads(self) -> tuple[str, ...]:
        """The second encoder, if there is one."""
        return (TOWER,) if self.towers == 2 else ()


class ShowsStructures(Objective):
    """An objective that shows structures beside the 2D view: the encoder has a pass for each."""

    options: StructureOptions

    def check(self, manifest: Manifest, store: str) -> None:
        """UserError if a store has no structures, or only one of each molecule where several are asked for."""
        needs_structures(manifest, store, self.name)
        if self.conformers > 1 and manifest.conformers == manifest.molecules_with_3d:
            raise UserError(
                f"--conformers-per-step {self.conformers}, but {store} has one structure of each molecule; "
                "use 1, or preprocess a source with several (--conformers)"
            )

    @property
    def passes(self) -> float:
        return 1.0 + self.conformers

    @property
    def group(self) -> int | None:
        return self.options.negatives_group

    @property
    def conformers(self) -> int:
        return self.options.conformers_per_step


def structure_encoder(model: MoleBlend) -> MoleBlend:
    """What sees the structures."""
    if TOWER not in model.heads:
        return model
    return model.heads[TOWER]  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class DualViewOptions(StructureOptions, PoolingOptions):
    """Options of objectives that compare a molecule's 2D view with its structures."""


class StructureView(NamedTuple):
    """One structure of each molecule: what is shown, and (B,) which molecules have it."""

    shown: Shown
    present: Tensor


def num_structures(batch: MoleculeBatch, options: StructureOptions) -> Tensor:
    """(B,) int64, structures of each molecule that are shown."""
    found = batch.extra.get(NUM_STRUCTURES)
    return batch.has_coordinates.long() if found is None else found.clamp(max=options.conformers_per_step)


def structure_views(batch: MoleculeBatch, layout: Layout, options: StructureOptions) -> list[StructureView]:
    """Views of all structures that are asked for, `conformers_per_step` of them."""
    count = num_structures(batch, options)
    return [
        StructureView(structure_view(batch, layout, number, options.view_3d_features), count > number)
        for number in range(options.conformers_per_step)
    ]


def structure_view(batch: MoleculeBatch, layout: Layout, number: int, features: str) -> Shown:
    """The 3D view of a molecule's structure of this number."""
    if number == 0:
        shown = full_view(batch, layout, "3d")
    else:
        other = dataclasses.replace(
            batch, coordinates=batch.extra[STRUCTURES][:, number], has_coordinates=batch.extra[NUM_STRUCTURES] > number
        )
        shown = show_all(other, layout, "3d")
    every_atom = torch.ones_like(shown.degree)
    return {
        "all": lambda: shown,
        "number": lambda: dataclasses.replace(shown, bare=every_atom),
        "none": lambda: dataclasses.replace(shown, hidden=every_atom),
    }[features]()


def told_by_formula(batch: MoleculeBatch, layout: Layout, present_B: Tensor) -> Tensor:
    """(2,) float64: molecules whose elements, counted, no other of their group has; and all that are compared.

    Where both views show elements, so much of a comparison within a group can be had without any structure.
    """
    counted = torch.zeros(layout.num_molecules, 256, dtype=torch.int64, device=present_B.device)
    number = batch.atom_features[:, 0].long()
    counted = counted.index_put((layout.atom_molecule, number), torch.ones_like(number), accumulate=True)
    keys = torch.cat([group_of(batch).unsqueeze(1), counted], dim=1)[present_B]
    _, alike = torch.unique(keys, dim=0, return_counts=True)
    return torch.stack([(alike == 1).sum(), present_B.sum()]).double()


FORMULA: dict[str, Callable[[Read], float]] = {
    "told_by_formula": lambda read: round(float(read.statistic("formula")[0] / max(read.statistic("formula")[1], 1)), 4)
}
"""What is logged of it: the share of molecules."""
