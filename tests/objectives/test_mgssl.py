"""MGSSL: closed values, the recurrent network against loops over one molecule, walks, molecules without motifs, training from a sidecar."""

import math

import pytest
import torch
import torch.nn.functional as F

from moleblend_fs.checkpoint.read import load
from moleblend_fs.cli.main import main
from moleblend_fs.data.motif_lists import MOTIFS
from moleblend_fs.data.sidecar import Sidecar
from moleblend_fs.errors import UserError
from moleblend_fs.model.shown import show_all
from moleblend_fs.objectives.common.tree_walk import ORDERS, walk
from moleblend_fs.objectives.mgssl import HEADS, MGSSL, MGSSLOptions
from moleblend_fs.ops.layout import Layout
from tests.conftest import preprocessed
from tests.fairseq_plugins.runs import ADAM, FINETUNE, PRETRAIN, SMALL, arguments, run_here
from tests.model.molecules import ORDINARY, batch_of, graph
from tests.objectives.motif_trees import SIDECARS, batch_with_trees, made_up, sidecar, tree_of, vocabulary_of, with_trees
from tests.objectives.suite import Case, mean_losses, model_of, sums_and_counts

EVERY = {"motif_min_count": 1, "motif_classes": 0}
CASE = Case(
    variants={"bfs": {"mgssl_order": "bfs", **EVERY}, "decisions": {"mgssl_mean": "decision", "motif_min_count": 20}},
    reached={"decisions": 0.02, "bfs": 0.1},
    updates=150,
    rate=1e-2,
    sidecars=SIDECARS,
    extra=made_up,
)


def objective(names, **options):
    made = MGSSL(MGSSLOptions(**EVERY | options))
    made.take_sidecars({MOTIFS: sidecar(names)})
    return made


def silent(made):
    model = model_of(made)
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.zero_()
    return model


def test_a_model_that_knows_nothing():
    """Four motifs, 12,233 classes. Depth first: three labels and seven bits a molecule. Breadth first: seven labels of one class more."""
    molecule = graph("CN1CCC[C@H]1c1cccnc1C", 0)
    assert len(tree_of(molecule).names) == 4
    names, batch = [str(i) for i in range(12_232)], batch_with_trees([molecule, molecule], [3, 7])
    made, broad, single = (objective(names, **options) for options in ({}, {"mgssl_order": "bfs"}, {"mgssl_mean": "decision"}))
    assert sum(mean_losses(made, silent(made), batch).values()) == pytest.approx(33.087708, abs=1e-5)
    assert mean_losses(broad, silent(broad), batch) == pytest.approx({"next_motif": 7 * math.log(12_234)})
    assert mean_losses(single, silent(single), batch) == pytest.approx({"next_motif": math.log(12_233), "further_motif": math.log(2)})


def gru(head, x, came):
    """The released code's cell for one motif: x (d,), messages that came (any number of (d,))."""
    total = sum(came, torch.zeros_like(x))
    gate = torch.sigmoid(head.update(torch.cat([x, total])))
    kept = sum((torch.sigmoid(head.reset_motif(x) + head.reset_message(m)) * m for m in came), torch.zeros_like(x))
    return (1 - gate) * total + gate * torch.tanh(head.candidate(torch.cat([x, kept])))


def walked(children, order):
    """(from, to, kind) of a walk, as the released code makes it; the end of it depth first, and each motif's breadth first, as "stop"."""
    if order == "dfs":
        steps = []

        def go(x):
            for y in children[x]:
                steps.append((x, y, "down"))
                go(y)
                steps.append((y, x, "up"))

        go(0)
        return [*steps, (0, None, "stop")]
    steps, layer = [], [0]
    while layer:
        following = []
        for x in layer:
            for y in children[x]:
                steps += [(x, y, "down"), (y, x, "up")]
                following.append(y)
            steps.append((x, None, "stop"))
        layer = following
    return steps


@pytest.mark.parametrize("order", ORDERS)
def test_against_loops(order):
    """Of each molecule alone, with a dictionary of messages; trees of one to ten motifs, motifs that share atoms, rare ones, and none."""
    graphs = [graph(s, i) for i, s in enumerate((*ORDINARY, "C", "CC(=O)[O-].[Na+]"))]
    trees = [tree_of(g) for g in graphs]
    trees[3] = None
    names = vocabulary_of(graphs)[:6]
    made = objective(names, mgssl_order=order)
    model, batch = model_of(made), with_trees(batch_of(graphs), trees)
    layout = Layout(batch.num_atoms, "cpu")
    head = model.heads[HEADS[order]]
    labels = stops = 0.0
    with torch.no_grad():
        sums, counts = sums_and_counts(made, model, batch)
        h = model.encode(batch, show_all(batch, layout, "2d"), layout)[0][layout.atom_tokens]
        for m, tree in enumerate(trees):
            if tree is None:
                continue
            atoms = h[int(layout.cu_atoms[m]) : int(layout.cu_atoms[m + 1])]
            x = [atoms[members].sum(dim=0) for members in tree.atoms]
            classes = [names.index(name) + 1 if name in names else 0 for name in tree.names]
            children = {i: [c for c, p in enumerate(tree.parents) if p == i] for i in range(len(x))}
            sent, near = {}, {i: [] for i in range(len(x))}
            for i, j, kind in walked(children, order):
                message = gru(head, x[i], [sent[k, i] for k in near[i] if k != j])
                around = sum((sent[k, i] for k in near[i]), torch.zeros_like(x[i]))
                if kind == "down" or (kind == "stop" and order == "bfs"):
                    target = classes[j] if kind == "down" else len(names) + 1
                    labels += float(F.cross_entropy(head.out(torch.relu(head.hidden(message))), torch.tensor(target)))
                if order == "dfs":
                    bit = head.stop_out(torch.relu(head.stop_hidden(torch.cat([x[i], around]))))
                    stops += float(F.binary_cross_entropy_with_logits(bit, torch.full((1,), float(kind == "down"), dtype=bit.dtype)))
                if j is not None:
                    sent[i, j] = message
                    near[j].append(i)
    assert counts.tolist() == [8] * len(made.terms())
    assert sums.tolist() == pytest.approx([labels, stops][: len(made.terms())], rel=1e-9)
    assert {len(tree.names) for tree in trees if tree} >= {1, 5, 6, 10}


