"""3D InfoMax (Stark et al. 2022): a molecule's 2D view finds its own structures among those of other molecules.

    L = -log[ mean_c e^(s(i, i_c)) / sum over j of mean_c e^(s(i, j_c)) ],  s = cosine of projections / T,  c: conformers

averaged over molecules i. As published j are the other molecules alone, so that the loss falls below 0. For equal numbers of conformers the
means are the published sums.
Shape legend: B molecules, N molecules with a structure, M structures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.heads import register_head
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.objectives.common.contrastive import DENOMINATORS, Compared, Projection, check_temperature, compared, info_nce
from moleblend_fs.objectives.common.dual_views import (
    FORMULA,
    DualViewOptions,
    ShowsStructures,
    StructureView,
    num_structures,
    structure_encoder,
    structure_views,
    told_by_formula,
)
from moleblend_fs.objectives.common.groups import group_of
from moleblend_fs.objectives.common.views import encode, full_view
from moleblend_fs.objectives.objective import Curve, Prepared, Read, Term
from moleblend_fs.ops.layout import Layout
from moleblend_fs.option_fields import option

HEAD, WIDTH = "info3d_projections", 256
DIRECTIONS = ("one", "both")


class Projections(nn.Module):
    """A map for the 2D view and one for structures, to `WIDTH` numbers."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.flat, self.structure = (Projection(config, outputs=WIDTH) for _ in range(2))


register_head(HEAD, Projections)


@dataclass(frozen=True, kw_only=True)
class Info3DOptions(DualViewOptions):
    """Stark et al.'s code by default."""

    info3d_temperature: float = option(0.1, "T, what cosines are divided by")
    info3d_denominator: str = option(
        "negatives", "what stands under the fraction: other molecules alone, or (all) also itself", DENOMINATORS
    )
    info3d_directions: str = option("one", "2D views find their structures, or (both) structures find their 2D view too", DIRECTIONS)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature("--info3d-temperature", self.info3d_temperature)


class Found(NamedTuple):
    """Structures that are shown; molecules (N,) that have one; the molecules that have one in each view, of all views (M,), and the weight
    of each of these structures, 1 over how many its molecule has; which meet: molecules x structures, and the other way round; and how
    many molecules their formula tells, see `told_by_formula`."""

    views: list[StructureView]
    molecules: Tensor
    owners: list[Tensor]
    weights: Tensor
    meet: Compared
    back: Compared
    formula: Tensor


class Info3D(ShowsStructures):
    """See the module."""

    name: ClassVar[str] = "info3d"
    Options: ClassVar[type] = Info3DOptions
    options: Info3DOptions
    curves: ClassVar[dict[str, Curve]] = {
        "own_structure": Curve("A 2D view and its own structure (info3d)", "nats"),
        "own_graph": Curve("A structure and its own 2D view (info3d)", "nats"),
    }

    def heads(self) -> tuple[str, ...]:
        return (HEAD, *self.options.heads)

    def terms(self) -> tuple[Term, ...]:
        if self.options.info3d_directions == "one":
            return (Term("own_structure", 1.0),)
        return (Term("own_structure", 0.5), Term("own_graph", 0.5))

    def prepare(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Prepared:
        views, group, number = structure_views(batch, layout, self.options), group_of(batch), num_structures(batch, self.options)
        molecules = (number > 0).nonzero().squeeze(1)
        owners = [view.present.nonzero().squeeze(1) for view in views]
        every = torch.cat(owners)
        meet, back = compared(group, molecules, every), compared(group, every, molecules)
        count = meet.counts.sum().double()  # in either direction: a molecule's structures count as one
        found = Found(views, molecules, owners, 1 / number[every].double(), meet, back, told_by_formula(batch, layout, number > 0))
        return Prepared(batch, layout, count.repeat(len(self.terms())), found)

    def loss_sums(self, model: MoleBlend, prepared: Prepared) -> Tensor:
        batch, layout, found = prepared.batch, prepared.layout, prepared.parts
        project: Projections = model.heads[HEAD]  # type: ignore[assignment]
        tower = structure_encoder(model)
        flat_Bd = encode(model, batch, full_view(batch, layout, "2d"), layout).pooled(layout, self.options.pooling)
        pooled = [encode(tower, batch, view.shown, layout).pooled(layout, self.options.pooling) for view in found.views]
        solid = [each.index_select(0, owners) for each, owners in zip(pooled, found.owners, strict=True)]
        ours, theirs = project.flat(flat_Bd.index_select(0, found.molecules)), project.structure(torch.cat(solid))
        how = {"temperature": self.options.info3d_temperature, "denominator": self.options.info3d_denominator}
        sums = [info_nce(ours, theirs, found.meet, weight_M=found.weights, **how).sum()]  # type: ignore[arg-type]
        if self.options.info3d_directions == "both":
            losses = info_nce(theirs, ours, found.back, **how)  # type: ignore[arg-type]
            sums.append((losses * found.weights.to(losses.dtype)).sum())
        return torch.stack(sums)

    def statistics(self, prepared: Prepared) -> dict[str, Tensor]:
        return {"formula": prepared.parts.formula}

    def logged(self) -> dict[str, Callable[[Read], float]]:
        return FORMULA
