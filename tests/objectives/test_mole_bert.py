"""Mole-BERT: closed values, losses by loops, what the views hide, codes from the tokenizer to training, both stages."""

import math
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from moleblend_fs.checkpoint.read import identity, load
from moleblend_fs.checkpoint.write import save
from moleblend_fs.cli.main import main
from moleblend_fs.cli.tokenize import crowded
from moleblend_fs.data.batch import GROUP
from moleblend_fs.data.record import decode
from moleblend_fs.data.sidecar import CODES, Entry, Sidecar, SidecarManifest
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.model.shown import show_all
from moleblend_fs.objectives.combined_objectives import Combined
from moleblend_fs.objectives.common.codebook import group_of_element
from moleblend_fs.objectives.infograph import InfoGraph, InfoGraphOptions
from moleblend_fs.objectives.mole_bert import MoleBert, MoleBertOptions, triplet_losses
from moleblend_fs.ops.layout import Layout
from tests.conftest import preprocessed
from tests.fairseq_plugins.runs import ADAM, SMALL, train
from tests.inference.untrained_models import pretrained
from tests.model.molecules import AWKWARD, ORDINARY, batch_of, graph
from tests.objectives.suite import Case, mean_losses, model_of, sums_and_counts
from tests.support.sidecars import tokenizer

NAMES = tuple(f"C {i}" for i in range(7))
ABOUT = SidecarManifest(
    name=CODES, kind="lists", columns=NAMES, molecules=1, records_sha256="", values_sha256="", statistics=(), statistics_of="",
    missing=0, without=0, versions={},
)  # fmt: skip


def coded(batch):
    """The batch with codes that follow from atoms' features, whatever their order."""
    layout = Layout(batch.num_atoms, "cpu")
    codes = ((batch.atom_features.long() * torch.arange(1, 10)).sum(dim=1) + batch.degree.long()) % len(NAMES)
    rows = torch.zeros(len(batch), int(batch.num_atoms.max()) + 1, dtype=torch.int32)
    place = torch.arange(len(codes)) - layout.cu_atoms[layout.atom_molecule]
    batch.extra[CODES] = rows.index_put((layout.atom_molecule, place), codes.int())
    return batch


CASE = Case(
    variants={
        "released": {"mole_bert_heads": "two", "mole_bert_denominator": "negatives", "pooling": "mean", "mole_bert_margin": 2.0},
        "masked alone": {"mole_bert_contrast_weight": 0.0, "mole_bert_triplet_weight": 0.0},
        "views alone": {"mole_bert_masked_weight": 0.0, "mole_bert_margin": 0.5},
        "triplet alone": {"mole_bert_masked_weight": 0.0, "mole_bert_contrast_weight": 0.0, "mole_bert_margin": 0.5},
        "contrast alone": {"mole_bert_masked_weight": 0.0, "mole_bert_triplet_weight": 0.0},
    },
    reached={"": 0.3, "triplet alone": 0.01},
    rate=1e-2,
    sidecars={CODES: ABOUT},
    extra=coded,
)
GRAPHS = [graph(smiles, i) for i, smiles in enumerate((*ORDINARY, *AWKWARD, "C", "CO"))]
BATCH = coded(batch_of(GRAPHS))
LAYOUT = Layout(BATCH.num_atoms, "cpu")


def objective(about=ABOUT, **options):
    made = MoleBert(MoleBertOptions(**options))
    made.take_sidecars({CODES: about})
    return made


