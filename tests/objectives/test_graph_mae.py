"""GraphMAE: the scaled cosine error, and what the decoder sees."""

import dataclasses

import pytest
import torch

from moleblend_fs.errors import UserError
from moleblend_fs.objectives.graph_mae import GraphMAE, GraphMAEOptions, scaled_cosine_error
from moleblend_fs.ops.layout import Layout
from tests.model.molecules import ORDINARY, batch_of, graph
from tests.objectives.suite import Case, model_of

CASE = Case(
    variants={"squared": {"graph_mae_alpha": 2.0}, "neighbours": {"graph_mae_decoder": "neighbours"}},
    reached={"": 0.05},
    updates=200,
)


@pytest.mark.parametrize(
    ("output", "alpha", "expected"),
    [((2, 0), 1, 0), ((2, 0), 2, 0), ((1, 3**0.5), 1, 0.5), ((1, 3**0.5), 2, 0.25), ((0, 5), 1, 1), ((0, -5), 2, 1), ((0, 0), 1, 1)],
)
def test_values(output, alpha, expected):
    """Along the one-hot target, 60 degrees from it, orthogonal, and no output at all."""
    loss = scaled_cosine_error(torch.tensor([output], dtype=torch.float64), torch.tensor([0]), alpha)
    assert float(loss) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("atoms", "hidden"), [(3, 1), (4, 2), (14, 4)])
def test_count_of_hidden_atoms(atoms, hidden):
    batch = batch_of([graph("C" * atoms, 0)])
    assert float(GraphMAE(GraphMAEOptions()).prepare(batch, Layout(batch.num_atoms, "cpu"), seed=1, epoch=1).counts) == hidden


@pytest.mark.parametrize("seen", ["all", "neighbours"])
def test_what_the_decoder_sees(seen):
    """Hidden atoms' own codes never; other atoms' codes from everywhere, or of bonded neighbours alone."""
    batch = batch_of([graph(ORDINARY[0], 0)])
    layout = Layout(batch.num_atoms, "cpu")
    objective = GraphMAE(GraphMAEOptions(graph_mae_decoder=seen))
    model = model_of(objective)
    ready = objective.prepare(batch, layout, seed=1, epoch=1)
    given = {}
    head = model.heads["graph_mae_decoder"]
    forward = head.forward
    head.forward = lambda *inputs: given.update(inputs=inputs) or forward(*inputs)
    with torch.no_grad():
        objective.loss_sums(model, ready)
        tokens, hidden, *rest = given["inputs"]
        plain = forward(tokens, hidden, *rest)
        atom = int(torch.nonzero(~hidden)[0])
        for changed in (atom, int(torch.nonzero(hidden)[0])):
            other = tokens.clone()
            other[layout.atom_tokens[changed]] += 1
            reached = (forward(other, hidden, *rest) != plain).any(dim=1)
            if hidden[changed]:
                assert not reached.any()
            else:
                spd = batch.spd.view(layout.num_total_atoms, -1)[changed]
                assert torch.equal(reached, torch.ones_like(hidden) if seen == "all" else spd <= 1)


def test_atoms_among_hidden_ones_are_not_asked_of_their_neighbours():
    """They would be decoded from zeros, where a cosine has no gradient."""
    batch = batch_of([graph(s, i) for i, s in enumerate(("C", "CO", "C.C", "CCCCCCCC"))])
    layout = Layout(batch.num_atoms, "cpu")
    options = {"graph_mae_rate": 0.6}
    everywhere, near = (
        GraphMAE(GraphMAEOptions(**options, graph_mae_decoder=seen)).prepare(batch, layout, seed=1, epoch=1)
        for seen in ("all", "neighbours")
    )
    hidden = near.parts.shown.hidden
    assert torch.equal(everywhere.parts.atoms, hidden.nonzero().squeeze(1))
    expected = []
    for atom in range(layout.num_total_atoms):
        bonded = [int(layout.pair_column[p]) for p in range(layout.num_pairs) if int(layout.pair_row[p]) == atom and int(batch.spd[p]) == 1]
        expected.append(bool(hidden[atom]) and any(not hidden[other] for other in bonded))
    assert near.parts.atoms.tolist() == [atom for atom, counts in enumerate(expected) if counts]
    assert 0 < sum(expected) == int(near.counts) < int(hidden.sum())


def test_options_that_cannot_be_are_told():
    with pytest.raises(UserError, match="--graph-mae-alpha must be at least 1"):
        GraphMAEOptions(graph_mae_alpha=0.5)
    with pytest.raises(UserError, match="--graph-mae-rate"):
        GraphMAEOptions(graph_mae_rate=0.0)
    assert dataclasses.asdict(GraphMAEOptions())["graph_mae_alpha"] == 1.0
