"""Mole-BERT's tokenizer: closed values, codes by loops over groups, codes that are left out, losses by hand, what gradients reach."""

import math

import pytest
import torch
import torch.nn.functional as F

from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.objectives.attr_mask import bonds_at
from moleblend_fs.objectives.common.codebook import Codebook, code_names, config_sizes, group_of_element
from moleblend_fs.objectives.mole_bert_tokenizer import MoleBertTokenizer, TokenizerOptions, left_out_codes, quantisation_losses
from moleblend_fs.ops.layout import Layout
from tests.model.molecules import AWKWARD, ORDINARY, batch_of, graph
from tests.objectives.suite import Case, mean_losses, model_of, sums_and_counts

CASE = Case(
    variants={
        "shared codes": {"tokenizer_codes": "30", "tokenizer_decoder": "all"},
        "left out": {"tokenizer_codes": "9,5,4,3", "tokenizer_code_dropout": 0.5, "tokenizer_commitment": 1.0},
    },
    reached={"": 0.5, "shared codes": 0.5},
    rate=1e-2,
)
BATCH = batch_of([graph(smiles, i) for i, smiles in enumerate((*ORDINARY, *AWKWARD))])
LAYOUT = Layout(BATCH.num_atoms, "cpu")


def objective(**options):
    return MoleBertTokenizer(TokenizerOptions(**options))


def codebook(*sizes, width=2):
    made = Codebook(ModelConfig(embed_dim=width, attention_heads=1, sizes=config_sizes(sizes))).double()
    torch.manual_seed(0)
    made.start()
    return made


def test_the_nearest_code():
    """Of (0, 0) and (1, 1), (1, 0.2) is nearer to the second, 0.64 / 2 away; 0.32 + 0.25 * 0.32 in all."""
    codes = codebook(2)
    with torch.no_grad():
        codes.codes.copy_(torch.tensor([[0.0, 0], [1, 1]]))
    atom = torch.tensor([[1, 0.2]], dtype=torch.float64)
    code, number = codes(atom, torch.tensor([5]))
    assert number.tolist() == [1]
    to_atom, to_code = (loss.detach() for loss in quantisation_losses(atom, code))
    assert (float(to_atom), float(to_code)) == (pytest.approx(0.32), pytest.approx(0.32))
    assert float(to_atom + TokenizerOptions().tokenizer_commitment * to_code) == pytest.approx(0.40)


def test_codes_are_of_their_group():
    """Carbon, nitrogen, oxygen and all others against loops over groups; one group for all is not divided."""
    random = torch.Generator().manual_seed(1)
    atoms, element = torch.randn(200, 3, dtype=torch.float64, generator=random), torch.randint(0, 12, (200,), generator=random)
    for sizes in ((7, 5, 3, 2), (9,)):
        codes = codebook(*sizes, width=3)
        found, number = codes(atoms, element)
        starts = [sum(sizes[:group]) for group in range(len(sizes))]
        for i, e in enumerate(element.tolist()):
            group = {5: 0, 6: 1, 7: 2}.get(e, 3) if len(sizes) == 4 else 0
            own = range(starts[group], starts[group] + sizes[group])
            assert number[i] == min(own, key=lambda code: float((codes.codes[code] - atoms[i]).norm().detach()))
        assert torch.equal(found, codes.codes[number])
        assert len(number.unique()) > len(sizes)
    assert group_of_element(torch.tensor([0, 5, 6, 7, 8, 118])).tolist() == [3, 0, 1, 2, 3, 3]
    assert code_names((2, 1, 1, 1)) == ("C 0", "C 1", "N 0", "O 0", "other 0")
    assert code_names((2,)) == ("any 0", "any 1")


def test_published_sizes():
    """508 codes: the released code's slices of 512 leave four out."""
    assert TokenizerOptions().groups == (377, 55, 54, 22)
    assert codebook(*TokenizerOptions().groups).codes.shape == (508, 2)


def test_codes_that_are_left_out():
    """Half of each group, rounded down, of each molecule others, in each epoch others; nobody has them, and the next one is taken."""
    options = TokenizerOptions(tokenizer_codes="9,5,4,3", tokenizer_code_dropout=0.5)
    out = left_out_codes(BATCH, options, seed=1, epoch=1)
    assert out.shape == (len(BATCH), 21)
    assert {tuple(int(n) for n in row) for row in torch.stack([part.sum(1) for part in out.split([9, 5, 4, 3], dim=1)], 1)} == {
        (4, 2, 2, 1)
    }
    assert len(out.unique(dim=0)) == len(BATCH)
    assert not torch.equal(out, left_out_codes(BATCH, options, seed=1, epoch=2))
    assert left_out_codes(BATCH, TokenizerOptions(), seed=1, epoch=1) is None
    codes = codebook(9, 5, 4, 3)
    atoms, element = torch.randn(len(BATCH.degree), 2, dtype=torch.float64), BATCH.atom_features[:, 0].long()
    _, number = codes(atoms, element, out[LAYOUT.atom_molecule])
    _, free = codes(atoms, element)
    assert not out[LAYOUT.atom_molecule, number].any()
    assert torch.equal(number, free) == bool(not out[LAYOUT.atom_molecule, free].any())
    assert torch.equal(group_of_element(element), torch.bucketize(number, torch.tensor([9, 14, 18]), right=True))


