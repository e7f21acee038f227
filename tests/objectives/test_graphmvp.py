"""GraphMVP: closed values of either loss, loops over groups and conformers, what both views leave out, and what is learned beside."""

import math

import pytest
import torch

from moleblend_fs.data.batch import GROUP
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.objectives.attr_mask import AttrMask, AttrMaskOptions
from moleblend_fs.objectives.common.dual_views import TOWER
from moleblend_fs.objectives.common.reconstruction import Reconstruction, divergence, error_of, latent_noise
from moleblend_fs.objectives.context_pred import ContextPred, ContextPredOptions
from moleblend_fs.objectives.graphmvp import LATENT, GraphMVP, GraphMVPOptions
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import SHOW_DISTANCE, SHOW_EDGE, SHOW_SPD
from tests.model.molecules import ORDINARY, batch_of, graph, mixed_batch
from tests.objectives.suite import Case, mean_losses, model_of, sums_and_counts, with_structures

CASE = Case(
    variants={
        "whole": {"graphmvp_drop": 0.0, "graphmvp_projection": "mlp", "graphmvp_negatives": 2, "view_3d_features": "none"},
        "info_nce": {"graphmvp_contrast": "info_nce", "graphmvp_error": "cosine", "graphmvp_target": "attached", "towers": 2},
        "conformers": {"conformers_per_step": 2, "graphmvp_error": "l1", "view_3d_features": "number"},
        "contrast": {"graphmvp_generative_weight": 0.0, "pooling": "mean"},
        "generative": {"graphmvp_contrast_weight": 0.0},
        "G": {"graphmvp_variant": "G", "attr_mask_bonds": True},
        "C": {"graphmvp_variant": "C", "towers": 2, "context_pred_mode": "skipgram", "context_pred_root": "any"},
    },
    reached={"contrast": 0.06, "generative": 0.6},
    extra=with_structures,
)


def options(**changed):
    return GraphMVPOptions(**{"graphmvp_drop": 0.0, **changed})


def of_vectors(objective, flat, structure):
    """The losses where either view of each molecule has these vectors (B, d)."""
    model = model_of(objective)
    batch = batch_of([graph(smiles, i) for i, smiles in enumerate(ORDINARY[: len(flat)])])
    layout = Layout(batch.num_atoms, "cpu")
    given = iter((flat, structure))
    plain = model.encode

    def encode(*inputs):
        tokens, bias = plain(*inputs)
        return tokens.index_copy(0, layout.graph_tokens, next(given).double()), bias

    model.encode = encode
    return mean_losses(objective, model, batch, layout)


@pytest.mark.parametrize(("temperature", "value"), [(0.2, 5.013431), (0.1, 10.000091)])
def test_ebm_nce_of_equal_vectors(temperature, value):
    objective = GraphMVP(options(graphmvp_generative_weight=0.0, graphmvp_temperature=temperature))
    losses = of_vectors(objective, torch.ones(4, 16), 3 * torch.ones(4, 16))
    assert sum(losses.values()) == pytest.approx(value, abs=1e-6)


def test_ebm_nce_of_orthogonal_vectors():
    losses = of_vectors(GraphMVP(options(graphmvp_generative_weight=0.0)), torch.eye(4, 16), 3 * torch.eye(4, 16))
    assert sum(losses.values()) == pytest.approx(0.699863, abs=1e-6)
    two = GraphMVP(options(graphmvp_generative_weight=0.0, graphmvp_negatives=2, graphmvp_contrast_weight=0.5))
    assert [term.weight for term in two.terms()] == [0.5, 1.0]
    assert of_vectors(two, torch.eye(4, 16), torch.eye(4, 16)) == losses


@pytest.mark.parametrize(("vectors", "value"), [(torch.ones(4, 16), math.log(4)), (torch.eye(4, 16), 1.361905e-4)])
def test_info_nce(vectors, value):
    objective = GraphMVP(options(graphmvp_generative_weight=0.0, graphmvp_contrast="info_nce", graphmvp_temperature=0.1))
    assert list(of_vectors(objective, vectors, 3 * vectors).values()) == pytest.approx([value], abs=1e-7)


@pytest.mark.parametrize(("mu", "logvar", "width", "value"), [(0.0, 0.0, 7, 0.0), (1.0, 0.0, 7, 3.5), (0.0, math.log(4), 1, 0.806853)])
def test_divergence(mu, logvar, width, value):
    found = divergence(torch.full((2, width), mu, dtype=torch.float64), torch.full((2, width), logvar, dtype=torch.float64))
    assert found.tolist() == pytest.approx([value] * 2, abs=1e-6)


