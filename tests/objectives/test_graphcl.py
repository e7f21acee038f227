"""GraphCL: what each augmentation leaves of a molecule, closed values of each form of the loss, and the loss by loops."""

import math

import pytest
import torch

from moleblend_fs.data.batch import GROUP
from moleblend_fs.errors import UserError
from moleblend_fs.objectives.common.subgraphs import bonds_in, bonds_of, paths_over, paths_through
from moleblend_fs.objectives.graphcl import GraphCL, GraphCLOptions, graphcl_view
from moleblend_fs.ops.layout import Layout
from moleblend_fs.ops.relation_bias import SHOW_EDGE, SHOW_SPD
from tests.model.molecules import AWKWARD, ORDINARY, batch_of, graph
from tests.objectives.suite import Case, mean_losses, model_of, sums_and_counts

RELEASED = {
    "graphcl_denominator": "negatives",
    "graphcl_sides": "one",
    "graphcl_subgraph_kept": 0.2,
    "graphcl_subgraph": "star",
    "pooling": "mean",
}
CASE = Case(
    variants={"released": RELEASED, "all five": {"graphcl_augmentations": "drop,subgraph,edge,mask,identity"}},
    reached={"": 0.2},
    updates=60,
    rate=1e-2,
)
SMILES = (*ORDINARY, *AWKWARD)
BATCH = batch_of([graph(smiles, i) for i, smiles in enumerate(SMILES)])
LAYOUT = Layout(BATCH.num_atoms, "cpu")
PATHS = SHOW_SPD | SHOW_EDGE


def view_of(batch=BATCH, which=0, epoch=1, **options):
    return graphcl_view(batch, Layout(batch.num_atoms, "cpu"), GraphCLOptions(**options), which, seed=1, epoch=epoch)


def kept(view, batch=BATCH, layout=LAYOUT):
    """(A,) bool, atoms of the batch that a view has."""
    return torch.zeros(layout.num_total_atoms, dtype=torch.bool).index_fill(0, view.sub.atoms, True)


def bonds_between(atoms, batch, layout):
    """Pairs of chosen atoms that are bonded."""
    bonds = bonds_of(batch, layout)
    ends = zip(layout.pair_row[bonds].tolist(), layout.pair_column[bonds].tolist(), strict=True)
    return [(u, v) for u, v in ends if atoms[u] and atoms[v]]


