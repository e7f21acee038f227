"""ContextPred: which atoms are neighbourhood, context and anchors; closed values; negatives; molecules without a context."""

import math

import pytest
import torch
import torch.nn.functional as F

from moleblend_fs.data.batch import GROUP
from moleblend_fs.errors import UserError
from moleblend_fs.objectives.context_pred import CONTEXT_LAYERS, ContextPred, ContextPredOptions, context_losses, draw_roots
from moleblend_fs.objectives.objective import Read
from moleblend_fs.ops.layout import Layout
from tests.model.molecules import batch_of, graph
from tests.objectives.suite import Case, mean_losses, model_of, sums_and_counts

CASE = Case(
    variants={
        "skipgram": {"context_pred_mode": "skipgram"},
        "any root": {"context_pred_root": "any", "context_pred_hops": 2},
        "two negatives": {"context_pred_negatives": 2, "context_pred_hops": 3, "context_pred_width": 1},
    },
    reached={"": 0.25},
    updates=100,
    eight=(0, 1, 2, 4, 6, 12, 20, 30),  # of the usual ones a molecule is given its own context as another's
)
CHAIN, RING = "C" * 10, "c1ccccc1"


def prepared(batch, **options):
    return ContextPred(ContextPredOptions(**options)).prepare(batch, Layout(batch.num_atoms, "cpu"), seed=1, epoch=1)


def of_each(batch, ready):
    """(root, neighbourhood, context, anchors) of each molecule, by the atoms' numbers."""
    layout, (near, ring, *_) = Layout(batch.num_atoms, "cpu"), ready.parts

    def numbers(b, atoms):
        return sorted(layout.atom_number[atoms[layout.atom_molecule[atoms] == b]].tolist())

    for b in range(len(batch)):
        read = (near.sub.atoms[near.read], near.sub.atoms, ring.sub.atoms, ring.sub.atoms[ring.read])
        yield tuple(numbers(b, atoms) for atoms in read)


def test_of_a_chain():
    """Of every root that has a context: atoms up to 5 away, those 5 to 7 away, and the anchors, 5 away; an end's only anchor is atom 5."""
    batch, found = batch_of([graph(CHAIN, i) for i in range(60)]), {}
    for (root,), near, ring, anchors in of_each(batch, prepared(batch)):
        found[root] = anchors
        assert near == [i for i in range(10) if abs(i - root) <= 5]
        assert ring == [i for i in range(10) if 5 <= abs(i - root) <= 7]
        assert anchors == [i for i in range(10) if abs(i - root) == 5]
    assert set(found) == set(range(10))
    assert (found[0], found[9]) == ([5], [4])


def test_molecules_without_a_context_count_for_nothing():
    batch = batch_of([graph(RING, 0), graph(CHAIN, 1), graph("C", 2), graph(CHAIN, 3)])
    ready = prepared(batch)
    assert ready.parts.present.tolist() == [False, True, False, True]
    assert ready.counts.tolist() == [2, 2]
    assert next(anchors for *_, anchors in of_each(batch, ready)) == []
    objective = ContextPred(ContextPredOptions())
    read = objective.logged()["with_context"]
    assert read(Read(lambda term: 0.0, lambda name: objective.statistics(ready)[name].numpy())) == 0.5


def test_roots():
    """By default only atoms with a context where a molecule has any; "any": all alike."""
    batch = batch_of([graph("C" * 8, i) for i in range(400)])  # atoms 3 and 4 have none
    layout = Layout(batch.num_atoms, "cpu")
    for roots, allowed in (("with_context", {0, 1, 2, 5, 6, 7}), ("any", set(range(8)))):
        root = draw_roots(batch, layout, 5, roots, seed=1, epoch=1)
        assert (root.view(400, 8).sum(dim=1) == 1).all()
        often = root.view(400, 8).sum(dim=0)
        expected = 400 / len(allowed)
        assert set(often.nonzero().squeeze(1).tolist()) == allowed
        assert all(abs(int(often[i]) - expected) < 5 * expected**0.5 for i in allowed)
    assert not torch.equal(draw_roots(batch, layout, 5, "any", seed=1, epoch=2), root)