def test_errors():
    x, y = torch.tensor([[1.0, 0, 0]]), torch.tensor([[0.0, 2, 0]])
    assert [float(error_of(x, y, error)) for error in ("l2", "l1", "cosine")] == pytest.approx([5 / 3, 1, 1])
    assert float(error_of(x, 4 * x, "cosine")) == pytest.approx(0, abs=1e-7)


def test_reconstruction_by_hand():
    torch.manual_seed(0)
    module = Reconstruction(ModelConfig(embed_dim=4, attention_heads=2)).double()
    x, noise = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    made, mu, logvar = module(x, noise)
    latent = mu + logvar.exp().sqrt() * noise
    torch.testing.assert_close(made, module.out(torch.relu(module.decoder_norm(module.hidden(latent)))))
    torch.testing.assert_close(mu, module.mu(x))
    torch.testing.assert_close(logvar, module.logvar(x))


def test_noise_of_the_latent_variable_is_the_molecules_own():
    """Standard normal: its moments within five standard errors; other streams, epochs and molecules have other numbers."""
    batch = batch_of([graph("CC", i, coordinates=False) for i in range(300)], list(range(300)))
    noise = latent_noise(batch, 16, 0, (1, 1))
    assert abs(float(noise.mean())) < 5 / 4800**0.5
    assert abs(float(noise.var()) - 1) < 5 * (2 / 4800) ** 0.5
    some = batch_of([graph("CC", i, coordinates=False) for i in range(2)], [7, 200])
    assert torch.equal(latent_noise(some, 16, 0, (1, 1)), noise[[7, 200]])
    others = [latent_noise(batch, 16, 1, (1, 1)), latent_noise(batch, 16, 0, (2, 1)), latent_noise(batch, 16, 0, (1, 2)), noise.roll(1, 0)]
    for other in others:
        assert abs(float((noise * other).mean())) < 5 / 4800**0.5


@pytest.mark.parametrize("target", ["detached", "attached"])
def test_where_the_gradient_goes(target):
    """A second encoder learns from what is made of its vectors; from being a target only if that is asked for."""
    objective = GraphMVP(options(graphmvp_contrast_weight=0.0, graphmvp_target=target, towers=2))
    model = model_of(objective)
    for parameter in model.heads[LATENT].structure.parameters():  # nothing is made of structures
        torch.nn.init.zeros_(parameter)
    sums, _ = sums_and_counts(objective, model, batch_of([graph(smiles, i) for i, smiles in enumerate(ORDINARY[:3])]))
    gradient = torch.autograd.grad(sums.sum(), model.heads[TOWER].encoder.blocks[0].qkv.weight)[0]
    assert bool(gradient.any()) == (target == "attached")


@pytest.mark.parametrize("contrast", ["ebm_nce", "info_nce"])
def test_against_loops(contrast):
    """Groups of 3 and 4, two molecules without coordinates, some with two conformers: each is compared with those of its own number."""
    batch = with_structures(mixed_batch(ORDINARY, without_3d=(2, 5)))
    group = [0, 0, 0, 1, 1, 1, 1]
    batch.extra[GROUP] = torch.tensor(group)
    number = batch.extra["num_structures"].tolist()
    objective = GraphMVP(GraphMVPOptions(conformers_per_step=2, graphmvp_contrast=contrast))
    model, layout = model_of(objective), Layout(batch.num_atoms, "cpu")
    with torch.no_grad():
        sums, counts = sums_and_counts(objective, model, batch)
        views = objective.prepare(batch, layout, seed=3, epoch=2).parts
        tokens = views.layout.graph_tokens
        flat = model.encode(views.batch, views.flat, views.layout)[0][tokens]
        solid = [model.encode(views.batch, one.view.shown, views.layout)[0][tokens] for one in views.structures]
        latent = model.heads[LATENT]
        right = wrong = nce = error = prior = 0.0
        n_right = n_wrong = n_nce = 0
        for c in range(2):
            score = torch.cosine_similarity(flat.unsqueeze(1), solid[c].unsqueeze(0), dim=2) / 0.2
            for i in range(7):
                if number[i] <= c:
                    continue
                right, n_right = right + math.log1p(math.exp(-score[i, i])), n_right + 1
                partner = int(views.structures[c].negatives[0][0][i])
                others = [j for j in range(7) if j != i and group[j] == group[i] and number[j] > c]
                assert partner in (others or [i])
                if others:
                    wrong += math.log1p(math.exp(score[i, partner])) + math.log1p(math.exp(score[partner, i]))
                    n_wrong += 2
                    nce += float(torch.logsumexp(score[i, [i, *others]], 0) + torch.logsumexp(score[[i, *others], i], 0) - 2 * score[i, i])
                    n_nce += 2
                for way, (module, x, y) in enumerate(((latent.flat, flat, solid[c]), (latent.structure, solid[c], flat))):
                    made, mu, logvar = module(x[i : i + 1], latent_noise(views.batch, 16, 2 * c + way, (3, 2))[i : i + 1])
                    error += float((made[0] - y[i]).square().mean())
                    prior += float((mu.square() + logvar.exp() - logvar - 1).sum() / 2)
    if contrast == "ebm_nce":
        assert counts.tolist() == [n_right, n_wrong, 2 * n_right, 2 * n_right]
        assert sums.tolist() == pytest.approx([right, wrong, error, prior], rel=1e-6)
    else:
        assert counts.tolist() == [n_nce, 2 * n_right, 2 * n_right]
        assert sums.tolist() == pytest.approx([nce, error, prior], rel=1e-6)


