"""MolCLR (Wang et al. 2022): two views of a molecule, each without some of its atoms and bonds, find each other among those of a group.

    L = mean over 2N views of -log[e^(s_own) / sum over the 2N - 1 others of e^s],  s = cos(z, z') / T

Each view hides some atoms, and of some bonds all paths over them. z = MLP(W g) of its graph token g.
Shape legend: B molecules, A atoms, P ordered pairs, M bonds, N molecules that have others in their group, d embedding width.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.heads import register_head
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import Shown
from moleblend_fs.objectives.common.contrastive import Compared, PoolingOptions, check_temperature, info_nce, two_views
from moleblend_fs.objectives.common.groups import GroupOptions, group_of
from moleblend_fs.objectives.common.hashed_draws import VIEW_ATOM, VIEW_BOND, VIEW_KIND, VIEW_START, bits, places_by, uniform
from moleblend_fs.objectives.common.subgraphs import bonds_in, bonds_of, check_share, draw_around, paths_over, without_bonds
from moleblend_fs.objectives.common.views import encode, full_view
from moleblend_fs.objectives.objective import Curve, Objective, Prepared, Term
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import Linear
from moleblend_fs.ops.relation_bias import SHOW_EDGE, SHOW_SPD
from moleblend_fs.option_fields import option

HEAD, FEATURES, OUTPUTS = "molclr", 512, 256
AUGMENTATIONS = ("node", "subgraph", "mix")
MIXED = 0.2
"""Largest share of a molecule's atoms that "mix" takes as a subgraph."""
FIRST = 1 << 32
"""More than any hash."""


class Features(nn.Module):
    """h = Linear(d, 512), then z = Linear(512, 512), ReLU, Linear(512, 256)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.features = Linear(config.embed_dim, FEATURES)
        self.hidden = Linear(FEATURES, FEATURES)
        self.out = Linear(FEATURES, OUTPUTS)

    def forward(self, x_Bd: Tensor) -> Tensor:
        """(B, 256)."""
        return self.out(F.relu(self.hidden(self.features(x_Bd))))


register_head(HEAD, Features)


@dataclass(frozen=True, kw_only=True)
class MolCLROptions(GroupOptions, PoolingOptions):
    """The released configuration by default."""

    molclr_augmentation: str = option(
        "node",
        "what a view lacks: random atoms and bonds; (subgraph) atoms around a random one, with their bonds; or (mix) both",
        AUGMENTATIONS,
    )
    molclr_rate: float = option(0.25, "share r of a molecule's n atoms and m bonds that a view lacks: floor(r n) and floor(r m)")
    molclr_temperature: float = option(0.1, "what cosines are divided by")

    def __post_init__(self) -> None:
        GroupOptions.__post_init__(self)
        check_share("--molclr-rate", self.molclr_rate)
        check_temperature("--molclr-temperature", self.molclr_temperature)


class Augmented(NamedTuple):
    """The two views of B molecules, and how their 2B vectors are compared."""

    views: tuple[Shown, Shown]
    meet: Compared


def filled_up(group: Tensor, some: Tensor, key: Tensor, count: Tensor) -> Tensor:
    """Some members of groups, and more of them in the order of keys up to a group's count.

    Args:
        group: (N,) ascending. some: (N,) bool. key: (N,) hashes. count: (N,) of each member's group.
    """
    number = torch.unique_consecutive(group, return_inverse=True)[1]
    return some | (places_by(number, key + FIRST * ~some) < count)


def molclr_view(batch: MoleculeBatch, layout: Layout, options: MolCLROptions, which: int, *, seed: int, epoch: int) -> Shown:
    """The first (0) or second (1) view. Both begin their subgraphs at different atoms."""
    mode, rate, molecule = options.molclr_augmentation, options.molclr_rate, layout.atom_molecule
    sizes = layout.cu_atoms.diff().double()
    zero = torch.zeros_like(batch.molecule_id)
    share = {
        "node": torch.zeros_like(sizes),
        "subgraph": torch.full_like(sizes, rate),
        "mix": MIXED * uniform(VIEW_KIND[which], seed, epoch, batch.molecule_id, zero),
    }[mode]
    around = draw_around(batch, layout, torch.floor(share * sizes), stream=VIEW_START, seed=seed, epoch=epoch, place=which)
    hidden, bonds = around, bonds_of(batch, layout)
    removed = around[layout.pair_row[bonds]] | around[layout.pair_column[bonds]]
    if mode != "subgraph":
        count = torch.floor(rate * sizes).clamp(min=1 if mode == "node" else 0)
        key = bits(VIEW_ATOM[which], seed, epoch, batch.molecule_id[molecule], layout.atom_number)
        hidden = filled_up(molecule, around, key, count[molecule])
        bond_molecule = layout.pair_molecule[bonds]
        key = bits(VIEW_BOND[which], seed, epoch, batch.molecule_id[bond_molecule], layout.pair_place[bonds])
        removed = filled_up(bond_molecule, removed, key, torch.floor(rate * bonds_in(bonds, layout).double())[bond_molecule])
    whole = full_view(batch, layout, "2d")
    gone = paths_over(batch, layout, bonds[removed])
    return dataclasses.replace(whole, hidden=hidden, relations=without_bonds(whole.relations, gone, SHOW_SPD | SHOW_EDGE))


class MolCLR(Objective):
    """See the module."""

    name: ClassVar[str] = "molclr"
    Options: ClassVar[type] = MolCLROptions
    options: MolCLROptions
    curves: ClassVar[dict[str, Curve]] = {"two_views": Curve("Two views of a molecule (molclr)", "nats")}

    def heads(self) -> tuple[str, ...]:
        return (HEAD,)

    def terms(self) -> tuple[Term, ...]:
        return (Term("two_views", 1.0),)

    @property
    def passes(self) -> float:
        return 2.0

    @property
    def group(self) -> int | None:
        return self.options.negatives_group

    def prepare(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Prepared:
        first, second = (molclr_view(batch, layout, self.options, which, seed=seed, epoch=epoch) for which in (0, 1))
        meet = two_views(group_of(batch))
        return Prepared(batch, layout, meet.counts.sum().double().reshape(1), Augmented((first, second), meet))

    def loss_sums(self, model: MoleBlend, prepared: Prepared) -> Tensor:
        (views, meet), batch, layout = prepared.parts, prepared.batch, prepared.layout
        pooled = [encode(model, batch, shown, layout).pooled(layout, self.options.pooling) for shown in views]
        z = model.heads[HEAD](torch.cat(pooled))
        return info_nce(z, z, meet, temperature=self.options.molclr_temperature, denominator="all").sum().reshape(1)
