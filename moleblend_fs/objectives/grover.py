"""GROVER's tasks (Rong et al. 2020): contexts of atoms and bonds, as classes of vocabularies, and the fragments that a molecule has.

    L = CE of drawn atoms' contexts from h_i + CE of drawn bonds' contexts from h_u + h_v + BCE of 85 fragments from the graph token

Contexts and fragments are described in `data.contexts` and `chem.fragments`; the labels of contexts follow from the batch and a vocabulary.
Shape legend: B molecules, A atoms, P ordered pairs, N drawn atoms or bonds, V contexts, F fragments, d embedding width.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.contexts import atom_codes, bond_codes
from moleblend_fs.data.sidecar import NO_FLAG, SidecarManifest
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.heads import register_head
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.readout import mean_of_atoms
from moleblend_fs.model.shown import Shown
from moleblend_fs.objectives.common.contrastive import PoolingOptions
from moleblend_fs.objectives.common.hashed_draws import HIDDEN_ATOM, HIDDEN_BOND
from moleblend_fs.objectives.common.subgraphs import bonds_in, bonds_of, check_share, draw_atoms, draw_bonds, paths_over, without_bonds
from moleblend_fs.objectives.common.views import Encoded, encode, full_view
from moleblend_fs.objectives.common.vocabulary import Vocabulary
from moleblend_fs.objectives.objective import NATS, Curve, Objective, Prepared, Term
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import Linear
from moleblend_fs.ops.precision import at_least_float32
from moleblend_fs.option_fields import option

CONTEXTS, FRAGMENTS = "contexts", "fragments"
"""The sidecars."""
ATOMS, BONDS, FLAGS = "grover_atoms", "grover_bonds", "grover_fragments"
"""Sizes of the heads."""
HEADS = {"one": "grover", "two": "grover_two"}
MASKS, BRANCHES = ("hide", "none"), tuple(HEADS)


class Heads(nn.Module):
    """Linear maps to contexts of atoms, of bonds, and to fragments: so many of each."""

    def __init__(self, config: ModelConfig, contexts: int, readouts: int):
        super().__init__()
        self.maps = nn.ModuleDict()
        for size, count in ((ATOMS, contexts), (BONDS, contexts), (FLAGS, readouts)):
            self.maps[size] = nn.ModuleList(Linear(config.embed_dim, config.size_of(size)) for _ in range(count))

    def logits(self, size: str, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Of each input by a map of its own."""
        layers: nn.ModuleList = self.maps[size]  # type: ignore[assignment]
        return [at_least_float32(layer(x)) for layer, x in zip(layers, inputs, strict=True)]


register_head(HEADS["one"], lambda config: Heads(config, 1, 1))
register_head(HEADS["two"], lambda config: Heads(config, 2, 4))


@dataclass(frozen=True, kw_only=True)
class GroverOptions(PoolingOptions):
    """Drawn atoms and bonds are hidden by default; --grover-mask none --grover-branches two --grover-min-count 1 --grover-atom-contexts 0
    --grover-bond-contexts 0 is as published."""

    grover_mask: str = option(
        "hide", "whether drawn atoms, and the classes of drawn bonds in all paths over them, are hidden, or (as published) not", MASKS
    )
    grover_branches: str = option(
        "one", "two, as published: two passes that differ in their dropout, with heads of their own that are to agree", BRANCHES
    )
    grover_atom_rate: float = option(0.15, "share r of a molecule's n atoms that are drawn: ceil(r n)")
    grover_bond_rate: float = option(0.15, "share r of a molecule's m bonds that are drawn: ceil(r m)")
    grover_atom_contexts: int = option(2000, "contexts of atoms that are told apart, the most frequent ones; 0: all")
    grover_bond_contexts: int = option(4000, "contexts of bonds that are told apart, the most frequent ones; 0: all")
    grover_min_count: int = option(10, "contexts that are rarer in the store are not told apart")

    def __post_init__(self) -> None:
        check_share("--grover-atom-rate", self.grover_atom_rate)
        check_share("--grover-bond-rate", self.grover_bond_rate)
        if min(self.grover_atom_contexts, self.grover_bond_contexts) < 0:
            raise UserError("--grover-atom-contexts and --grover-bond-contexts must be at least 1, or 0 for all")
        if self.grover_min_count < 1:
            raise UserError(f"--grover-min-count must be at least 1, got {self.grover_min_count}")