def test_both_views_leave_out_the_same_atoms():
    """floor(0.85 n) + 1 connected ones stay; 2D and 3D views are of one part of the molecule."""
    batch = mixed_batch(ORDINARY, without_3d=(2,))
    objective = GraphMVP(GraphMVPOptions())
    views = objective.prepare(batch, Layout(batch.num_atoms, "cpu"), seed=1, epoch=1).parts
    assert views.batch.num_atoms.tolist() == [math.floor(0.85 * n) + 1 for n in batch.num_atoms.tolist()]
    structure = views.structures[0].view.shown
    assert len(views.flat.degree) == len(structure.degree) == len(views.batch.degree)
    has_3d = views.batch.has_coordinates[views.layout.pair_molecule]
    assert ((views.flat.relations & SHOW_DISTANCE) == 0).all()
    assert ((structure.relations & (SHOW_SPD | SHOW_EDGE)) == 0).all()
    assert (structure.relations[has_3d] == SHOW_DISTANCE).all()
    assert objective.passes == pytest.approx(1.7)


@pytest.mark.parametrize(
    ("variant", "beside", "weight"),
    [("G", AttrMask(AttrMaskOptions(attr_mask_rate=0.3)), 1.0), ("C", ContextPred(ContextPredOptions(context_pred_hops=2)), 0.1)],
)
def test_what_is_learned_beside(variant, beside, weight):
    """The other objective with its own options, on whole molecules, at its published weight; all else as without it."""
    batch = mixed_batch(ORDINARY, without_3d=(2,))
    plain = GraphMVP(GraphMVPOptions())
    both = GraphMVP(GraphMVPOptions(graphmvp_variant=variant, attr_mask_rate=0.3, context_pred_hops=2))
    model = model_of(both)
    sums, counts = sums_and_counts(both, model, batch)
    first, first_counts = sums_and_counts(plain, model, batch)
    second, second_counts = sums_and_counts(beside, model, batch)
    assert torch.equal(sums, torch.cat([first, second]))
    assert torch.equal(counts, torch.cat([first_counts, second_counts]))
    assert both.heads() == (*plain.heads(), *beside.heads())
    assert both.passes == plain.passes + beside.passes
    expected = [*plain.terms(), *(term._replace(weight=weight * term.weight) for term in beside.terms())]
    assert list(both.terms()) == expected
    assert {term.name for term in both.terms()} <= set(GraphMVP.curves)
    ready = both.prepare(batch, Layout(batch.num_atoms, "cpu"), seed=1, epoch=1)
    assert set(both.statistics(ready)) == {"formula", *beside.statistics(ready.parts.beside)}
    assert set(both.logged()) == {"told_by_formula", *beside.logged()}


def test_what_cannot_be_is_told():
    for wrong, message in (
        ({"graphmvp_drop": 1.0}, r"--graphmvp-drop must lie in \[0, 1\), got 1.0"),
        ({"graphmvp_negatives": 0}, "--graphmvp-negatives must be at least 1, got 0"),
        ({"graphmvp_temperature": 0.0}, "--graphmvp-temperature must be above 0"),
        ({"graphmvp_prior_weight": -1.0}, "--graphmvp-prior-weight must not be negative, got -1.0"),
        ({"graphmvp_contrast_weight": 0.0, "graphmvp_generative_weight": 0.0}, "nothing is left to learn"),
        ({"attr_mask_rate": 2.0}, "--attr-mask-rate"),
        ({"context_pred_hops": 0}, "--context-pred-hops"),
        ({"towers": 0}, "--towers must be 1 or 2"),
        ({"negatives_group": 1}, "--negatives-group must be at least 2"),
    ):
        with pytest.raises(UserError, match=message):
            GraphMVPOptions(**wrong)