def test_a_model_that_knows_nothing():
    """ln 512 and ln 4 of equal logits; four molecules whose vectors are all equal: ln 4, and ln 3 without the partner under the fraction;
    equal distances."""
    batch = coded(batch_of([graph("C" * 9, i) for i in range(4)]))
    many = ABOUT.__class__(**{name: getattr(ABOUT, name) for name in ABOUT.__slots__} | {"columns": tuple(map(str, range(512)))})
    for denominator, equal in (("all", 1.386294), ("negatives", 1.098612)):
        made = objective(many, mole_bert_denominator=denominator)
        model = model_of(made)
        with torch.no_grad():
            for parameter in model.heads.parameters():
                parameter.zero_()
            model.heads["mole_bert_projection"].out.bias.fill_(1.0)
        masked = {"light_code": math.log(512), "heavy_code": math.log(512), "light_bond": math.log(4), "heavy_bond": math.log(4)}
        assert mean_losses(made, model, batch) == pytest.approx(masked | {"two_views": equal, "triplet": 0}, abs=1e-6)
    assert [term.weight for term in made.terms()] == [1, 1, 1, 1, 1, 0.1]
    assert (made.passes, objective(mole_bert_triplet_weight=0.0).passes) == (2.33, 2)


def test_the_triplet():
    """|(3, 4)| - |(1, 0)| = 4, swapped nothing, and the margin."""
    whole, near, far = torch.zeros(1, 2), torch.tensor([[3.0, 4]]), torch.tensor([[1.0, 0]])
    assert float(triplet_losses(whole, near, far, 0.0)) == 4
    assert float(triplet_losses(whole, far, near, 0.0)) == 0
    assert float(triplet_losses(whole, far, near, 4.5)) == 0.5


