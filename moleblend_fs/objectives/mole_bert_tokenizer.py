"""Mole-BERT's tokenizer (Xia et al. 2023): atoms as codes of a codebook, from which elements, chirality and bonds are found again.

    L = CE(element) + CE(chirality) + CE(bond) + |c - sg[h]|^2 / d + beta |sg[c] - h|^2 / d

c is the code of the atom's group that is nearest to its vector h, sg[.] what no gradient goes through. What is decoded is h + sg[c - h], so
that the decoders' gradients reach h. `moleblend tokenize` then writes the numbers of all atoms' codes, which `mole_bert` learns.
Shape legend: B molecules, A atoms, M bonds, K codes, d embedding width.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.graph import ELEMENTS
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.heads import register_head
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import Shown
from moleblend_fs.objectives.attr_mask import BOND_TYPES, bonds_at
from moleblend_fs.objectives.common import gradients
from moleblend_fs.objectives.common.codebook import CODEBOOK, config_sizes, group_sizes
from moleblend_fs.objectives.common.decoder import SEEN, AtomDecoder, seen_by
from moleblend_fs.objectives.common.hashed_draws import LEFT_OUT_CODE, bits
from moleblend_fs.objectives.common.views import encode, full_view
from moleblend_fs.objectives.objective import NATS, Curve, Objective, Prepared, Term
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.linear import Linear
from moleblend_fs.ops.precision import at_least_float32
from moleblend_fs.option_fields import option

DECODERS = "mole_bert_decoders"
CHIRALITIES = 5
"""Values of OGB's feature."""


class Decoders(nn.Module):
    """Of atoms' elements and chirality by a block each, of bonds' types from the sum of their ends."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.element, self.chirality = AtomDecoder(config, ELEMENTS), AtomDecoder(config, CHIRALITIES)
        self.bond = Linear(config.embed_dim, BOND_TYPES)

    def start(self) -> None:
        """As each decoder begins."""
        self.element.start()
        self.chirality.start()


register_head(DECODERS, Decoders)


@dataclass(frozen=True, kw_only=True)
class TokenizerOptions:
    """The released code's by default."""

    tokenizer_codes: str = option(
        "377,55,54,22", "codes of carbon, nitrogen, oxygen and all other elements; or one number, for all atoms together"
    )
    tokenizer_commitment: float = option(0.25, "beta, weight of the distance of atoms from their codes")
    tokenizer_code_dropout: float = option(
        0.0, "share of each group's codes that the atoms of a molecule cannot have, others each epoch, so that more codes come to be used"
    )
    tokenizer_decoder: str = option(
        "neighbours", "atoms that the decoders' one block sees: bonded neighbours only, as published, or all of the molecule", SEEN
    )

    def __post_init__(self) -> None:
        self.groups  # noqa: B018  told now
        if not self.tokenizer_commitment > 0:
            raise UserError(f"--tokenizer-commitment must be above 0, got {self.tokenizer_commitment}")
        if not 0 <= self.tokenizer_code_dropout < 1:
            raise UserError(f"--tokenizer-code-dropout must lie in [0, 1), got {self.tokenizer_code_dropout}")

    @property
    def groups(self) -> tuple[int, ...]:
        """Codes of each group."""
        return group_sizes(self.tokenizer_codes, "--tokenizer-codes")


class Coded(NamedTuple):
    """What is shown; codes that a molecule's atoms cannot have (B, K), if any; ends (2, M) of bonds, and their types."""

    shown: Shown
    left_out: Tensor | None
    ends: Tensor
    types: Tensor