@pytest.mark.parametrize("order", ORDERS)
def test_walks(order):
    """Of two trees side by side, the second of one node; a molecule between them has none."""
    parents = [-1, 0, 1, 0, 3, 3]
    tree, number, parent = (torch.tensor(x) for x in ([0] * 6 + [2], [*range(6), 0], [*parents, -1]))
    found, start, steps = walk(tree, number, parent, order), 0, {0: [], 2: []}
    for size in found.sizes:
        for row in range(start, start + size):
            i, j, kind = int(found.source[row]), int(found.target[row]), int(found.kind[row])
            steps[int(tree[i])].append((i, None if j < 0 else j, ("up", "down", "stop")[kind]))
        start += size
    children = {i: [c for c, p in enumerate(parents) if p == i] for i in range(6)}
    assert steps == {0: walked(children, order), 2: [(6, None, "stop")]}
    assert start == len(found.source)


def test_molecules_without_motifs_count_for_nothing():
    graphs = [graph("CCO", 0), graph("CCN", 1)]
    made, model = objective(["CC"]), model_of(objective(["CC"]))
    none = with_trees(batch_of(graphs), [None, None])
    sums, counts = sums_and_counts(made, model, none)
    assert sums.tolist() == counts.tolist() == [0, 0]
    first, second = map(tree_of, graphs)
    both, alone = (sums_and_counts(made, model, with_trees(batch_of(graphs), trees)) for trees in ([first, second], [first, None]))
    assert (both[1].tolist(), alone[1].tolist()) == ([2, 2], [1, 1])
    assert (both[0] > alone[0]).all()


def test_options_that_cannot_be_are_told():
    with pytest.raises(UserError, match="--motif-classes must be at least 1, or 0 for all, got -1"):
        MGSSLOptions(motif_classes=-1)
    with pytest.raises(UserError, match="--motif-min-count must be at least 1"):
        MGSSLOptions(motif_min_count=0)
    with pytest.raises(UserError, match="nothing in the vocabulary is 100 times in the store; lower --motif-min-count"):
        MGSSL(MGSSLOptions(motif_min_count=100)).take_sidecars(SIDECARS)


@pytest.mark.slow
def test_from_a_sidecar_to_finetuning(qm9_sample, tmp_path):
    """Both objectives of motifs; first losses are those of a model that knows nothing; the run goes on; finetuning begins from it."""
    store = preprocessed(tmp_path / "store", "qm9", str(qm9_sample), "--limit", "48")
    options = [*PRETRAIN, "--criterion", "pretrain", *SMALL, *ADAM, "--batch-size", "20", "--objective", "mgssl,motif_mask"]
    options += ["--motif-min-count", "2"]
    lacking = run_here(arguments(store.path, tmp_path / "a", [*options, "--max-update", "2"]), tmp_path / "a")
    assert lacking.code == 2
    assert f"moleblend preprocess-sidecar motifs {store.path}" in lacking.output
    assert main(["preprocess-sidecar", "motifs", str(store.path), "--workers", "1", "--no-progress"]) == 0
    for updates in ("2", "4"):
        trained = run_here(arguments(store.path, tmp_path / "a", [*options, "--max-update", updates]), tmp_path / "a")
        assert trained.code == 0, trained.output[-3000:]
    entries = Sidecar(store, MOTIFS).manifest.vocabularies[MOTIFS]
    size = 1 + sum(entry.count >= 2 for entry in entries)
    assert load(tmp_path / "a/checkpoint_last.pt").config.sizes == {"motifs": size}
    assert abs(trained.column("train_inner", "motif_mask_hidden_motif_loss")[0] - math.log(size)) < 0.5
    tune = [*FINETUNE, *SMALL, *ADAM, "--targets", "gap", "--batch-size", "20", "--max-update", "1"]
    tune += ["--finetune-from-model", str(tmp_path / "a/checkpoint_last.pt")]
    tuned = run_here(arguments(store.path, tmp_path / "c", tune), tmp_path / "c")
    assert tuned.code == 0, tuned.output[-3000:]
    assert load(tmp_path / "c/checkpoint_last.pt").config.sizes == {}
