"""AttrMask (Hu et al. 2020): the element of hidden atoms, in the 2D view; if asked for, the type of their bonds too.

Shape legend: A atoms, P ordered pairs.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.graph import ELEMENTS, bond_class_features
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.heads import register_head
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import Shown, show_all
from moleblend_fs.objectives.common.hashed_draws import HIDDEN_ATOM
from moleblend_fs.objectives.common.subgraphs import check_share, draw_atoms, paths_through, share_and_one, without_bonds
from moleblend_fs.objectives.common.views import encode
from moleblend_fs.objectives.objective import NATS, Curve, Objective, Prepared, Term
from moleblend_fs.ops.constants import constant
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import Linear
from moleblend_fs.ops.precision import at_least_float32
from moleblend_fs.option_fields import option

BOND_TYPES = 4
"""Single, double, triple, aromatic; other bonds have no class."""
ATOM_HEAD, BOND_HEAD = "attr_mask_atom", "attr_mask_bond"


def linear_head(outputs: int):
    """Builder of Linear(d, outputs)."""

    def build(config: ModelConfig) -> nn.Module:
        return Linear(config.embed_dim, outputs)

    return build


register_head(ATOM_HEAD, linear_head(ELEMENTS))
register_head(BOND_HEAD, linear_head(BOND_TYPES))


@dataclass(frozen=True, kw_only=True)
class AttrMaskOptions:
    """Hu et al.'s code by default."""

    attr_mask_rate: float = option(0.15, "share r of a molecule's n atoms that are hidden: floor(r n + 1)")
    attr_mask_bonds: bool = option(False, "hide and predict the bonds at hidden atoms too (Hu et al.'s mask_edge)")

    def __post_init__(self) -> None:
        check_share("--attr-mask-rate", self.attr_mask_rate)


class Masked(NamedTuple):
    """What is shown; atoms that are predicted (N,), places in A; ends (2, M) of the bonds that are, and their classes."""

    shown: Shown
    atoms: Tensor
    ends: Tensor
    types: Tensor


def bonds_at(batch: MoleculeBatch, layout: Layout, atoms: Tensor) -> tuple[Tensor, Tensor]:
    """Bonds of one of the four types that touch some atoms, each once: places in P and types."""
    kinds = tuple(bond_class_features()[:, 0].tolist())
    kind = constant((BOND_TYPES, *kinds), torch.int64, batch.spd.device)[batch.path_bonds[:, 0].long()]
    touches = atoms[layout.pair_row] | atoms[layout.pair_column]
    once = layout.pair_row < layout.pair_column
    places = ((batch.spd == 1) & once & touches & (kind < BOND_TYPES)).nonzero().squeeze(1)
    return places, kind[places]


class AttrMask(Objective):
    """See the module."""

    name: ClassVar[str] = "attr_mask"
    Options: ClassVar[type] = AttrMaskOptions
    options: AttrMaskOptions
    curves: ClassVar[dict[str, Curve]] = {
        "hidden_element": Curve("Elements of hidden atoms (attr_mask)", NATS),
        "hidden_bond": Curve("Types of hidden bonds (attr_mask)", NATS),
    }

    def heads(self) -> tuple[str, ...]:
        return (ATOM_HEAD, BOND_HEAD) if self.options.attr_mask_bonds else (ATOM_HEAD,)

    def terms(self) -> tuple[Term, ...]:
        atoms = Term("hidden_element", 1.0)
        return (atoms, Term("hidden_bond", 1.0)) if self.options.attr_mask_bonds else (atoms,)

    def prepare(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Prepared:
        count = share_and_one(layout, self.options.attr_mask_rate)
        hidden = draw_atoms(batch, layout, count, stream=HIDDEN_ATOM, seed=seed, epoch=epoch)
        shown = dataclasses.replace(show_all(batch, layout, "2d"), hidden=hidden)
        counts, bonds = [hidden.sum()], (layout.pair_row[:0], layout.pair_row[:0])
        if self.options.attr_mask_bonds:
            through = paths_through(batch, layout, hidden) & (layout.pair_row != layout.pair_column)
            shown = dataclasses.replace(shown, relations=without_bonds(shown.relations, through))
            bonds = bonds_at(batch, layout, hidden)
            counts.append(torch.full((), len(bonds[0]), dtype=torch.int64, device=hidden.device))
        places, types = bonds
        ends = torch.stack([layout.pair_row[places], layout.pair_column[places]])
        return Prepared(batch, layout, torch.stack(counts).double(), Masked(shown, hidden.nonzero().squeeze(1), ends, types))

    def loss_sums(self, model: MoleBlend, prepared: Prepared) -> Tensor:
        (shown, places, ends, types), batch = prepared.parts, prepared.batch
        atoms = encode(model, batch, shown, prepared.layout).atoms
        logits = at_least_float32(model.heads[ATOM_HEAD](atoms.index_select(0, places)))
        sums = [F.cross_entropy(logits, batch.atom_features[places, 0].long(), reduction="sum")]
        if self.options.attr_mask_bonds:
            both = atoms.index_select(0, ends[0]) + atoms.index_select(0, ends[1])
            sums.append(F.cross_entropy(at_least_float32(model.heads[BOND_HEAD](both)), types, reduction="sum"))
        return torch.stack(sums)