class MoleBertTokenizer(Objective):
    """See the module."""

    name: ClassVar[str] = "mole_bert_tokenizer"
    Options: ClassVar[type] = TokenizerOptions
    options: TokenizerOptions
    curves: ClassVar[dict[str, Curve]] = {
        "coded_element": Curve("Elements from codes (mole_bert_tokenizer)", NATS),
        "coded_chirality": Curve("Chirality from codes (mole_bert_tokenizer)", NATS),
        "coded_bond": Curve("Bonds from codes (mole_bert_tokenizer)", NATS),
        "codebook": Curve("Codes from their atoms (mole_bert_tokenizer)", "squared distance / width"),
        "commitment": Curve("Atoms from their codes (mole_bert_tokenizer)", "squared distance / width"),
    }

    def heads(self) -> tuple[str, ...]:
        return (CODEBOOK, DECODERS)

    def terms(self) -> tuple[Term, ...]:
        decoded = tuple(Term(name, 1.0) for name in ("coded_element", "coded_chirality", "coded_bond"))
        return (*decoded, Term("codebook", 1.0), Term("commitment", self.options.tokenizer_commitment))

    def config_fields(self) -> dict[str, Any]:
        return {"sizes": config_sizes(self.options.groups)}

    def prepare(self, batch: MoleculeBatch, layout: Layout, *, seed: int, epoch: int) -> Prepared:
        places, types = bonds_at(batch, layout, torch.ones_like(layout.atom_molecule, dtype=torch.bool))
        atoms, bonds = (torch.full((), number, dtype=torch.float64, device=places.device) for number in (len(batch.degree), len(places)))
        parts = Coded(
            full_view(batch, layout, "2d"),
            left_out_codes(batch, self.options, seed=seed, epoch=epoch),
            torch.stack([layout.pair_row[places], layout.pair_column[places]]),
            types,
        )
        return Prepared(batch, layout, torch.stack([atoms, atoms, bonds, atoms, atoms]), parts)

    def loss_sums(self, model: MoleBlend, prepared: Prepared) -> Tensor:
        asked, batch, layout = prepared.parts, prepared.batch, prepared.layout
        encoded = encode(model, batch, asked.shown, layout)
        atoms, features = at_least_float32(encoded.atoms), batch.atom_features.long()
        left_out = None if asked.left_out is None else asked.left_out[layout.atom_molecule]
        codes, _ = model.heads[CODEBOOK](encoded.atoms, features[:, 0], left_out)
        coded = (atoms + gradients.stopped(codes - atoms)).to(encoded.tokens.dtype)
        decoders: Decoders = model.heads[DECODERS]  # type: ignore[assignment]
        tokens = torch.zeros_like(encoded.tokens).index_copy(0, layout.atom_tokens, coded)  # the graph token has no code, and tells nothing
        bias, graph_bias = seen_by(self.options.tokenizer_decoder, encoded.bias, model.relations.graph_bias, batch)
        element, chirality = (decode(tokens, None, bias, graph_bias, layout) for decode in (decoders.element, decoders.chirality))
        bond = decoders.bond(coded.index_select(0, asked.ends[0]) + coded.index_select(0, asked.ends[1]))
        decoded = ((element, features[:, 0]), (chirality, features[:, 1]), (bond, asked.types))
        return torch.stack(
            [
                *(F.cross_entropy(at_least_float32(logits), target, reduction="sum") for logits, target in decoded),
                *quantisation_losses(atoms, codes),
            ]
        )


def quantisation_losses(atoms_Ad: Tensor, codes_Ad: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over atoms of |c - sg[h]|^2 / d and |sg[c] - h|^2 / d: codes go to their atoms, and atoms to their codes."""
    codebook = (codes_Ad - gradients.stopped(atoms_Ad)).square().mean(dim=1).sum()
    return codebook, (gradients.stopped(codes_Ad) - atoms_Ad).square().mean(dim=1).sum()


def left_out_codes(batch: MoleculeBatch, options: TokenizerOptions, *, seed: int, epoch: int) -> Tensor | None:
    """(B, K) bool, floor(p k) of the k codes of each group, of each molecule others; None where p is 0."""
    if not options.tokenizer_code_dropout:
        return None
    sizes, device = options.groups, batch.molecule_id.device
    code = torch.arange(sum(sizes), device=device).repeat(len(batch))
    drawn = bits(LEFT_OUT_CODE, seed, epoch, batch.molecule_id.repeat_interleave(sum(sizes)), code).view(len(batch), -1)
    ranks = [part.argsort(dim=1).argsort(dim=1) < int(options.tokenizer_code_dropout * part.shape[1]) for part in drawn.split(sizes, dim=1)]
    return torch.cat(ranks, dim=1)