def test_a_model_that_knows_nothing():
    """ln 119, ln 5 and ln 4 of equal logits; codes equal to their atoms cost nothing."""
    made = objective(tokenizer_codes="1")
    model = model_of(made)
    with torch.no_grad():
        for parameter in model.heads["mole_bert_decoders"].parameters():
            parameter.zero_()
        model.heads["atom_codebook"].codes.zero_()
        losses = mean_losses(made, model, BATCH)
        length = float(
            model.encode(BATCH, made.prepare(BATCH, LAYOUT, seed=1, epoch=1).parts.shown, LAYOUT)[0][LAYOUT.atom_tokens].square().mean()
        )
    decoded = {"coded_element": math.log(119), "coded_chirality": math.log(5), "coded_bond": math.log(4)}
    assert losses == pytest.approx(decoded | {"codebook": length, "commitment": length})
    assert [term.weight for term in made.terms()] == [1, 1, 1, 1, 0.25]


def test_losses_by_hand():
    """Decoders see codes alone: with others of the same numbers of codes, the decoded losses are those of these."""
    for decoder in ("neighbours", "all"):
        made = objective(tokenizer_codes="9,5,4,3", tokenizer_decoder=decoder)
        model = model_of(made)
        with torch.no_grad():
            sums, counts = sums_and_counts(made, model, BATCH)
            parts = made.prepare(BATCH, LAYOUT, seed=3, epoch=2).parts
            tokens, bias = model.encode(BATCH, parts.shown, LAYOUT)
            h = tokens[LAYOUT.atom_tokens]
            c, _ = model.heads["atom_codebook"](h, BATCH.atom_features[:, 0].long())
            places, types = bonds_at(BATCH, LAYOUT, torch.ones(len(h), dtype=torch.bool))
            both = c[LAYOUT.pair_row[places]] + c[LAYOUT.pair_column[places]]
            decoders = model.heads["mole_bert_decoders"]
            distances = float((h - c).square().mean(dim=1).sum())
            full = torch.zeros_like(tokens).index_copy(0, LAYOUT.atom_tokens, c)
            if decoder == "neighbours":
                bias = torch.where((BATCH.spd > 1).unsqueeze(1), -1e4, bias)
            graph_bias = torch.full((2,), -1e4, dtype=torch.float64) if decoder == "neighbours" else model.relations.graph_bias
            element = decoders.element(full, None, bias, graph_bias, LAYOUT)
        assert counts.tolist() == [len(h), len(h), len(places), len(h), len(h)]
        assert float(sums[0]) == pytest.approx(float(F.cross_entropy(element, BATCH.atom_features[:, 0].long(), reduction="sum")), rel=1e-9)
        assert float(sums[2]) == pytest.approx(float(F.cross_entropy(decoders.bond(both), types, reduction="sum")), rel=1e-9)
        assert sums[3:].tolist() == pytest.approx([distances] * 2, rel=1e-9)


def test_what_gradients_reach():
    """The codebook learns by its own loss alone; the encoder by all others, through the codes as if they were its vectors."""
    made = objective(tokenizer_codes="9,5,4,3")
    model = model_of(made)
    ready = made.prepare(BATCH, LAYOUT, seed=1, epoch=1)
    codes, first = model.heads["atom_codebook"].codes, model.encoder.embedding_norm.weight
    for place, (reaches_codes, reaches_encoder) in enumerate([(False, True)] * 3 + [(True, False), (False, True)]):
        found = torch.autograd.grad(made.loss_sums(model, ready)[place], [codes, first], allow_unused=True)
        assert [g is not None and bool(g.any()) for g in found] == [reaches_codes, reaches_encoder], place


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"tokenizer_codes": "0"}, "--tokenizer-codes is one number of codes"),
        ({"tokenizer_codes": "3,4"}, "--tokenizer-codes is one number of codes"),
        ({"tokenizer_codes": "3,4,5,x"}, "--tokenizer-codes is one number of codes"),
        ({"tokenizer_codes": "65537"}, "65,536 together at most"),
        ({"tokenizer_commitment": 0.0}, "--tokenizer-commitment must be above 0"),
        ({"tokenizer_code_dropout": 1.0}, r"--tokenizer-code-dropout must lie in \[0, 1\)"),
    ],
)
def test_options_that_cannot_be_are_told(wrong, told):
    with pytest.raises(UserError, match=told):
        TokenizerOptions(**wrong)