def test_dropped_atoms():
    """floor(n / 5) are gone, and so is every path through them."""
    view = view_of(graphcl_augmentations="drop")
    assert view.sub.batch.num_atoms.tolist() == [n - n // 5 for n in BATCH.num_atoms.tolist()]
    through = paths_through(BATCH, LAYOUT, ~kept(view))[view.sub.pairs]
    assert torch.equal((view.shown.relations & PATHS) == 0, through)
    assert through.any()
    assert view.shown.hidden is None


@pytest.mark.parametrize(("share", "form"), [(0.8, "connected"), (0.2, "connected"), (0.2, "star")])
def test_subgraphs(share, form):
    """min(n, floor(share n) + 1) atoms that hang together; those of a star are bonded to one of them, and may be fewer."""
    batch = batch_of([graph("CC(C)CC1=CC=C(C=C1)[C@@H](C)C(=O)O", i) for i in range(40)])
    layout = Layout(batch.num_atoms, "cpu")
    view = view_of(batch, graphcl_augmentations="subgraph", graphcl_subgraph_kept=share, graphcl_subgraph=form)
    atoms, wanted = kept(view, batch, layout), min(15, math.floor(share * 15) + 1)
    assert wanted == {0.8: 13, 0.2: 4}[share]
    sizes = view.sub.batch.num_atoms.tolist()
    assert set(sizes) == {wanted} if form == "connected" else max(sizes) == wanted and min(sizes) >= 2
    bonds, seen = bonds_between(atoms, batch, layout), set()
    for m in range(40):
        own = [a for a in range(15 * m, 15 * m + 15) if atoms[a]]
        degree = {a: sum(a in pair for pair in bonds) for a in own}
        seen.add(tuple(a - 15 * m for a in own))
        if form == "star":
            assert max(degree.values()) == len(own) - 1
        reached = {own[0]}
        while near := {b for pair in bonds for b in pair if set(pair) & reached} - reached:
            reached |= near
        assert reached == set(own)
    assert len(seen) > 8
    small = view_of(graphcl_augmentations="subgraph", graphcl_subgraph_kept=0.8)
    assert small.sub.batch.num_atoms[SMILES.index("C")] == 1


def test_removed_bonds():
    """floor(m / 5), and all paths over them; no atom is gone."""
    view = view_of(graphcl_augmentations="edge")
    assert len(view.sub.atoms) == LAYOUT.num_total_atoms
    bonds = bonds_of(BATCH, LAYOUT)
    gone = (view.shown.relations & PATHS) == 0
    removed = bonds[gone[bonds]]
    assert bonds_in(removed, LAYOUT).tolist() == [m // 5 for m in bonds_in(bonds, LAYOUT).tolist()]
    assert torch.equal(gone, paths_over(BATCH, LAYOUT, removed))


def test_masked_atoms_and_identity():
    view = view_of(graphcl_augmentations="mask")
    hidden = torch.zeros(len(BATCH), dtype=torch.long).index_add(0, LAYOUT.atom_molecule, view.shown.hidden.long())
    assert hidden.tolist() == [n // 5 for n in BATCH.num_atoms.tolist()]
    assert ((view.shown.relations & PATHS) == PATHS).all()
    whole = view_of(graphcl_augmentations="identity")
    assert whole.shown.hidden is None
    assert ((whole.shown.relations & PATHS) == PATHS).all()
    assert len(whole.sub.atoms) == LAYOUT.num_total_atoms


def test_each_molecule_and_view_draws_an_augmentation_of_its_own():
    """Of five, each for a fifth of 500 molecules, told by what they leave of ten atoms in a row."""
    batch = batch_of([graph("C" * 10, i) for i in range(500)])
    layout = Layout(batch.num_atoms, "cpu")
    names = "drop,subgraph,edge,mask,identity"
    found = []
    for which in (0, 1):
        view = view_of(batch, which, graphcl_augmentations=names)
        sizes = view.sub.batch.num_atoms
        hidden = torch.zeros(500, dtype=torch.long).index_add(0, view.sub.layout.atom_molecule, view.shown.hidden.long())
        cut = torch.zeros(500, dtype=torch.long).index_add(0, view.sub.layout.pair_molecule, ((view.shown.relations & PATHS) == 0).long())
        found.append([(int(n), int(h), bool(c)) for n, h, c in zip(sizes, hidden, cut, strict=True)])
        often = {
            "drop": sum(n == 8 for n, _, _ in found[-1]),
            "subgraph": sum(n == 9 for n, _, _ in found[-1]),
            "mask": sum(h == 2 for _, h, _ in found[-1]),
            "edge": sum(n == 10 and c for n, _, c in found[-1]),
            "identity": found[-1].count((10, 0, False)),
        }
        assert sum(often.values()) == 500
        assert all(abs(n - 100) < 5 * (100 * 0.8) ** 0.5 for n in often.values()), often
    same = sum(a == b for a, b in zip(*found, strict=True))
    assert abs(same - 100) < 45, "independently"
    assert layout.num_total_atoms == 5000


@pytest.mark.parametrize(
    ("denominator", "sides", "molecules", "value"),
    [("negatives", "one", 4, 1.098612), ("negatives", "two", 4, 1.098612), ("negatives", "one", 2, 0.0), ("all", "two", 4, 1.386294)],
)
def test_equal_vectors(denominator, sides, molecules, value):
    """ln 3 and ln 1 without the partner under the fraction, ln 4 with it."""
    batch = batch_of([graph(smiles, i) for i, smiles in enumerate(ORDINARY[:molecules])])
    objective = GraphCL(GraphCLOptions(graphcl_denominator=denominator, graphcl_sides=sides))
    model = model_of(objective)
    with torch.no_grad():
        model.heads["graphcl"].out.weight.zero_()
        model.heads["graphcl"].out.bias.fill_(1.0)
    assert mean_losses(objective, model, batch) == {"two_views": pytest.approx(value, abs=1e-6)}
    _, counts = sums_and_counts(objective, model, batch)
    assert counts.tolist() == [molecules * (2 if sides == "two" else 1)]


@pytest.mark.parametrize(("denominator", "value"), [("negatives", -8.901388), ("all", 1.361905e-4)])
def test_orthonormal_pairs(denominator, value):
    """Views alike (identity) and of each molecule another unit vector, T = 0.1: ln 3 - 10, and ln(1 + 3 e^-10)."""
    batch = batch_of([graph(smiles, i) for i, smiles in enumerate(ORDINARY[:4])])
    options = GraphCLOptions(graphcl_denominator=denominator, graphcl_augmentations="identity", pooling="mean")
    objective = GraphCL(options)
    model, layout = model_of(objective), Layout(batch.num_atoms, "cpu")
    head = model.heads["graphcl"]
    with torch.no_grad():
        view = objective.prepare(batch, layout, seed=3, epoch=2).parts.views[0]
        tokens, _ = model.encode(view.sub.batch, view.shown, view.sub.layout)
        means = torch.stack([tokens[layout.atom_tokens][layout.atom_molecule == b].mean(dim=0) for b in range(4)])
        activated = torch.relu(head.hidden(means))
        # Of 16 numbers for each of four molecules: the linear map that gives orthonormal vectors.
        head.out.weight.copy_((torch.linalg.pinv(activated) @ torch.eye(4, 16, dtype=torch.float64)).T)
        head.out.bias.zero_()
    assert mean_losses(objective, model, batch)["two_views"] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("sides", ["one", "two"])
@pytest.mark.parametrize("denominator", ["all", "negatives"])
def test_against_loops(sides, denominator):
    """Two groups and a molecule on its own, which counts for nothing."""
    batch = batch_of([graph(smiles, i) for i, smiles in enumerate(SMILES[:7])])
    group = [0, 1, 0, 0, 2, 1, 1]
    batch.extra[GROUP] = torch.tensor(group)
    objective = GraphCL(GraphCLOptions(graphcl_sides=sides, graphcl_denominator=denominator, graphcl_temperature=0.5))
    model = model_of(objective)
    with torch.no_grad():
        sums, counts = sums_and_counts(objective, model, batch)
        views = objective.prepare(batch, Layout(batch.num_atoms, "cpu"), seed=3, epoch=2).parts.views
        z = []
        for view in views:
            tokens, _ = model.encode(view.sub.batch, view.shown, view.sub.layout)
            x = model.heads["graphcl"](tokens[view.sub.layout.graph_tokens])
            z.append(x / x.norm(dim=1, keepdim=True))
    total, number = 0.0, 0
    for ours, theirs in ((z[0], z[1]), (z[1], z[0]))[: 2 if sides == "two" else 1]:
        for i in range(7):
            others = [j for j in range(7) if group[j] == group[i] and j != i]
            if others:
                score = {j: math.exp(float(ours[i] @ theirs[j]) / 0.5) for j in (*others, i)}
                under = sum(score[j] for j in others) + (score[i] if denominator == "all" else 0)
                total, number = total - math.log(score[i] / under), number + 1
    assert counts.tolist() == [number]
    assert float(sums) == pytest.approx(total, rel=1e-9)


def test_passes():
    assert GraphCL(GraphCLOptions()).passes == 1.6
    assert GraphCL(GraphCLOptions(graphcl_subgraph_kept=0.2)).passes == 1.0
    assert GraphCL(GraphCLOptions(graphcl_augmentations="identity,mask")).passes == 2.0


def test_options_that_cannot_be_are_told():
    for wrong, told in (
        ({"graphcl_augmentations": "drop,crop"}, "--graphcl-augmentations is a list of drop, subgraph, edge, mask, identity"),
        ({"graphcl_augmentations": "drop,drop"}, "each once, got 'drop,drop'"),
        ({"graphcl_augmentations": ""}, "--graphcl-augmentations is a list of"),
        ({"graphcl_rate": 1.0}, "--graphcl-rate must lie between 0 and 1"),
        ({"graphcl_subgraph_kept": 0.0}, "--graphcl-subgraph-kept must lie between 0 and 1"),
        ({"graphcl_temperature": -1.0}, "--graphcl-temperature must be above 0"),
    ):
        with pytest.raises(UserError, match=told):
            GraphCLOptions(**wrong)
