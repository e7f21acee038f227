"""Mole-BERT (Xia et al. 2023): the codes of hidden atoms, and two views of a molecule, of which one hides more, that find each other.

    masked    CE(code of a hidden atom) + CE(type of a bond at a hidden atom), of either view
    contrast  -log[e^(s_ii) / sum over molecules j of the group of e^(s_ij)],  s_ij = cos(z1_i, z2_j) / T
    triplet   max(0, |z - z1| - |z - z2| + margin): the view that hides less is nearer to the whole molecule, whose z is taken as given

z are projections of the graph tokens of the whole molecule and of both views. Codes are those of `mole_bert_tokenizer`.
Shape legend: B molecules, A atoms, N hidden atoms, M bonds, d embedding width.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.sidecar import CODES, SidecarManifest
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.heads import register_head
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import Shown
from moleblend_fs.objectives.attr_mask import BOND_TYPES, bonds_at
from moleblend_fs.objectives.common import gradients
from moleblend_fs.objectives.common.contrastive import (
    DENOMINATORS,
    Compared,
    PoolingOptions,
    Projection,
    check_temperature,
    compared,
    info_nce,
)
from moleblend_fs.objectives.common.groups import GroupOptions, group_of
from moleblend_fs.objectives.common.hashed_draws import VIEW_ATOM
from moleblend_fs.objectives.common.subgraphs import check_share, draw_atoms, paths_through, share_and_one, without_bonds
from moleblend_fs.objectives.common.views import Encoded, encode, full_view
from moleblend_fs.objectives.objective import NATS, Curve, Objective, Prepared, Term
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import Linear
from moleblend_fs.ops.precision import at_least_float32
from moleblend_fs.option_fields import option

PROJECTION = "mole_bert_projection"
MASKED = {"one": "mole_bert_masked", "two": "mole_bert_masked_each"}
SIZE = "mole_bert_codes"
"""How many codes there are."""
VIEWS = ("light", "heavy")
"""The view that hides less, and the one that hides more."""


class MaskedHead(nn.Module):
    """Linear maps to codes and to bond types, one pair for both views or one for each."""

    def __init__(self, config: ModelConfig, pairs: int):
        super().__init__()
        self.atoms = nn.ModuleList(Linear(config.embed_dim, config.size_of(SIZE)) for _ in range(pairs))
        self.bonds = nn.ModuleList(Linear(config.embed_dim, BOND_TYPES) for _ in range(pairs))


register_head(MASKED["one"], lambda config: MaskedHead(config, 1))
register_head(MASKED["two"], lambda config: MaskedHead(config, 2))
register_head(PROJECTION, lambda config: Projection(config, activation=F.relu))


@dataclass(frozen=True, kw_only=True)
class MoleBertOptions(GroupOptions, PoolingOptions):
    """--mole-bert-heads two --mole-bert-denominator negatives --pooling mean is as coded."""

    mole_bert_rates: str = option("0.15,0.3", "shares r of a molecule's n atoms that the two views hide: floor(r n + 1)")
    mole_bert_heads: str = option("one", "heads of hidden atoms and bonds: one for both views, or (as coded) one for each", tuple(MASKED))
    mole_bert_temperature: float = option(0.1, "T, what cosines are divided by")
    mole_bert_denominator: str = option(
        "all", "under the fraction: all, or (as published) only the others, which has no lower bound at 0", DENOMINATORS
    )
    mole_bert_margin: float = option(0.0, "margin of the triplet loss")
    mole_bert_masked_weight: float = option(1.0, "weight of the losses of hidden atoms and bonds; 0 leaves them out, and needs no codes")
    mole_bert_contrast_weight: float = option(1.0, "weight of the loss of two views that find each other; 0 leaves it out")
    mole_bert_triplet_weight: float = option(0.1, "weight of the triplet loss; 0 leaves it out")

    def __post_init__(self) -> None:
        GroupOptions.__post_init__(self)
        for rate in self.rates:
            check_share("--mole-bert-rates", rate)
        check_temperature("--mole-bert-temperature", self.mole_bert_temperature)
        if self.mole_bert_margin < 0:
            raise UserError(f"--mole-bert-margin must not be negative, got {self.mole_bert_margin}")
        weights = (self.mole_bert_masked_weight, self.mole_bert_contrast_weight, self.mole_bert_triplet_weight)
        if min(weights) < 0 or not any(weights):
            told = ", ".join(f"--mole-bert-{name}-weight" for name in ("masked", "contrast", "triplet"))
            raise UserError(f"{told} must not be negative, and not all 0, got {', '.join(f'{weight:g}' for weight in weights)}")

    @property
    def rates(self) -> tuple[float, float]:
        """Of the view that hides less, and of the other."""
        try:
            light, heavy = (float(word) for word in self.mole_bert_rates.split(","))
        except ValueError:
            raise UserError(f"--mole-bert-rates is two numbers with a comma, got {self.mole_bert_rates!r}") from None
        if not light <= heavy:
            raise UserError(f"--mole-bert-rates: the first must not be above the second, got {self.mole_bert_rates}")
        return light, heavy


class View(NamedTuple):
    """What is shown; hidden atoms (N,), places in A, and their codes; ends (2, M) of the bonds at them, and their types."""

    shown: Shown
    atoms: Tensor
    codes: Tensor
    ends: Tensor
    types: Tensor


class Views(NamedTuple):
    """Both views, and the whole molecules; how they are compared; which molecules (B,) one of them hides more of than the other."""

    masked: list[View]
    whole: Shown
    meet: Compared
    apart: Tensor


class MoleBert(Objective):
    """See the module."""

    name: ClassVar[str] = "mole_bert"
    Options: ClassVar[type] = MoleBertOptions
    options: MoleBertOptions
    curves: ClassVar[dict[str, Curve]] = {
        **{f"{view}_code": Curve(f"Codes of hidden atoms, the {view} view (mole_bert)", NATS) for view in VIEWS},
        **{f"{view}_bond": Curve(f"Bonds at hidden atoms, the {view} view (mole_bert)", NATS) for view in VIEWS},
        "two_views": Curve("Two views of a molecule (mole_bert)", "nats"),
        "triplet": Curve("The lighter view is nearer (mole_bert)", "difference of distances"),
    }
    codes: int = 1
    """How many there are; known when the sidecar is."""

    def heads(self) -> tuple[str, ...]:
        masked = (MASKED[self.options.mole_bert_heads],) if self.options.mole_bert_masked_weight else ()
        return (*masked, PROJECTION) if self._projects else masked

    @property
    def _projects(self) -> bool:
        return bool(self.options.mole_bert_contrast_weight or self.options.mole_bert_triplet_weight)

    def terms(self) -> tuple[Term, ...]:
        options = self.options
        every = (
            *(Term(f"{view}_{what}", options.mole_bert_masked_weight) for what in ("code", "bond") for view in VIEWS),
            Term("two_views", options.mole_bert_contrast_weight),
            Term("triplet", options.mole_bert_triplet_weight),
        )
        return tuple(term for term in every if term.weight)

    @property
    def passes(self) -> float:
        """Two, and that of the whole molecules, which has no backward pass: a third."""
        return 2.33 if self.options.mole_bert_triplet_weight else 2.0

    @property
    def group(self) -> int | None:
        return self.options.negatives_group if self.options.mole_bert_contrast_weight else None

    def sidecars(self) -> tuple[str, ...]:
        return (CODES,) if self.options.mole_bert_masked_weight else ()

    def take_sidecars(self, sidecars: Mapping[str, SidecarManifest]) -> None:
        if self.options.mole_bert_masked_weight:
            self.codes = len(sidecars[CODES].columns)

    def config_fields(self) -> dict[str, Any]:
        return {"sizes": {SIZE: self.codes}} if self.options.mole_bert_masked_weight else {}

    def prepare(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Prepared:
        options, counts = self.options, [share_and_one(layout, rate) for rate in self.options.rates]
        codes = self._codes_of(batch, layout)
        masked = []
        for count, stream in zip(counts, VIEW_ATOM, strict=True):
            hidden = draw_atoms(batch, layout, count, stream=stream, seed=seed, epoch=epoch)
            masked.append(masked_view(batch, layout, hidden, codes))
        every = torch.arange(len(batch), device=codes.device)
        meet, apart = compared(group_of(batch), every, every), counts[0] < counts[1]
        found = []
        if options.mole_bert_masked_weight:
            asked = (*(view.atoms for view in masked), *(view.types for view in masked))
            found += [torch.full((), len(places), device=codes.device) for places in asked]
        if options.mole_bert_contrast_weight:
            found.append(meet.counts.sum())
        if options.mole_bert_triplet_weight:
            found.append(apart.sum())
        return Prepared(batch, layout, torch.stack(found).double(), Views(masked, full_view(batch, layout, "2d"), meet, apart))

    def _codes_of(self, batch: MoleculeBatch, layout: Layout) -> Tensor:
        """(A,) int64, each atom's code; 0 where none are learned."""
        if not self.options.mole_bert_masked_weight:
            return torch.zeros_like(layout.atom_molecule)
        place = torch.arange(layout.num_total_atoms, device=layout.atom_molecule.device) - layout.cu_atoms[layout.atom_molecule]
        return batch.extra[CODES].long()[layout.atom_molecule, place]

    def loss_sums(self, model: MoleBlend, prepared: Prepared) -> Tensor:
        (masked, whole, meet, apart), batch, layout = prepared.parts, prepared.batch, prepared.layout
        options, sums = self.options, []
        passes = [encode(model, batch, view.shown, layout) for view in masked]
        if options.mole_bert_masked_weight:
            sums += self._masked(model, passes, masked)
        if self._projects:
            light, heavy = (self._projected(model, each, layout) for each in passes)
        if options.mole_bert_contrast_weight:
            temperature, denominator = options.mole_bert_temperature, options.mole_bert_denominator
            sums.append(info_nce(light, heavy, meet, temperature=temperature, denominator=denominator).sum())
        if options.mole_bert_triplet_weight:
            with torch.no_grad():
                given = self._projected(model, encode(model, batch, whole, layout), layout)
            losses = triplet_losses(gradients.stopped(given), light, heavy, options.mole_bert_margin)
            sums.append(torch.where(apart, losses, 0).sum())
        return torch.stack(sums)

    def _masked(self, model: MoleBlend, passes: list[Encoded], masked: list[View]) -> list[Tensor]:
        """Sums of cross-entropies: of codes in both views, and of bonds."""
        head: MaskedHead = model.heads[MASKED[self.options.mole_bert_heads]]  # type: ignore[assignment]
        atoms, bonds = ([*maps] * (2 // len(maps)) for maps in (head.atoms, head.bonds))
        codes, types = [], []
        for encoded, view, to_code, to_type in zip(passes, masked, atoms, bonds, strict=True):
            logits = at_least_float32(to_code(encoded.atoms.index_select(0, view.atoms)))
            codes.append(F.cross_entropy(logits, view.codes, reduction="sum"))
            both = encoded.atoms.index_select(0, view.ends[0]) + encoded.atoms.index_select(0, view.ends[1])
            types.append(F.cross_entropy(at_least_float32(to_type(both)), view.types, reduction="sum"))
        return [*codes, *types]

    def _projected(self, model: MoleBlend, encoded: Encoded, layout: Layout) -> Tensor:
        """(B, d) float32 or wider."""
        return at_least_float32(model.heads[PROJECTION](encoded.pooled(layout, self.options.pooling)))


def masked_view(batch: MoleculeBatch, layout: Layout, hidden: Tensor, codes: Tensor) -> View:
    """The 2D view without some atoms, and without the classes of bonds in all paths through them."""
    shown = full_view(batch, layout, "2d")
    through = paths_through(batch, layout, hidden) & (layout.pair_row != layout.pair_column)
    places, types = bonds_at(batch, layout, hidden)
    atoms = hidden.nonzero().squeeze(1)
    ends = torch.stack([layout.pair_row[places], layout.pair_column[places]])
    seen = dataclasses.replace(shown, hidden=hidden, relations=without_bonds(shown.relations, through))
    return View(seen, atoms, codes[atoms], ends, types)


def triplet_losses(whole_Bd: Tensor, near_Bd: Tensor, far_Bd: Tensor, margin: float) -> Tensor:
    """(B,) max(0, |z - z1| - |z - z2| + margin)."""
    return F.relu((whole_Bd - near_Bd).norm(dim=1) - (whole_Bd - far_Bd).norm(dim=1) + margin)
