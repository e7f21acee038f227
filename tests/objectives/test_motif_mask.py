"""Masked motifs: which is drawn, what is hidden, where its class is read."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from moleblend_fs.data.motif_lists import MOTIFS
from moleblend_fs.objectives.motif_mask import HEAD, MotifMask, MotifMaskOptions
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import SHOW_EDGE, SHOW_SPD
from tests.model.molecules import ORDINARY, batch_of, graph
from tests.objectives.motif_trees import SIDECARS, batch_with_trees, made_up, sidecar, tree_of, vocabulary_of, with_trees
from tests.objectives.suite import Case, mean_losses, model_of, sums_and_counts

EVERY = {"motif_min_count": 1, "motif_classes": 0}
CASE = Case(
    variants={
        "own": {"motif_mask_read": "own", **EVERY},
        "paths": {"motif_mask_hide": "paths", **EVERY},
        "few": {"motif_min_count": 30, "motif_mask_hide": "atoms"},
    },
    reached={"own": 0.02, "few": 0.02},
    updates=150,
    rate=1e-2,
    sidecars=SIDECARS,
    extra=made_up,
)
GRAPHS = [graph(smiles, i) for i, smiles in enumerate(ORDINARY)]
TREES = [tree_of(g) for g in GRAPHS]
NAMES = vocabulary_of(GRAPHS)


def objective(names=NAMES, **options):
    made = MotifMask(MotifMaskOptions(**EVERY | options))
    made.take_sidecars({MOTIFS: sidecar(names)})
    return made


def prepared(made, batch, epoch=1):
    return made.prepare(batch, Layout(batch.num_atoms, "cpu"), seed=1, epoch=epoch)


def test_a_model_that_knows_nothing():
    made = objective([str(i) for i in range(999)])
    model = model_of(made)
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.zero_()
    assert mean_losses(made, model, batch_with_trees(GRAPHS)) == pytest.approx({"hidden_motif": math.log(1000)})


@pytest.mark.parametrize("read", ["parent", "own"])
def test_what_is_drawn_hidden_and_read(read):
    """One motif of each molecule that has a second one (or any); its atoms, and its class; atoms of the parent, or its own."""
    made = objective(NAMES[:4], motif_mask_read=read)
    batch = batch_with_trees(GRAPHS)
    layout, met = Layout(batch.num_atoms, "cpu"), [set() for _ in TREES]
    for epoch in range(60):
        ready = prepared(made, batch, epoch)
        parts, question = ready.parts, 0
        for m, tree in enumerate(TREES):
            first, end = int(layout.cu_atoms[m]), int(layout.cu_atoms[m + 1])
            hidden = parts.shown.hidden[first:end].nonzero().squeeze(1).tolist()
            if read == "parent" and len(tree.names) == 1:
                assert hidden == []
                continue
            (motif,) = [i for i, atoms in enumerate(tree.atoms) if atoms == hidden]
            met[m].add(motif)
            reader = tree.parents[motif] if read == "parent" else motif
            assert sorted((parts.atoms[parts.question == question] - first).tolist()) == tree.atoms[reader]
            name = tree.names[motif]
            assert int(parts.classes[question]) == (NAMES[:4].index(name) + 1 if name in NAMES[:4] else 0)
            question += 1
        assert ready.counts.tolist() == [question]
        assert len(parts.classes) == question
    assert met == [set(range(read == "parent", len(tree.names))) for tree in TREES]


@pytest.mark.parametrize(("hide", "bits"), [("atoms", SHOW_SPD | SHOW_EDGE), ("bonds", SHOW_SPD), ("paths", 0)])
def test_paths_over_a_hidden_motif(hide, bits):
    made, batch = objective(motif_mask_hide=hide), batch_with_trees(GRAPHS)
    layout, shown = Layout(batch.num_atoms, "cpu"), prepared(objective(motif_mask_hide=hide), batch).parts.shown
    over = torch.zeros(layout.num_pairs, dtype=torch.bool)
    for pair in range(layout.num_pairs):
        i, j, first = int(layout.pair_row[pair]), int(layout.pair_column[pair]), int(layout.cu_atoms[layout.pair_molecule[pair]])
        n, start = int(layout.sizes[layout.pair_molecule[pair]]), int(layout.cu_pairs[layout.pair_molecule[pair]])
        spd = batch.spd[start : start + n * n].view(n, n).long()
        a, b = i - first, j - first
        over[pair] = a != b and any(shown.hidden[first + k] and spd[a, k] + spd[k, b] == spd[a, b] for k in range(n))
    assert (shown.relations[over] == bits).all()
    assert (shown.relations[~over] == SHOW_SPD | SHOW_EDGE).all()
    assert 0 < int(over.sum()) < layout.num_pairs
    model = model_of(made).eval()
    other = dataclasses.replace(batch, path_bonds=torch.where(over.unsqueeze(1), (batch.path_bonds + 12) % 61, batch.path_bonds))
    with torch.no_grad():
        ours, theirs = (model.encode(seen, shown, layout)[0] for seen in (batch, other))
    assert torch.equal(ours, theirs) == (hide != "atoms")


def test_against_loops():
    made = objective()
    model, batch = model_of(made), batch_with_trees(GRAPHS)
    layout = Layout(batch.num_atoms, "cpu")
    with torch.no_grad():
        sums, counts = sums_and_counts(made, model, batch)
        parts = made.prepare(batch, layout, seed=3, epoch=2).parts
        h, total = model.encode(batch, parts.shown, layout)[0][layout.atom_tokens], 0.0
        for question, number in enumerate(parts.classes):
            total += float(F.cross_entropy(model.heads[HEAD](h[parts.atoms[parts.question == question]].sum(dim=0)), number))
    assert int(counts) == sum(len(tree.names) > 1 for tree in TREES) == 6
    assert float(sums) == pytest.approx(total, rel=1e-9)


def test_molecules_without_motifs_count_for_nothing():
    batch = with_trees(batch_of(GRAPHS[:2]), [None, TREES[1]])
    ready = prepared(objective(), batch)
    assert ready.counts.tolist() == [1]
    assert not ready.parts.shown.hidden[: int(batch.num_atoms[0])].any()
