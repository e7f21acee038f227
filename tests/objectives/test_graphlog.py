"""GraphLoG: closed values, losses by loops, the search through levels of prototypes, how they are found, and both stages from a store."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from moleblend_fs.checkpoint.read import load
from moleblend_fs.cli.main import main
from moleblend_fs.data.batch import GROUP
from moleblend_fs.errors import UserError
from moleblend_fs.objectives.combined_objectives import Combined
from moleblend_fs.objectives.common.prototypes import (
    PASSES,
    STEP,
    find_prototypes,
    load_prototypes,
    lowest_level,
    members,
    next_level,
    unit_rows,
)
from moleblend_fs.objectives.graphlog import GraphLoG, GraphLoGOptions, parent_loss, prototype_losses, subgraph_losses
from moleblend_fs.ops.layout import Layout
from tests.fairseq_plugins.runs import ADAM, SMALL, train
from tests.inference.untrained_models import pretrained
from tests.model.molecules import AWKWARD, ORDINARY, batch_of, graph
from tests.objectives.suite import Case, mean_losses, model_of, sums_and_counts

FILE = str(Path(__file__).with_name("prototypes.json"))
CASE = Case(
    variants={
        "prototypes": {"graphlog_prototypes": FILE},
        "same atom": {"graphlog_positives": "same", "pooling": "mean", "graphlog_temperature": 0.5},
    },
    reached={"": 0.2, "prototypes": 0.3},
    updates=60,
    rate=1e-2,
)


def made(**options):
    return GraphLoG(GraphLoGOptions(**options))


def test_closed_values():
    """All vectors equal: 4 hidden atoms of 10 are told with ln(10 / 4), four molecules with ln 4, prototypes of three levels with the
    logarithms of the children that there are to choose from, a parent with that of the prototypes above."""
    batch = batch_of([graph("C" * 10, i) for i in range(4)])
    objective = made(graphlog_prototypes=FILE)
    model = model_of(objective)
    with torch.no_grad():
        for parameter in (model.heads["graphlog_projection"].out.weight, *model.heads["graphlog_prototypes"].levels):
            parameter.zero_()
        model.heads["graphlog_projection"].out.bias.fill_(1.0)
    assert mean_losses(objective, model, batch) == {
        "hidden_subgraph": pytest.approx(0.916291, abs=1e-6),
        "same_graph": pytest.approx(1.386294, abs=1e-6),
        "prototype": pytest.approx(math.log(2) + math.log(2) + math.log(1), abs=1e-6),  # of equal ones the first is chosen
        "parent_prototype": pytest.approx(math.log(3) + math.log(2), abs=1e-6),
    }


def test_prototypes_of_one_level():
    """ln(1 + 1/e) for two orthonormal ones at tau = 1; 0 where each of three levels has one."""
    graph_ = torch.tensor([[2.0, 0]], dtype=torch.float64)
    assert float(prototype_losses(graph_, [torch.eye(2, dtype=torch.float64)], [], 1.0)) == pytest.approx(0.313262, abs=1e-6)
    one = [torch.ones(1, 2, dtype=torch.float64)] * 3
    assert float(prototype_losses(graph_, one, [(0,), (0,)], 1.0)) == 0
    assert float(parent_loss(one, [(0,), (0,)], 1.0)) == 0


def test_search_goes_down_among_the_children():
    """The nearest of the lowest level has another parent than the nearest of the highest: it is not looked at."""
    found = load_prototypes(FILE)
    levels = [torch.tensor(level, dtype=torch.float64) for level in found.levels]
    vector = torch.tensor([[0.3, -1.0]], dtype=torch.float64)  # nearest of all: (0, -1), a child of (-0.6, -0.8) and so of (-1, 0)
    unit = vector / vector.norm()

    def loss(allowed, chosen, level):
        scores = {k: float(unit[0] @ levels[level][k] / levels[level][k].norm()) / 0.5 for k in allowed}
        assert max(scores, key=scores.get) == chosen
        return math.log(sum(map(math.exp, scores.values()))) - scores[chosen]

    expected = loss([0, 1], 0, 2) + loss([0, 1], 0, 1) + loss([0], 0, 0)
    assert float(prototype_losses(vector, levels, found.parents, 0.5)) == pytest.approx(expected, rel=1e-12)


def test_local_losses_against_loops():
    """Two groups, a molecule on its own in one, and a lone atom, which has nothing to be told from."""
    batch = batch_of([graph(s, i) for i, s in enumerate((*ORDINARY[:4], "C", *AWKWARD[:2]))])
    group = [0, 1, 0, 0, 1, 2, 1]
    batch.extra[GROUP] = torch.tensor(group)
    layout = Layout(batch.num_atoms, "cpu")
    for positives in ("hidden", "same"):
        objective = made(graphlog_positives=positives)
        model = model_of(objective)
        with torch.no_grad():
            sums, counts = sums_and_counts(objective, model, batch)
            parts = objective.prepare(batch, layout, seed=3, epoch=2).parts
            project = model.heads["graphlog_projection"]
            tokens = [project(model.encode(batch, shown, layout)[0]) for shown in (parts.whole, parts.copy)]
        tokens = [x / x.norm(dim=1, keepdim=True) for x in tokens]
        whole, copy = (x[layout.atom_tokens] for x in tokens)
        assert torch.equal(parts.hidden, parts.copy.hidden)
        total, number = 0.0, 0
        for b, size in enumerate(batch.num_atoms.tolist()):
            first = int(layout.cu_atoms[b])
            atoms = range(first, first + size)
            assert int(parts.hidden[first : first + size].sum()) == math.floor(0.3 * size + 1)
            for v in atoms if size > 1 else ():
                if parts.hidden[v]:
                    weight = {u: math.exp(float(whole[u] @ copy[v]) / 0.04) for u in atoms}
                    right = [v] if positives == "same" else [u for u in atoms if parts.hidden[u]]
                    total, number = total - math.log(sum(weight[u] for u in right) / sum(weight.values())), number + 1
        assert (float(sums[0]), float(counts[0])) == (pytest.approx(total, rel=1e-9), number)
        whole, copy = (x[layout.graph_tokens] for x in tokens)
        total, number = 0.0, 0
        for b in range(len(batch)):
            weight = {a: math.exp(float(whole[a] @ copy[b]) / 0.04) for a in range(len(batch)) if group[a] == group[b]}
            if len(weight) > 1:
                total, number = total - math.log(weight[b] / sum(weight.values())), number + 1
        assert (float(sums[1]), float(counts[1])) == (pytest.approx(total, rel=1e-9), number)


def test_scores_that_no_exponential_holds():
    """At tau = 1e-4 scores reach 1e4."""
    layout = Layout(torch.tensor([3]), "cpu")
    score = torch.tensor([[1e4, -1e4, 0], [1e4, -1e4, 0], [-1e4, -1e4, 0]], dtype=torch.float64).reshape(-1)
    right = torch.tensor([True, False, True]).repeat_interleave(3)
    losses = subgraph_losses(score, right, layout)
    assert losses.tolist() == pytest.approx([math.log(2), math.log(1.5), math.log(1.5)])


def test_the_lowest_level():
    """Two directions, far from each other: two prototypes stay, near them; one that begins there is moved as the rule says."""
    random = np.random.default_rng(0)
    vectors = np.concatenate([[1, 0, 0] + 0.01 * random.normal(size=(300, 3)), [0, 0, 2] + 0.01 * random.normal(size=(400, 3))])
    found = unit_rows(lowest_level(vectors, 50, np.random.default_rng(1)))
    assert len(found) < 50
    for direction in ([1, 0, 0], [0, 0, 1]):
        assert (found @ direction).max() > 0.9
    start = np.random.default_rng(2).uniform(size=(1, 2))
    only = lowest_level(np.array([[0.0, 3.0]] * 7), 1, np.random.default_rng(2))
    assert only == pytest.approx((1 - STEP) ** PASSES * start + (1 - (1 - STEP) ** PASSES) * np.array([[0.0, 3.0]]))


def test_members_of_prototypes():
    """By cosine, whatever the lengths, over more vectors than a batch has."""
    vectors = np.array([[3.0, 0.1]] * 700 + [[0.1, 0.01]] * 5 + [[0.1, 2.0]] * 40)
    assert members(vectors, np.array([[0.2, 0.0], [0.0, 9.0], [-1.0, 0.0]])).tolist() == [705, 40, 0]


def test_higher_levels():
    """Every prototype has a parent, every parent a child; two far directions have two parents; the winner and its rival move apart."""
    below = unit_rows(np.concatenate([[1, 0] + 0.05 * np.random.default_rng(0).normal(size=(9, 2)), [[0.0, 1.0]] * 9]))
    above, parents = next_level(below, 20, np.random.default_rng(1))
    assert sorted(set(parents.tolist())) == list(range(len(above)))
    assert not set(parents[:9]) & set(parents[9:])
    assert len(next_level(below, 1, np.random.default_rng(1))[0]) == 1
    levels, parents = find_prototypes(below, [6, 4, 2], seed=1)
    assert [len(each) for each in parents] == [len(level) for level in levels[:-1]]
    again, _ = find_prototypes(below, [6, 4, 2], seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(levels, again, strict=True))
    assert all(np.linalg.norm(level, axis=1) == pytest.approx(1) for level in levels)


def test_what_cannot_be_is_told(tmp_path):
    for wrong, told in (
        ({"graphlog_rate": 1.0}, "--graphlog-rate must lie between 0 and 1"),
        ({"graphlog_temperature": 0.0}, "--graphlog-temperature must be above 0"),
        ({"graphlog_prototype_weight": 0.0}, "--graphlog-prototype-weight must be above 0"),
        ({"graphlog_prototypes": str(tmp_path / "none")}, "no file of prototypes"),
        ({"graphlog_prototypes": FILE, "pooling": "mean"}, "found with --pooling token"),
    ):
        with pytest.raises(UserError, match=told):
            made(**wrong)
    good = json.loads(Path(FILE).read_text())
    for change in ({"parents": [[0, 1, 1, 2]]}, {"levels": []}, {"parents": [[0, 1, 1, 2], [0, 0, 0]]}, {"format_version": 2}):
        (tmp_path / "bad").write_text(json.dumps(good | change))
        with pytest.raises(UserError, match=r"no file of prototypes .*moleblend prototypes CHECKPOINT STORE"):
            made(graphlog_prototypes=str(tmp_path / "bad"))
    objective = made(graphlog_prototypes=FILE)
    for whole in (objective, Combined([objective])):
        with pytest.raises(UserError, match="prototypes of a model with --embed-dim 2, but this one has 16"):
            whole.begin(model_of(objective))


@pytest.mark.slow
def test_both_stages(qm9_store, tmp_path, capsys):
    """Without prototypes, prototypes by the model that was trained so, and with them: they begin as they were found, and are trained."""
    words = ["--task", "moleblend", "--criterion", "pretrain", "--objective", "graphlog", "--arch", "moleblend_tiny", *SMALL, *ADAM]
    words += ["--batch-size", "32", "--max-update", "2"]
    train(qm9_store.path, tmp_path / "trained", *words)
    first = pretrained(tmp_path / "first", ("graphlog_projection",), spread=0.3)  # molecules differ more than after two updates
    found = tmp_path / "prototypes.json"
    for checkpoint in (tmp_path / "trained" / "checkpoint_last.pt", first):
        assert main(["prototypes", str(checkpoint), str(qm9_store.path), str(found), "--levels", "20", "10", "5"]) == 0
        made_of = load_prototypes(found)
        said = capsys.readouterr()
        assert f"{', '.join(str(len(level)) for level in made_of.levels)} prototypes" in said.out
        assert ("are nearest to one prototype" in said.err) == (checkpoint != first)
        assert made_of.molecules == len(qm9_store.split("train"))
    assert len(made_of.levels[0]) > 1
    with_them = [*words, "--graphlog-prototypes", str(found), "--finetune-from-model", str(first)]
    second = train(qm9_store.path, tmp_path / "second", *with_them, "--lr", "1e-6")
    assert f"pretrained weights from {first}" in second.output
    done = load(tmp_path / "second" / "checkpoint_last.pt")
    assert done.config.sizes["graphlog_levels"] == 3
    for number, level in enumerate(made_of.levels):
        away = (done.weights[f"heads.graphlog_prototypes.levels.{number}"] - torch.tensor(level)).abs().max()
        assert float(away) < 1e-4
        assert number > 0 or float(away) > 0
    resumed = train(qm9_store.path, tmp_path / "second", *with_them, "--max-update", "3")
    assert len(resumed.logged("train_inner")) == 1
    assert main(["prototypes", str(tmp_path / "trained" / "checkpoint_last.pt"), str(qm9_store.path), str(found), "--levels", "1"]) == 0
    assert "are nearest to one prototype" not in capsys.readouterr().err, "as was asked for"
    assert main(["prototypes", str(first), str(qm9_store.path), str(found), "--levels", "0"]) == 2
    assert "--levels must be numbers from 1 on" in capsys.readouterr().err
