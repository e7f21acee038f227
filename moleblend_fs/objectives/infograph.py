"""InfoGraph: an atom's vector tells its own molecule from another (Sun et al. 2020), and the form of it that molecular tables report
(Deep Graph Infomax, in Hu et al. 2020). On the 3D view it is GeoSSL's 3D InfoGraph.

Shape legend: A atoms, B molecules, d embedding width.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.manifest import Manifest
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.heads import register_head
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.objectives.common.contrastive import PoolingOptions
from moleblend_fs.objectives.common.groups import GroupOptions, group_of, next_in_group, same_group
from moleblend_fs.objectives.common.views import encode, full_view
from moleblend_fs.objectives.objective import Curve, Objective, Prepared, Term, needs_structures
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import Linear
from moleblend_fs.ops.precision import at_least_float32
from moleblend_fs.option_fields import option

FORMS, VIEWS = ("dgi", "jsd"), ("2d", "3d")


class Feedforward(nn.Module):
    """Three times Linear and ReLU, and a linear shortcut beside them."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.ModuleList(Linear(width, width) for _ in range(3))
        self.shortcut = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d)."""
        deep = x
        for layer in self.layers:
            deep = F.relu(layer(deep))
        return deep + self.shortcut(x)


class LocalAndGlobal(nn.Module):
    """JSD's two maps: of atoms and of molecules."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.local, self.whole = Feedforward(config.embed_dim), Feedforward(config.embed_dim)

    def forward(self, atoms_Ad: Tensor, pooled_Bd: Tensor) -> tuple[Tensor, Tensor]:
        """(A, d) and (B, d)."""
        return self.local(atoms_Ad), self.whole(pooled_Bd)


HEADS = {"dgi": "infograph_bilinear", "jsd": "infograph_maps"}
register_head(HEADS["dgi"], lambda config: Linear(config.embed_dim, config.embed_dim, bias=False))
register_head(HEADS["jsd"], LocalAndGlobal)


@dataclass(frozen=True, kw_only=True)
class InfoGraphOptions(GroupOptions, PoolingOptions):
    """The form that molecular tables report by default."""

    infograph: str = option("dgi", "Deep Graph Infomax's bilinear form, one negative an atom, or InfoGraph's own, all of the group", FORMS)
    infograph_view: str = option("2d", "what is shown; 3d: 3D InfoGraph", VIEWS)


def jsd_right(score: Tensor) -> Tensor:
    """-(log 2 - s(-t)) of an atom and its own molecule, s(x) = log(1 + e^x)."""
    return F.softplus(-score) - math.log(2)


def jsd_wrong(score: Tensor) -> Tensor:
    """s(-t) + t - log 2 of an atom and another molecule."""
    return F.softplus(-score) + score - math.log(2)


class Compared(NamedTuple):
    """Molecules (B,) that take part; their negatives (B,), places in the batch, and whether they have any."""

    present: Tensor
    partner: Tensor
    has_partner: Tensor


class InfoGraph(Objective):
    """See the module."""

    name: ClassVar[str] = "infograph"
    Options: ClassVar[type] = InfoGraphOptions
    options: InfoGraphOptions
    curves: ClassVar[dict[str, Curve]] = {
        "own_molecule": Curve("An atom and its own molecule (infograph)", "nats"),
        "other_molecule": Curve("An atom and another molecule (infograph)", "nats"),
    }

    def heads(self) -> tuple[str, ...]:
        return (HEADS[self.options.infograph],)

    def terms(self) -> tuple[Term, ...]:
        return (Term("own_molecule", 1.0), Term("other_molecule", 1.0))

    @property
    def group(self) -> int | None:
        return self.options.negatives_group

    def check(self, manifest: Manifest, store: str) -> None:
        if self.options.infograph_view == "3d":
            needs_structures(manifest, store, self.name)

    def prepare(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Prepared:
        present = batch.has_coordinates if self.options.infograph_view == "3d" else torch.ones_like(batch.has_coordinates)
        sizes = layout.cu_atoms.diff() * present
        if self.options.infograph == "dgi":
            partner, other = next_in_group(batch, seed=seed, epoch=epoch, among=present)
            wrong = sizes * other
        else:
            partner, other = torch.zeros_like(sizes), present
            others = torch.zeros_like(sizes).index_add(0, group_of(batch), present.long())[group_of(batch)]
            wrong = sizes * (others - 1).clamp(min=0)
        counts = torch.stack([sizes.sum(), wrong.sum()]).double()
        return Prepared(batch, layout, counts, Compared(present, partner, other & present))

    def loss_sums(self, model: MoleBlend, prepared: Prepared) -> Tensor:
        batch, layout = prepared.batch, prepared.layout
        encoded = encode(model, batch, full_view(batch, layout, self.options.infograph_view), layout)
        pooled = encoded.pooled(layout, self.options.pooling)
        form = self._dgi if self.options.infograph == "dgi" else self._jsd
        return form(model.heads[self.heads()[0]], encoded.atoms, pooled, prepared)

    @staticmethod
    def _dgi(bilinear: nn.Module, atoms_Ad: Tensor, pooled_Bd: Tensor, prepared: Prepared) -> Tensor:
        """BCE of h^T W sigmoid(g) of an atom and its own molecule as right, and of another as wrong."""
        compared, molecule = prepared.parts, prepared.layout.atom_molecule
        summary = at_least_float32(bilinear(torch.sigmoid(pooled_Bd)))
        atoms = at_least_float32(atoms_Ad)
        right = F.softplus(-(atoms * summary[molecule]).sum(dim=1)) * compared.present[molecule]
        wrong = F.softplus((atoms * summary[compared.partner[molecule]]).sum(dim=1)) * compared.has_partner[molecule]
        return torch.stack([right.sum(), wrong.sum()])

    @staticmethod
    def _jsd(maps: nn.Module, atoms_Ad: Tensor, pooled_Bd: Tensor, prepared: Prepared) -> Tensor:
        """The Jensen-Shannon estimate, of all atoms and all molecules of a group."""
        compared, molecule = prepared.parts, prepared.layout.atom_molecule
        local, whole = maps(atoms_Ad, pooled_Bd)
        score_AB = at_least_float32(local) @ at_least_float32(whole).T
        own = score_AB.gather(1, molecule.unsqueeze(1)).squeeze(1)
        pairs = same_group(prepared.batch) & compared.present & compared.present.unsqueeze(1)
        pairs.fill_diagonal_(False)
        right = jsd_right(own) * compared.present[molecule]
        return torch.stack([right.sum(), (jsd_wrong(score_AB) * pairs[molecule]).sum()])
