"""InfoGraph in both forms: closed values, counts, and molecules without anything to compare with."""

import math

import pytest
import torch

from moleblend_fs.data.batch import GROUP
from moleblend_fs.objectives.infograph import InfoGraph, InfoGraphOptions, jsd_right, jsd_wrong
from moleblend_fs.ops.layout import Layout
from tests.model.molecules import ORDINARY, batch_of, graph, mixed_batch
from tests.objectives.suite import Case, mean_losses, model_of, sums_and_counts

CASE = Case(
    variants={
        "jsd": {"infograph": "jsd"},
        "3d": {"infograph_view": "3d"},
        "jsd 3d": {"infograph": "jsd", "infograph_view": "3d"},
        "mean": {"pooling": "mean"},
    },
    reached={"": 0.2, "jsd": -1.2},
    updates=150,
    rate=6e-3,
)
BATCH = batch_of([graph(smiles, i) for i, smiles in enumerate(ORDINARY)])


def total(objective, model, batch=BATCH):
    return sum(mean_losses(objective, model, batch).values())


@pytest.mark.parametrize("view", ["2d", "3d"])
def test_a_bilinear_form_of_zero(view):
    objective = InfoGraph(InfoGraphOptions(infograph_view=view))
    model = model_of(objective)
    with torch.no_grad():
        model.heads["infograph_bilinear"].weight.zero_()
    assert total(objective, model) == pytest.approx(2 * math.log(2), abs=1e-12)


def test_jsd_of_zero_scores_is_zero():
    objective = InfoGraph(InfoGraphOptions(infograph="jsd"))
    model = model_of(objective)
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.zero_()
    assert total(objective, model) == pytest.approx(0, abs=1e-12)


def test_jsd_by_hand():
    """Right +2, wrong -2; and its infimum."""
    two, far = torch.tensor(2.0, dtype=torch.float64), torch.tensor(60.0, dtype=torch.float64)
    assert float(jsd_right(two) + jsd_wrong(-two)) == pytest.approx(-1.132438, abs=1e-6)
    assert float(jsd_right(far) + jsd_wrong(-far)) == pytest.approx(-2 * math.log(2), abs=1e-12)


@pytest.mark.parametrize("form", ["dgi", "jsd"])
def test_against_loops(form):
    """Groups of 3 and 4, one molecule without coordinates in the 3D view: atom by atom, molecule by molecule."""
    batch = mixed_batch(ORDINARY, without_3d=(2,))
    batch.extra[GROUP] = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    objective = InfoGraph(InfoGraphOptions(infograph=form, infograph_view="3d"))
    model = model_of(objective)
    layout = Layout(batch.num_atoms, "cpu")
    with torch.no_grad():
        sums, counts = sums_and_counts(objective, model, batch)
        ready = objective.prepare(batch, layout, seed=3, epoch=2)
        from moleblend_fs.model.shown import show_all

        tokens, _ = model.encode(batch, show_all(batch, layout, "3d"), layout)
        atoms, graphs = tokens[layout.atom_tokens], tokens[layout.graph_tokens]
        head = model.heads[objective.heads()[0]]
        right = wrong = 0.0
        n_right = n_wrong = 0
        for i, own in enumerate(layout.atom_molecule.tolist()):
            for b in range(7):
                if own == 2 or b == 2 or batch.extra[GROUP][own] != batch.extra[GROUP][b]:
                    continue
                if form == "dgi":
                    t = float(atoms[i] @ (head.weight @ torch.sigmoid(graphs[b])))
                    if b != own and b != int(ready.parts.partner[own]):
                        continue
                    cost = math.log1p(math.exp(-t)) if b == own else math.log1p(math.exp(t))
                else:
                    t = float(head.local(atoms[i : i + 1]) @ head.whole(graphs[b : b + 1]).T)
                    s = math.log1p(math.exp(-t))
                    cost = s - math.log(2) if b == own else s + t - math.log(2)
                if b == own:
                    right, n_right = right + cost, n_right + 1
                else:
                    wrong, n_wrong = wrong + cost, n_wrong + 1
    assert counts.tolist() == [n_right, n_wrong]
    assert sums.tolist() == pytest.approx([right, wrong], rel=1e-9)


@pytest.mark.parametrize("form", ["dgi", "jsd"])
def test_a_molecule_alone_has_no_negatives(form):
    objective = InfoGraph(InfoGraphOptions(infograph=form))
    sums, counts = sums_and_counts(objective, model_of(objective), batch_of([graph("CCO", 0)]))
    assert counts.tolist() == [3, 0]
    assert float(sums[1]) == 0