@pytest.mark.parametrize("options", [{}, {"mole_bert_heads": "two", "mole_bert_denominator": "negatives", "mole_bert_margin": 0.3}])
def test_losses_against_loops(options):
    """Two groups, one molecule on its own in a third."""
    BATCH.extra[GROUP] = group = torch.tensor([0, 1] * (len(BATCH) // 2) + [2] * (len(BATCH) % 2))
    made = objective(**options)
    model = model_of(made)
    with torch.no_grad():
        sums, counts = sums_and_counts(made, model, BATCH)
        ready = made.prepare(BATCH, LAYOUT, seed=3, epoch=2).parts
        tokens = [model.encode(BATCH, shown, LAYOUT)[0] for shown in (*(view.shown for view in ready.masked), ready.whole)]
        project = model.heads["mole_bert_projection"]
        z1, z2, z = (project(x[LAYOUT.graph_tokens]) for x in tokens)
        head = model.heads["mole_bert_masked_each" if "mole_bert_heads" in options else "mole_bert_masked"]
        expected, numbers = {"code": [], "bond": []}, {"code": [], "bond": []}
        for view, x in enumerate(tokens[:2]):
            h, shown = x[LAYOUT.atom_tokens], ready.masked[view].shown
            of_atoms, of_bonds = head.atoms[view % len(head.atoms)], head.bonds[view % len(head.bonds)]
            code = bond = atoms = bonds = 0.0
            for m, n in enumerate(BATCH.num_atoms.tolist()):
                first, g = int(LAYOUT.cu_atoms[m]), GRAPHS[m]
                for i in range(n):
                    if shown.hidden[first + i]:
                        code -= float(of_atoms(h[first + i]).log_softmax(0)[BATCH.extra[CODES][m, i]])
                        atoms += 1
                for (u, v), kind in zip(g.bonds.tolist(), ((g.bond_classes - 1) // 12).tolist(), strict=True):
                    if kind < 4 and (shown.hidden[first + u] or shown.hidden[first + v]):
                        bond -= float(of_bonds(h[first + u] + h[first + v]).log_softmax(0)[kind])
                        bonds += 1
            for what, value, number in (("code", code, atoms), ("bond", bond, bonds)):
                expected[what].append(value)
                numbers[what].append(number)
    contrast = triplet = compared = apart = 0.0
    cosine = F.normalize(z1, dim=1) @ F.normalize(z2, dim=1).T
    for i in range(len(BATCH)):
        weight = {j: math.exp(float(cosine[i, j]) / 0.1) for j in range(len(BATCH)) if group[i] == group[j]}
        if len(weight) > 1:
            under = sum(w for j, w in weight.items() if j != i or not options)
            contrast, compared = contrast - math.log(weight[i] / under), compared + 1
        n = int(BATCH.num_atoms[i])
        if math.floor(0.15 * n + 1) < math.floor(0.3 * n + 1):
            away = float((z[i] - z1[i]).norm() - (z[i] - z2[i]).norm()) + options.get("mole_bert_margin", 0)
            triplet, apart = triplet + max(0, away), apart + 1
    assert sums.tolist() == pytest.approx([*expected["code"], *expected["bond"], contrast, triplet], rel=1e-8)
    assert counts.tolist() == [*numbers["code"], *numbers["bond"], compared, apart]
    assert 0 < apart < len(BATCH)
    assert triplet > 0 or not options


def test_what_the_views_hide():
    """floor(r n + 1) atoms, drawn for each view on its own; the classes of bonds in all paths through them; nothing of the whole."""
    parts = objective().prepare(BATCH, LAYOUT, seed=1, epoch=1).parts
    light, heavy = (view.shown.hidden for view in parts.masked)
    for m, n in enumerate(BATCH.num_atoms.tolist()):
        part = slice(int(LAYOUT.cu_atoms[m]), int(LAYOUT.cu_atoms[m + 1]))
        assert [int(h[part].sum()) for h in (light, heavy)] == [min(n, math.floor(0.15 * n + 1)), min(n, math.floor(0.3 * n + 1))]
    assert (light & ~heavy).any()
    assert parts.whole.hidden is None
    for view in parts.masked:
        at = (view.shown.hidden[LAYOUT.pair_row] | view.shown.hidden[LAYOUT.pair_column]) & (BATCH.spd == 1)
        assert not (view.shown.relations[at] & 2).any()
    assert objective(mole_bert_rates="0.2,0.5").prepare(BATCH, LAYOUT, seed=1, epoch=1).counts[1] > parts.masked[1].shown.hidden.sum()


def test_the_whole_molecule_is_taken_as_given():
    """No gradient goes through its pass; and another objective that asks for the same view has its own, with gradients."""
    alone = objective(mole_bert_masked_weight=0.0, mole_bert_contrast_weight=0.0)
    graph_ = InfoGraph(InfoGraphOptions())
    both = Combined([alone, graph_])
    model = model_of(both)
    calls, encode = [], model.encode
    model.encode = lambda *inputs: calls.append(torch.is_grad_enabled()) or encode(*inputs)
    sums, _ = sums_and_counts(both, model, BATCH)
    assert calls == [True, True, False, True]
    gradients = torch.autograd.grad(sums[1:].sum(), model.encoder.embedding_norm.weight)[0]
    expected = torch.autograd.grad(sums_and_counts(graph_, model, BATCH)[0].sum(), model.encoder.embedding_norm.weight)[0]
    assert torch.equal(gradients, expected)


def test_no_codes_are_needed_where_none_are_learned():
    made = MoleBert(MoleBertOptions(mole_bert_masked_weight=0.0))
    assert (made.sidecars(), made.config_fields(), made.heads()) == ((), {}, ("mole_bert_projection",))
    assert objective(mole_bert_contrast_weight=0.0, mole_bert_triplet_weight=0.0).group is None


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"mole_bert_rates": "0.15"}, "--mole-bert-rates is two numbers with a comma"),
        ({"mole_bert_rates": "0.15,1"}, "--mole-bert-rates must lie between 0 and 1"),
        ({"mole_bert_rates": "0.3,0.15"}, "the first must not be above the second"),
        ({"mole_bert_temperature": 0.0}, "--mole-bert-temperature must be above 0"),
        ({"mole_bert_margin": -1.0}, "--mole-bert-margin must not be negative"),
        ({"mole_bert_triplet_weight": -0.1}, "must not be negative, and not all 0, got 1, 1, -0.1"),
        (dict.fromkeys([f"mole_bert_{name}_weight" for name in ("masked", "contrast", "triplet")], 0.0), "not all 0, got 0, 0, 0"),
    ],
)
def test_options_that_cannot_be_are_told(wrong, told):
    with pytest.raises(UserError, match=told):
        MoleBertOptions(**wrong)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codes")
    (folder / "a.smi").write_text("\n".join(f"{'C' * k}{x}" for k in range(1, 16) for x in ("O", "N", "c1ccccc1", "[Si](C)(C)C")))
    return preprocessed(folder / "store", "smiles", str(folder / "a.smi"))