def test_closed_values():
    """Vectors of zero: 2 ln 2. Two molecules, h = c = (2, 0) and (0, 2): s(-4) + s(0)."""
    batch = batch_of([graph(CHAIN, 0), graph(CHAIN, 1)])
    for mode in ("cbow", "skipgram"):
        objective = ContextPred(ContextPredOptions(context_pred_mode=mode))
        model = model_of(objective)
        with torch.no_grad():
            for parameter in model.encoder.parameters():  # so that the last norm's vectors are 0
                parameter.zero_()
        assert sum(mean_losses(objective, model, batch).values()) == pytest.approx(1.386294, abs=1e-6)
    vectors = torch.tensor([[2.0, 0], [0, 2]], dtype=torch.float64)
    present, swapped = torch.ones(2, dtype=torch.bool), torch.tensor([1, 0])
    sums = context_losses(vectors, vectors, [(swapped, present)], present)
    assert float(sums.sum() / 2) == pytest.approx(0.711297, abs=1e-6)
    assert sums.tolist() == pytest.approx([2 * math.log1p(math.exp(-4)), 2 * math.log(2)])


@pytest.mark.parametrize("mode", ["cbow", "skipgram"])
def test_against_loops(mode):
    """Groups of three and two, a molecule without a context in each; two negatives, of which a group of two has one."""
    smiles = ("CCCCCCCO", RING, "CCCCCC(N)CC", "C1CC1CCCCCN", "CCCCCCCl", "CO", "CCCCCCC=O")
    batch = batch_of([graph(s, i) for i, s in enumerate(smiles)])
    batch.extra[GROUP] = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    objective = ContextPred(ContextPredOptions(context_pred_mode=mode, context_pred_negatives=2))
    model = model_of(objective)
    ready = objective.prepare(batch, Layout(batch.num_atoms, "cpu"), seed=3, epoch=2)
    near, ring, present, negatives = ready.parts
    with torch.no_grad():
        sums, counts = sums_and_counts(objective, model, batch)
        inner, _ = model.encode(near.sub.batch, near.shown, near.sub.layout)
        outer, _ = model.heads["context_pred_encoder"].model.encode(ring.sub.batch, ring.shown, ring.sub.layout)
    h = inner[near.sub.layout.atom_tokens][near.read]
    around = outer[ring.sub.layout.atom_tokens]
    right, wrong = [], []
    for b in range(7):
        if not present[b]:
            continue
        own = around[ring.read][ring.sub.layout.atom_molecule[ring.read] == b]
        contexts = own.mean(dim=0, keepdim=True) if mode == "cbow" else own
        right += [float(F.softplus(-(h[b] @ c))) for c in contexts]
        for partner, other in negatives:
            p = int(partner[b])
            assert bool(other[b]) == (p != b)
            if p == b:
                continue
            assert present[p]
            assert batch.extra[GROUP][p] == batch.extra[GROUP][b]
            theirs = around[ring.read][ring.sub.layout.atom_molecule[ring.read] == p].mean(dim=0)
            wrong += [float(F.softplus(h[b] @ theirs))] if mode == "cbow" else [float(F.softplus(h[p] @ c)) for c in contexts]
    assert present.tolist() == [True, False, True, True, True, False, True]
    assert counts.tolist() == [len(right), len(wrong)]
    if mode == "cbow":  # three of the first group have two negatives, two of the second have one
        assert counts.tolist() == [5, 8]
    assert sums.tolist() == pytest.approx([sum(right), sum(wrong)], rel=1e-9)


def test_the_encoder_of_contexts_is_one_of_its_own():
    objective = ContextPred(ContextPredOptions())
    model = model_of(objective, layers=5, checkpoint_layers=4)
    small = model.heads["context_pred_encoder"].model
    assert (small.config.layers, small.config.checkpoint_layers) == (CONTEXT_LAYERS, CONTEXT_LAYERS)
    assert small.config.heads == ()
    fresh = model_of(objective)
    fresh.reset_parameters()
    relations = fresh.heads["context_pred_encoder"].model.relations
    assert (relations.distance_mul == 1).all(), "begins as every model does"
    assert float(relations.gaussian_means.detach().max()) > 0.5


def test_options_that_cannot_be_are_told():
    for name in ("context_pred_hops", "context_pred_width", "context_pred_negatives"):
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')} must be at least 1, got 0"):
            ContextPredOptions(**{name: 0})
    with pytest.raises(UserError, match="must be below 200 together"):
        ContextPredOptions(context_pred_hops=199)
    with pytest.raises(UserError, match="--negatives-group"):
        ContextPredOptions(negatives_group=1)