class Drawn(NamedTuple):
    """What is shown in each pass. Drawn atoms (N,), places in A, and their classes; ends (2, N) of drawn bonds, and their classes; all
    bonds' ends (2, M); fragments (B, F), and which of them count (B, F)."""

    shown: list[Shown]
    atoms: Tensor
    atom_classes: Tensor
    ends: Tensor
    bond_classes: Tensor
    bonds: Tensor
    flags: Tensor
    present: Tensor


class Grover(Objective):
    """See the module."""

    name: ClassVar[str] = "grover"
    Options: ClassVar[type] = GroverOptions
    options: GroverOptions
    curves: ClassVar[dict[str, Curve]] = {
        "atom_context": Curve("Contexts of atoms (grover)", NATS),
        "bond_context": Curve("Contexts of bonds (grover)", NATS),
        "fragments": Curve("Fragments (grover)", "binary cross-entropy (nats)"),
        "atom_agreement": Curve("Two branches on atoms (grover)", "squared difference of log-probabilities"),
        "bond_agreement": Curve("Two branches on bonds (grover)", "squared difference of log-probabilities"),
        "fragment_agreement": Curve("Two branches on fragments (grover)", "squared difference of probabilities"),
    }
    atom_contexts: Vocabulary
    bond_contexts: Vocabulary
    fragments: int

    @property
    def two(self) -> bool:
        return self.options.grover_branches == "two"

    @property
    def passes(self) -> float:
        return 2.0 if self.two else 1.0

    def heads(self) -> tuple[str, ...]:
        return (HEADS[self.options.grover_branches],)

    def terms(self) -> tuple[Term, ...]:
        tasks = (Term("atom_context", 1.0), Term("bond_context", 1.0), Term("fragments", 1.0))
        agreement = (Term("atom_agreement", 0.1), Term("bond_agreement", 0.1), Term("fragment_agreement", 1.0))
        return (*tasks, *agreement) if self.two else tasks

    def sidecars(self) -> tuple[str, ...]:
        return (CONTEXTS, FRAGMENTS)

    def take_sidecars(self, sidecars: Mapping[str, SidecarManifest]) -> None:
        options, vocabularies = self.options, sidecars[CONTEXTS].vocabularies
        self.atom_contexts = Vocabulary(vocabularies["atoms"], options.grover_atom_contexts, options.grover_min_count, "--grover-min-count")
        self.bond_contexts = Vocabulary(vocabularies["bonds"], options.grover_bond_contexts, options.grover_min_count, "--grover-min-count")
        self.fragments = len(sidecars[FRAGMENTS].columns)

    def config_fields(self) -> dict[str, Any]:
        return {"sizes": {ATOMS: self.atom_contexts.classes, BONDS: self.bond_contexts.classes, FLAGS: self.fragments}}

    def prepare(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Prepared:
        options = self.options
        bonds = bonds_of(batch, layout)
        count = torch.ceil(layout.cu_atoms.diff().double() * options.grover_atom_rate)
        atoms = draw_atoms(batch, layout, count, stream=HIDDEN_ATOM, seed=seed, epoch=epoch)
        count = torch.ceil(bonds_in(bonds, layout).double() * options.grover_bond_rate)
        drawn = bonds[draw_bonds(batch, layout, bonds, count, stream=HIDDEN_BOND, seed=seed, epoch=epoch)]
        shown = full_view(batch, layout, "2d")
        if options.grover_mask == "hide":
            relations = without_bonds(shown.relations, paths_over(batch, layout, drawn))
            shown = dataclasses.replace(shown, relations=relations, hidden=atoms)
        places = atoms.nonzero().squeeze(1)
        atom_classes, bond_classes = self._labels(batch, layout, drawn)
        flags = batch.extra[FRAGMENTS]
        present = flags != NO_FLAG
        sizes = [torch.full((), len(found), dtype=torch.int64, device=flags.device) for found in (places, drawn)]
        counts = torch.stack([*sizes, present.sum()]).double()
        parts = Drawn(
            [shown, dataclasses.replace(shown)] if self.two else [shown],
            places,
            atom_classes[places],
            torch.stack([layout.pair_row[drawn], layout.pair_column[drawn]]),
            bond_classes,
            torch.stack([layout.pair_row[bonds], layout.pair_column[bonds]]),
            flags,
            present,
        )
        return Prepared(batch, layout, counts.repeat(2) if self.two else counts, parts)

    def _labels(self, batch: MoleculeBatch, layout: Layout, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Classes of all atoms (A,), and of the drawn bonds."""
        directed = (batch.spd == 1).nonzero().squeeze(1)
        element, ends = batch.atom_features[:, 0].long(), (layout.pair_row[directed], layout.pair_column[directed])
        classes = batch.path_bonds[directed, 0].long()
        of_bonds = bond_codes(element, *ends, classes)[torch.searchsorted(directed, drawn)]
        return self.atom_contexts.classes_of(atom_codes(element, *ends, classes)), self.bond_contexts.classes_of(of_bonds)

    def loss_sums(self, model: MoleBlend, prepared: Prepared) -> Tensor:
        drawn, layout = prepared.parts, prepared.layout
        passes = [encode(model, prepared.batch, shown, layout) for shown in drawn.shown]
        heads: Heads = model.heads[self.heads()[0]]  # type: ignore[assignment]
        atoms = heads.logits(ATOMS, [each.atoms.index_select(0, drawn.atoms) for each in passes])
        bonds = heads.logits(BONDS, [_of_ends(each, drawn.ends) for each in passes])
        if self.two:
            pooled = [mean_of_atoms(each.atoms, layout) for each in passes] + [_mean_of_bonds(each, drawn.bonds, layout) for each in passes]
        else:
            pooled = [passes[0].pooled(layout, self.options.pooling)]
        flags = heads.logits(FLAGS, pooled)
        sums = [
            sum_of_cross_entropies(atoms, drawn.atom_classes),
            sum_of_cross_entropies(bonds, drawn.bond_classes),
            torch.stack([_binary_cross_entropy(logits, drawn.flags, drawn.present) for logits in flags]).sum(),
        ]
        if self.two:
            sums += [disagreement(*(x.log_softmax(dim=1) for x in both)).mean(dim=1).sum() for both in (atoms, bonds)]
            likely = [logits.sigmoid() * drawn.present for logits in flags]
            sums.append((disagreement(likely[0], likely[1]) + disagreement(likely[2], likely[3])).sum())
        return torch.stack(sums)


def _of_ends(encoded: Encoded, ends_2N: Tensor) -> Tensor:
    """(N, d) h_u + h_v."""
    return encoded.atoms.index_select(0, ends_2N[0]) + encoded.atoms.index_select(0, ends_2N[1])


def _mean_of_bonds(encoded: Encoded, bonds_2M: Tensor, layout: Layout) -> Tensor:
    """(B, d) means of h_u + h_v over each molecule's bonds; 0 where there is none."""
    vectors, molecule = _of_ends(encoded, bonds_2M), layout.atom_molecule[bonds_2M[0]]
    total = vectors.new_zeros(layout.num_molecules, vectors.shape[1]).index_add(0, molecule, vectors)
    number = torch.zeros_like(layout.cu_atoms[1:]).index_add(0, molecule, torch.ones_like(molecule))
    return total / number.clamp(min=1).unsqueeze(1).to(total.dtype)


def sum_of_cross_entropies(logits: Sequence[Tensor], classes_N: Tensor) -> Tensor:
    """Over all drawn places, and all branches."""
    return torch.stack([F.cross_entropy(x, classes_N, reduction="sum") for x in logits]).sum()


def disagreement(ours: Tensor, theirs: Tensor) -> Tensor:
    """Squared differences."""
    return (ours - theirs).square()


def _binary_cross_entropy(logits_BF: Tensor, flags_BF: Tensor, present_BF: Tensor) -> Tensor:
    """Over the fragments that count."""
    target = (flags_BF == 1).to(logits_BF.dtype)
    return (F.binary_cross_entropy_with_logits(logits_BF, target, reduction="none") * present_BF).sum()