def telling(folder, store):
    """A tokenizer whose codes lie near vectors of the store's atoms, so that atoms have several."""
    found = load(tokenizer(folder / "begun", spread=0.3, tokenizer_codes="8,4,4,2"))
    batch = batch_of([g for _, g in map(decode, store.records(range(0, 60, 7)))])
    layout = Layout(batch.num_atoms, "cpu")
    with torch.no_grad():
        h = found.build().encode(batch, show_all(batch, layout, "2d"), layout)[0][layout.atom_tokens]
    group = group_of_element(batch.atom_features[:, 0].long())
    of_groups = [h[group == q] for q in range(4)]
    near = torch.cat([x[torch.arange(k) * len(x) // k] for x, k in zip(of_groups, (8, 4, 4, 2), strict=True)])
    found.weights["heads.atom_codebook.codes"] = near + 0.01 * torch.randn_like(near)
    save(found, folder / "telling")
    return folder / "telling"


def codes_by_hand(checkpoint, store):
    """Of each molecule alone, by distances to the codes of its atoms' groups."""
    model, sizes = checkpoint.build(), [checkpoint.config.sizes[f"atom_code_group_{i}"] for i in range(4)]
    table, found = model.heads["atom_codebook"].codes.detach(), []
    for _, g in map(decode, store.records(range(len(store)))):
        batch = batch_of([g])
        layout = Layout(batch.num_atoms, "cpu")
        with torch.no_grad():
            h = model.encode(batch, show_all(batch, layout, "2d"), layout)[0][layout.atom_tokens]
        groups = [{5: 0, 6: 1, 7: 2}.get(int(e), 3) for e in g.atom_features[:, 0]]
        each = [torch.cdist(x[None], table[sum(sizes[:q]) : sum(sizes[: q + 1])])[0].argmin() for x, q in zip(h, groups, strict=True)]
        found.append([sum(sizes[:q]) + int(code) for code, q in zip(each, groups, strict=True)])
    return found


def test_codes_of_a_store(store, tmp_path, capsys, monkeypatch):
    """Those of each molecule alone; counted; in parts and after a stop the same; whose they are; another model's are not gone on with."""
    model = telling(tmp_path, store)
    words = ["tokenize", str(model), str(store.path), "--no-progress"]
    monkeypatch.setattr("moleblend_fs.inference.codes.WINDOW", 7)
    assert main(words) == 0
    said = capsys.readouterr()
    sidecar = Sidecar(store, CODES)
    expected = codes_by_hand(load(model), store)
    assert [codes.tolist() for codes in sidecar.lists(range(60))] == expected
    counts = np.bincount(np.concatenate(expected), minlength=18)
    used = {entry.code: entry.count for entry in sidecar.manifest.vocabularies[CODES]}
    assert used == {code: int(n) for code, n in enumerate(counts) if n}
    assert len(used) > 8
    assert f"codes of the atoms of 60 molecules: {len(used)} of 18 are used" in said.out
    assert sidecar.manifest.columns[8:13] == ("N 0", "N 1", "N 2", "N 3", "O 0")
    assert sidecar.manifest.model_sha256 == identity(load(model))
    assert main(words) == 2
    assert "codes exists already; delete it first" in capsys.readouterr().err

    whole = {path.name: path.read_bytes() for path in sidecar.path.iterdir()}
    sidecar.path.rename(tmp_path / "whole")
    for part in ("1/2", "0/2"):
        assert main([*words, "--shard", part]) == 0
    assert main([*words, "--merge"]) == 0
    assert {path.name: path.read_bytes() for path in sidecar.path.iterdir()} == whole

    sidecar.path.rename(tmp_path / "merged")
    with monkeypatch.context() as stops:
        stops.setattr("moleblend_fs.inference.codes.WINDOW", 25)
        stops.setattr(Store, "records", fail_after(Store.records, 2))
        assert main(words) == 130
    other = tokenizer(tmp_path / "other", tokenizer_codes="9,4,4,2")
    assert main(["tokenize", str(other), *words[2:]]) == 2
    assert "begun for another store, or by another model" in capsys.readouterr().err
    assert main(words) == 0
    assert {path.name: path.read_bytes() for path in sidecar.path.iterdir()} == whole


def fail_after(records, calls):
    """A stop at a later call."""
    left = [calls]

    def read(store, indices):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return records(store, indices)

    return read


def test_what_cannot_be_tokenized_is_told(store, tmp_path, capsys):
    plain = pretrained(tmp_path / "plain", ())
    assert main(["tokenize", str(plain), str(store.path)]) == 2
    assert "not pretrained with --objective mole_bert_tokenizer" in capsys.readouterr().err
    good = tokenizer(tmp_path / "good")
    assert main(["tokenize", str(good), str(store.path), "--shard", "0/2", "--merge"]) == 2
    assert main(["tokenize", str(good), str(store.path), "--max-tokens", "0"]) == 2
    for line in capsys.readouterr().err.splitlines():
        assert line.startswith("moleblend tokenize: ")
    with pytest.raises(UserError, match=r"has no sidecar 'codes'; make it with `moleblend tokenize CHECKPOINT"):
        Sidecar(preprocessed(tmp_path / "b", "smiles", _smiles(tmp_path)), CODES)


def _smiles(folder):
    (folder / "b.smi").write_text("CCO\nCC\n")
    return str(folder / "b.smi")


def test_groups_of_one_code_are_told():
    used = [Entry(name=name, code=0, count=n) for name, n in (("C 1", 970), ("C 2", 30), ("N 0", 60), ("N 1", 50), ("O 3", 9))]
    (line,) = crowded(used)
    assert line.startswith("970 of 1,000 atoms of group C have one code")
    assert "--tokenizer-code-dropout 0.9" in line


@pytest.mark.slow
def test_both_stages(qm9_store, tmp_path):
    """A tokenizer that is trained, its codes, and training on them, of a model whose head has as many; resumed; first losses near ln K."""
    words = ["--task", "moleblend", "--criterion", "pretrain", "--arch", "moleblend_tiny", *SMALL, *ADAM, "--batch-size", "32"]
    first = [*words, "--objective", "mole_bert_tokenizer", "--tokenizer-codes", "20,6,6,2", "--max-update", "3"]
    train(qm9_store.path, tmp_path / "tokenizer", *first)
    checkpoint = tmp_path / "tokenizer" / "checkpoint_last.pt"
    shutil.copytree(qm9_store.path, tmp_path / "store", ignore=shutil.ignore_patterns("sidecars"))
    assert main(["tokenize", str(checkpoint), str(tmp_path / "store"), "--no-progress"]) == 0
    second = [*words, "--objective", "mole_bert", "--max-update", "2"]
    trained = train(tmp_path / "store", tmp_path / "second", *second)
    assert load(tmp_path / "second" / "checkpoint_last.pt").config.sizes == {"mole_bert_codes": 34}
    for name in ("light_code_loss", "heavy_code_loss"):
        assert abs(trained.column("train_inner", name)[0] - math.log(34)) < 0.5
    resumed = train(tmp_path / "store", tmp_path / "second", *second[:-1], "3")
    assert len(resumed.logged("train_inner")) == 1
