"""Hidden atoms: nothing of what is hidden reaches the model, by plain torch and by the kernels."""

import dataclasses

import pytest
import torch

from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.model.shown import show_all
from moleblend_fs.ops import dispatch
from moleblend_fs.ops.embedding_rows import ATOM_FIRST_ROW, HIDDEN
from moleblend_fs.ops.layout import Layout
from tests.model.molecules import ORDINARY, SINGLE_ATOM, batch_of, graph

BATCH = batch_of([graph(smiles, i) for i, smiles in enumerate((*ORDINARY[:3], SINGLE_ATOM))])
LAYOUT = Layout(BATCH.num_atoms, "cpu")
HIDDEN_ATOMS = torch.arange(LAYOUT.num_total_atoms) % 3 == 1
HIDDEN_ATOMS[-1] = True


@pytest.fixture(scope="module")
def model() -> MoleBlend:
    torch.manual_seed(0)
    model = MoleBlend(ModelConfig(layers=2, embed_dim=32, ffn_dim=32, attention_heads=4, gaussians=16)).eval()
    with torch.no_grad():
        model.relations.distance_mul.normal_(1, 0.3)
        model.relations.distance_shift.normal_(0, 0.3)
        model.atoms.from_gaussians.weight.normal_(0, 2)  # the 3D feature weighs something
    return model


def other_atoms(which: torch.Tensor):
    """The batch with all nine features and the degree of some atoms changed."""
    features, degree = BATCH.atom_features.clone(), BATCH.degree.clone()
    features[which] = (features[which] + torch.tensor([7, 1, 2, 1, 3, 1, 2, 1, 1], dtype=torch.uint8)) % 9
    degree[which] = (degree[which] + 1) % 5
    return dataclasses.replace(BATCH, atom_features=features, degree=degree)


@pytest.mark.parametrize("ops", ["reference", "relation_bias=triton"])
@pytest.mark.parametrize("modality", ["2d", "3d", "2d+3d"])
def test_molecules_that_differ_in_hidden_atoms_alone_are_the_same(model, ops, modality, monkeypatch):
    if "triton" in ops:
        pytest.importorskip("triton", reason="the kernels need triton (pip install triton)")
    monkeypatch.setenv(dispatch.VARIABLE, ops)
    shown = show_all(BATCH, LAYOUT, modality)
    masked = dataclasses.replace(shown, hidden=HIDDEN_ATOMS)
    changed = other_atoms(HIDDEN_ATOMS)
    with torch.no_grad():
        (tokens, bias), (same, same_bias) = model.encode(BATCH, masked, LAYOUT), model.encode(changed, masked, LAYOUT)
        assert torch.equal(tokens, same)
        assert torch.equal(bias, same_bias)
        for other in (model.encode(changed, shown, LAYOUT)[0], model.encode(other_atoms(~HIDDEN_ATOMS), masked, LAYOUT)[0]):
            assert not torch.equal(tokens, other)  # what is not hidden is seen


def test_a_hidden_atom_has_one_row_and_no_own_3d_feature(model):
    """What its embedding is, by hand."""
    shown = dataclasses.replace(show_all(BATCH, LAYOUT, "2d+3d"), hidden=HIDDEN_ATOMS)
    with torch.no_grad():
        _, sums = model.relations(BATCH, shown, LAYOUT)
        embedded = model.atoms(BATCH, shown, sums, LAYOUT)[LAYOUT.atom_tokens]
    assert not sums[HIDDEN_ATOMS].any()
    row = model.atoms.atom_table.weight[ATOM_FIRST_ROW + HIDDEN]
    torch.testing.assert_close(embedded[HIDDEN_ATOMS], row.expand(int(HIDDEN_ATOMS.sum()), -1), rtol=0, atol=0)


def test_where_none_is_hidden_nothing_changes(model):
    shown = show_all(BATCH, LAYOUT, "2d+3d")
    nobody = dataclasses.replace(shown, hidden=torch.zeros_like(HIDDEN_ATOMS))
    with torch.no_grad():
        assert torch.equal(model.encode(BATCH, shown, LAYOUT)[0], model.encode(BATCH, nobody, LAYOUT)[0])


def test_the_row_of_hidden_atoms_learns_and_padding_does_not(model):
    shown = dataclasses.replace(show_all(BATCH, LAYOUT, "2d+3d"), hidden=HIDDEN_ATOMS)
    tokens, _ = model.encode(BATCH, shown, LAYOUT)
    (gradient,) = torch.autograd.grad((tokens * torch.linspace(-1, 1, tokens.shape[1])).sum(), [model.atoms.atom_table.weight])
    assert gradient[ATOM_FIRST_ROW + HIDDEN].abs().max() > 0
    assert not gradient[0].any()
