"""GROVER's tasks: closed values of one branch and two, labels by their names, what is hidden, vocabularies, training from sidecars."""

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rdkit import Chem

from moleblend_fs.checkpoint.read import load
from moleblend_fs.chem.contexts import atom_names, bond_names, contexts
from moleblend_fs.chem.mol_to_graph import graph_from_mol
from moleblend_fs.cli.main import main
from moleblend_fs.data.sidecar import Entry, Sidecar, SidecarManifest
from moleblend_fs.errors import UserError
from moleblend_fs.objectives.common.views import shared_passes
from moleblend_fs.objectives.common.vocabulary import Vocabulary
from moleblend_fs.objectives.grover import Grover, GroverOptions
from moleblend_fs.ops.layout import Layout
from tests.conftest import preprocessed
from tests.fairseq_plugins.runs import ADAM, FINETUNE, PRETRAIN, SMALL, arguments, run_here
from tests.model.molecules import ORDINARY, batch_of, graph
from tests.objectives.suite import Case, mean_losses, model_of, sums_and_counts

COMMON = ("CCO", "CC(C)=O", "CCN", "C1CCC1", "CC#N", "c1ccoc1", "CC=C", "CCOC", "NCC=O")
FRAGMENTS = 5


def with_hydrogens(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    return graph_from_mol(mol, smiles=smiles, labels=np.zeros(0), coordinates=None)


def counted(graphs):
    """Vocabularies of some molecules."""
    found = {"atoms": Counter(), "bonds": Counter()}
    for g in graphs:
        for what, entries in contexts(g.atom_features[:, 0], g.bonds, g.bond_classes).items():
            for name, code, times in entries:
                found[what][name, code] += times
    first = {what: sorted(listed.items(), key=lambda item: (-item[1], item[0])) for what, listed in found.items()}
    return {what: tuple(Entry(name=name, code=code, count=n) for (name, code), n in listed) for what, listed in first.items()}


def manifest(name, **more):
    about = {"molecules": 1, "records_sha256": "", "values_sha256": "", "statistics": (), "statistics_of": "", "missing": 0, "without": 0}
    return SidecarManifest(name=name, versions={}, **about | {"columns": ()} | more)


SIDECARS = {
    "contexts": manifest("contexts", kind="vocabularies", vocabularies=counted([with_hydrogens(s) for s in COMMON])),
    "fragments": manifest("fragments", kind="flags", columns=tuple("abcde")),
}


def flagged(batch):
    """The batch with fragments that follow from the molecules' ids; every third molecule has none."""
    values = ((batch.molecule_id.unsqueeze(1) + 1) % torch.arange(2, 2 + FRAGMENTS) == 0).to(torch.uint8)
    values[batch.molecule_id % 3 == 1] = 255
    batch.extra["fragments"] = values
    return batch


CASE = Case(
    variants={
        "unmasked": {"grover_mask": "none", "grover_min_count": 1, "pooling": "mean"},
        "two": {"grover_branches": "two", "grover_atom_contexts": 9, "grover_bond_contexts": 0},
    },
    reached={"": 0.3},
    updates=100,
    rate=1e-2,
    sidecars=SIDECARS,
    extra=flagged,
)


def objective(sidecars=SIDECARS, **options):
    made = Grover(GroverOptions(**{"grover_min_count": 1} | options))
    made.take_sidecars(sidecars)
    return made


def prepared(made, batch, **draw):
    return made.prepare(batch, Layout(batch.num_atoms, "cpu"), seed=draw.get("seed", 1), epoch=draw.get("epoch", 1))


def many(count):
    """A vocabulary of so many contexts, one less than the classes."""
    return tuple(Entry(name=str(i), code=i, count=1) for i in range(count))


@pytest.mark.parametrize(("branches", "value"), [("one", 14.508658), ("two", 30.403610)])
def test_a_model_that_knows_nothing(branches, value):
    """2 ln 1000 + ln 2 of one branch; twice the first and four times the second of two, which agree."""
    sidecars = SIDECARS | {"contexts": manifest("contexts", kind="vocabularies", vocabularies={"atoms": many(999), "bonds": many(999)})}
    made = objective(sidecars, grover_branches=branches, grover_atom_contexts=0)
    model = model_of(made)
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.zero_()
    losses = mean_losses(made, model, flagged(batch_of([graph(s, i) for i, s in enumerate(ORDINARY)])))
    assert sum(losses.values()) == pytest.approx(value, abs=1e-6)
    assert all(losses[name] == 0 for name in losses if "agreement" in name)


def test_labels_are_those_of_the_names():
    """Every atom and bond of some molecules, drawn all; contexts that are not in the vocabulary are class 0."""
    graphs = [with_hydrogens(smiles) for smiles in (*COMMON, "FC(F)F", "CC(=O)O")]
    batch = flagged(batch_of(graphs))
    made = objective(grover_atom_rate=0.999, grover_bond_rate=0.999)
    ready = prepared(made, batch)
    parts, layout = ready.parts, Layout(batch.num_atoms, "cpu")
    vocabularies = SIDECARS["contexts"].vocabularies
    rank = {what: {entry.name: 1 + place for place, entry in enumerate(entries)} for what, entries in vocabularies.items()}
    first = layout.cu_atoms.tolist()
    atoms, bonds = {}, {}
    for m, g in enumerate(graphs):
        elements = g.atom_features[:, 0], g.bonds, g.bond_classes
        atoms |= {first[m] + i: rank["atoms"].get(name, 0) for i, name in enumerate(atom_names(*elements))}
        ends = [tuple(sorted((first[m] + int(u), first[m] + int(v)))) for u, v in g.bonds]
        bonds |= {pair: rank["bonds"].get(name, 0) for pair, name in zip(ends, bond_names(*elements), strict=True)}
    assert dict(zip(parts.atoms.tolist(), parts.atom_classes.tolist(), strict=True)) == atoms
    assert dict(zip(map(tuple, parts.ends.T.tolist()), parts.bond_classes.tolist(), strict=True)) == bonds
    for found in (atoms, bonds):
        assert 0 < list(found.values()).count(0) < len(found) / 2


@pytest.mark.parametrize(("smiles", "atoms", "bonds"), [("C" * 20, 3, 3), ("C" * 21, 4, 3), ("C", 1, 0), ("c1ccccc1", 1, 1), ("CO", 1, 1)])
def test_count_of_what_is_drawn(smiles, atoms, bonds):
    """ceil(0.15 n) and ceil(0.15 m)."""
    ready = prepared(objective(), flagged(batch_of([graph(smiles, 0)])))
    assert ready.counts.tolist() == [atoms, bonds, FRAGMENTS]


def test_what_is_hidden():
    """Other drawn atoms and other classes of drawn bonds, in all paths over them: the same tokens where they are hidden."""
    batch = flagged(batch_of([graph(smiles, i) for i, smiles in enumerate(ORDINARY)]))
    layout = Layout(batch.num_atoms, "cpu")
    for mask in ("hide", "none"):
        made = objective(grover_mask=mask)
        model = model_of(made).eval()
        parts = prepared(made, batch).parts
        features, path = batch.atom_features.clone(), batch.path_bonds.clone()
        features[parts.atoms] = (features[parts.atoms] + 1) % 3
        for u, v in parts.ends.T.tolist():
            m = int(layout.atom_molecule[u])
            first, n, start = int(layout.cu_atoms[m]), int(layout.sizes[m]), int(layout.cu_pairs[m])
            spd = batch.spd[start : start + n * n].view(n, n).long()
            a, b = u - first, v - first
            over = (spd[:, [a]] + 1 + spd[b] == spd) | (spd[:, [b]] + 1 + spd[a] == spd)
            path[start : start + n * n][over.reshape(-1)] = (path[start : start + n * n][over.reshape(-1)] + 12) % 61
        other = dataclasses.replace(batch, atom_features=features, path_bonds=path)
        with torch.no_grad():
            tokens = [model.encode(seen, parts.shown[0], layout)[0] for seen in (batch, other)]
        assert torch.equal(*tokens) == (mask == "hide")


def test_two_branches_by_hand():
    """Without dropout both passes are alike: the losses of two sets of maps, and how far they are apart."""
    batch = flagged(batch_of([graph(smiles, i) for i, smiles in enumerate(ORDINARY[:4])]))
    made = objective(grover_branches="two")
    model = model_of(made)
    with torch.no_grad():
        sums, counts = sums_and_counts(made, model, batch)
        ready = made.prepare(batch, Layout(batch.num_atoms, "cpu"), seed=3, epoch=2)
        parts, layout = ready.parts, ready.layout
        assert parts.shown[0] is not parts.shown[1]
        tokens, _ = model.encode(batch, parts.shown[0], layout)
        h = tokens[layout.atom_tokens]
        maps = model.heads["grover_two"].maps
        expected = {}
        for name, vectors, classes in (("atoms", h[parts.atoms], parts.atom_classes), ("bonds", h[parts.ends].sum(0), parts.bond_classes)):
            one, two = (layer(vectors).log_softmax(1) for layer in maps[f"grover_{name}"])
            expected[name] = [float(F.nll_loss(x, classes, reduction="sum")) for x in (one, two)]
            expected[f"{name} apart"] = float((one - two).square().mean(1).sum())
        mean_atoms = torch.stack([h[layout.atom_molecule == b].mean(0) for b in range(4)])
        bond_molecule = layout.atom_molecule[parts.bonds[0]]
        mean_bonds = torch.stack([h[parts.bonds].sum(0)[bond_molecule == b].mean(0) for b in range(4)])
        likely = [layer(x).sigmoid() for layer, x in zip(maps["grover_fragments"], [mean_atoms] * 2 + [mean_bonds] * 2, strict=True)]
        there = batch.extra["fragments"] != 255
        target = (batch.extra["fragments"] == 1).double()
        entropies = [float(F.binary_cross_entropy(x[there], target[there], reduction="sum")) for x in likely]
        apart = sum(float((likely[i] - likely[i + 1])[there].square().sum()) for i in (0, 2))
    by_hand = [sum(expected["atoms"]), sum(expected["bonds"]), sum(entropies), expected["atoms apart"], expected["bonds apart"], apart]
    assert sums.tolist() == pytest.approx(by_hand, rel=1e-9)
    assert counts.tolist() == [len(parts.atoms), len(parts.bond_classes), int(there.sum())] * 2
    assert [term.weight for term in made.terms()] == [1, 1, 1, 0.1, 0.1, 1]
    assert (made.passes, objective().passes) == (2, 1)


def test_the_branches_are_passes_of_their_own():
    """Their dropout differs, also where passes over one view are shared."""
    batch = flagged(batch_of([graph(smiles, i) for i, smiles in enumerate(ORDINARY[:2])]))
    made = objective(grover_branches="two")
    model = model_of(made)
    for block in model.encoder.modules():
        if hasattr(block, "activation_dropout"):
            block.activation_dropout = 0.5
    one, two = model.heads["grover_two"].maps["grover_atoms"]
    two.load_state_dict(one.state_dict())
    with shared_passes():
        sums = made.loss_sums(model, prepared(made, batch))
    assert float(sums[3].detach()) > 1e-6


def test_fragments_that_are_not_there_count_nothing():
    batch = flagged(batch_of([graph("CCO", 0), graph("CCN", 1)], ids=[0, 1]))
    made = objective()
    model = model_of(made)
    sums, counts = sums_and_counts(made, model, batch)
    alone, counts_alone = sums_and_counts(made, model, flagged(batch_of([graph("CCO", 0)], ids=[0])))
    assert counts[2] == counts_alone[2] == FRAGMENTS
    assert float(sums[2]) == pytest.approx(float(alone[2]))


def test_vocabularies_are_cut():
    entries = [Entry(name=name, code=code, count=count) for name, code, count in (("a", 5, 9), ("b", -3, 4), ("c", 7, 4), ("d", 1, 2))]
    vocabulary = Vocabulary(entries, 0, 1, "--grover-min-count")
    assert vocabulary.classes == 5
    assert vocabulary.classes_of(torch.tensor([5, -3, 7, 1, 0, 9, -9])).tolist() == [1, 2, 3, 4, 0, 0, 0]
    assert Vocabulary(entries, 2, 1, "").classes_of(torch.tensor([5, -3, 7])).tolist() == [1, 2, 0]
    assert Vocabulary(entries, 0, 3, "").classes_of(torch.tensor([7, 1])).tolist() == [3, 0]
    with pytest.raises(UserError, match="nothing in the vocabulary is 10 times in the store; lower --grover-min-count"):
        Vocabulary(entries, 0, 10, "--grover-min-count")


def test_options_that_cannot_be_are_told():
    for wrong, told in (
        ({"grover_atom_rate": 1.0}, "--grover-atom-rate must lie between 0 and 1"),
        ({"grover_bond_rate": 0.0}, "--grover-bond-rate must lie between 0 and 1"),
        ({"grover_bond_contexts": -1}, "--grover-bond-contexts must be at least 1, or 0 for all"),
        ({"grover_min_count": 0}, "--grover-min-count must be at least 1"),
    ):
        with pytest.raises(UserError, match=told):
            GroverOptions(**wrong)


@pytest.mark.slow
def test_from_sidecars_to_finetuning(qm9_sample, tmp_path):
    """The first losses are those of a model that knows nothing; the checkpoint knows the sizes of its heads; finetuning begins from it."""
    store = preprocessed(tmp_path / "store", "qm9", str(qm9_sample), "--limit", "48", "--hydrogens", "none")
    options = [*PRETRAIN, "--criterion", "pretrain", *SMALL, *ADAM, "--batch-size", "20", "--max-update", "2", "--objective", "grover"]
    lacking = run_here(arguments(store.path, tmp_path / "a", options), tmp_path / "a")
    assert lacking.code == 2
    assert f"moleblend preprocess-sidecar contexts {store.path}" in lacking.output
    for name in ("contexts", "fragments"):
        assert main(["preprocess-sidecar", name, str(store.path), "--workers", "1", "--no-progress"]) == 0
    trained = run_here(arguments(store.path, tmp_path / "a", [*options, "--grover-min-count", "3"]), tmp_path / "a")
    assert trained.code == 0, trained.output[-3000:]
    vocabularies = Sidecar(store, "contexts").manifest.vocabularies
    sizes = {what: 1 + sum(entry.count >= 3 for entry in entries) for what, entries in vocabularies.items()}
    config = load(tmp_path / "a/checkpoint_last.pt").config
    assert config.sizes == {"grover_atoms": sizes["atoms"], "grover_bonds": sizes["bonds"], "grover_fragments": 85}
    for what, size in (("atom", sizes["atoms"]), ("bond", sizes["bonds"])):
        assert abs(trained.column("train_inner", f"{what}_context_loss")[0] - math.log(size)) < 0.7
    assert abs(trained.column("train_inner", "fragments_loss")[0] - math.log(2)) < 0.1
    tune = [*FINETUNE, *SMALL, *ADAM, "--targets", "gap", "--batch-size", "20", "--max-update", "1"]
    tune += ["--finetune-from-model", str(tmp_path / "a/checkpoint_last.pt")]
    tuned = run_here(arguments(store.path, tmp_path / "c", tune), tmp_path / "c")
    assert tuned.code == 0, tuned.output[-3000:]
    assert load(tmp_path / "c/checkpoint_last.pt").config.sizes == {}
