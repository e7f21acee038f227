"""Going on with a run on something else than it was trained on is refused, unless that is meant."""

import shutil

import pytest

from moleblend_fs.checkpoint.read import read_torch_file
from moleblend_fs.data.store import Store
from moleblend_fs.inference.checkpoint_fit import objective_differences
from moleblend_fs.objectives.denoise import Denoise
from tests.conftest import preprocessed
from tests.fairseq_plugins.runs import ADAM, FINETUNE, PRETRAIN, SMALL, Run, train
from tests.inference.test_checkpoint_fit import table

LABELS = ("--label", "e:regression:eV", "--label", "high:classification")
OPTIONS = (*FINETUNE, *SMALL, *ADAM, "--batch-size", "8", "--save-interval-updates", "1")


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> dict[str, Store]:
    """32 training molecules, and what somebody may take for the same."""
    folder = tmp_path_factory.mktemp("stores")
    source = table(folder / "e.csv")
    made = {name: ("csv", source, *LABELS, *options) for name, options in {"first": (), "seed": ("--split-seed", "1")}.items()}
    made["kcal"] = ("csv", table(folder / "kcal.csv", 23.06), "--label", "e:regression:kcal/mol")
    made["explicit"] = ("csv", source, *LABELS, "--hydrogens", "explicit")
    made["fractions"] = ("csv", source, *LABELS, "--split-fractions", "0.8,0.05,0.15")
    return {name: preprocessed(folder / name, *words) for name, words in made.items()}


@pytest.fixture(scope="module")
def begun(stores, tmp_path_factory) -> Run:
    """Six updates of four an epoch: one epoch and a half."""
    folder = tmp_path_factory.mktemp("begun")
    return train(stores["first"].path, folder, *OPTIONS, "--targets", "e", "--max-update", "6", "--lr", "5e-3")


def go_on(begun: Run, tmp_path, store: Store, *options: str) -> Run:
    """From a run's checkpoint, left as it is."""
    for path in begun.folder.glob("checkpoint_*.pt"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return train(store.path, tmp_path, *OPTIONS, "--targets", "e", "--max-update", "8", *options)


DIFFERENT = {
    "other seed": ("seed", (), ["another training split", "seed 0 in training", "seed 1 here"], "splits"),
    "other unit": ("kcal", (), ["other units (eV in training, kcal/mol here)", "other molecules, labels or structures"], "records,units"),
    "other hydrogens": ("explicit", (), ["heavy atoms only", "explicit hydrogens", "other molecules"], "hydrogens,records"),
    "other validation split": ("fractions", (), ["another validation split", "valid: 4", "valid: 2"], "splits"),
    "other training split": ("first", ("--train-subset", "test"), ["another training split", "train: 32", "test: 4"], "splits"),
    "other target": ("first", ("--targets", "high"), ["e (regression)", "high (classification)"], "targets"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_refused_and_gone_on_with_where_it_is_meant(begun, stores, tmp_path, name):
    store, options, parts, topics = DIFFERENT[name]
    before = {path.name: path.read_bytes() for path in begun.folder.glob("*.pt")}
    refused = go_on(begun, tmp_path, stores[store], *options)
    assert refused.code == 2
    message = next(line for line in refused.output.splitlines() if line.startswith("moleblend: error: "))
    for part in (*parts, "checkpoint_last.pt", str(stores[store].path), "another --save-dir", f"--allow-differences {topics}"):
        assert part in message
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")} == before
    meant = go_on(begun, tmp_path, stores[store], *options, "--allow-differences", topics)
    assert meant.code == 0
    assert "the next validation begins anew" in meant.output
    score = "roc_auc" if name == "other target" else "rmse"
    logged = meant.column("valid", f"valid_{score}")
    best = read_torch_file(tmp_path / "checkpoint_best.pt")["extra_state"]["best"]
    assert best == pytest.approx((max if score == "roc_auc" else min)(logged), abs=1e-4), "of this run alone"
    assert ("epoch 2 begins anew" in meant.output) == (name not in ("other target",))
    assert [values["num_updates"] for values in meant.logged("train_inner")] == ["7", "8"]


def test_the_same_store_elsewhere_goes_on(begun, stores, tmp_path):
    shutil.copytree(stores["first"].path, tmp_path / "moved")
    again = go_on(begun, tmp_path, Store(tmp_path / "moved"))
    assert again.code == 0
    assert "--allow-differences" not in again.output.replace("allow_differences", "")
    assert "begins anew" not in again.output


def test_other_inputs(awkward_store, tmp_path):
    options = (*FINETUNE, *SMALL, *ADAM, "--batch-size", "16", "--targets", "y")
    train(awkward_store.path, tmp_path / "a", *options, "--max-update", "1")
    refused = train(awkward_store.path, tmp_path / "a", *options, "--max-update", "2", "--inputs", "2d+3d")
    assert refused.code == 2
    assert "other inputs (2d in training, 2d+3d here)" in refused.output
    assert "--allow-differences inputs" in refused.output
    meant = ("--max-update", "2", "--inputs", "2d+3d", "--allow-differences", "inputs")
    assert train(awkward_store.path, tmp_path / "a", *options, *meant).code == 0


def test_pretraining_on_other_molecules(stores, tmp_path):
    flat = (*PRETRAIN, *SMALL, *ADAM, "--geometry-weight", "0", "--noise-weight", "0", "--batch-size", "16")
    train(stores["first"].path, tmp_path, *flat, "--max-update", "1")
    refused = train(stores["explicit"].path, tmp_path, *flat, "--max-update", "2")
    assert refused.code == 2
    assert "--allow-differences hydrogens,records" in refused.output
    assert train(stores["first"].path, tmp_path, *flat, "--max-update", "2").code == 0


def test_another_objective(stores, tmp_path):
    """Its options, its weight in a sum and what chooses the best checkpoint, which no head tells apart."""
    words = ("--task", "moleblend", "--criterion", "pretrain", "--arch", "moleblend_tiny", *SMALL, *ADAM, "--batch-size", "32")
    masked = (*words, "--objective", "attr_mask", "--attr-mask-rate", "0.3")
    train(stores["first"].path, tmp_path, *masked, "--max-update", "1")
    for options, part in (
        (("--attr-mask-rate", "0.2"), "--attr-mask-rate 0.3 in training, 0.2 here"),
        (("--objective-weights", "2"), "attr_mask with weight 1 in training, 2 here"),
    ):
        refused = train(stores["first"].path, tmp_path, *masked, "--max-update", "2", *options)
        assert (refused.code, part in refused.output) == (2, True)
        assert "--allow-differences objective" in refused.output
    meant = train(
        stores["first"].path, tmp_path, *masked, "--max-update", "2", "--attr-mask-rate", "0.2", "--allow-differences", "objective"
    )
    assert meant.code == 0
    assert "the next validation begins anew" in meant.output
    scored = ("--attr-mask-rate", "0.2", "--max-update", "3", "--best-checkpoint-metric", "weighted_loss")
    other = train(stores["first"].path, tmp_path, *masked, *scored)
    assert "the best score so far was by loss, and weighted_loss chooses now" in other.output
    again = train(stores["first"].path, tmp_path, *masked, *scored, "--max-update", "4")
    assert (again.code, "begins anew" in again.output) == (0, False)


def test_other_values_in_a_sidecar():
    """A checkpoint of an earlier version did not tell their hash."""
    facts = Denoise(Denoise.Options()).facts()
    for kept, found in (({"codes": "a"}, 0), ({"codes": "b"}, 1), ({}, 0)):
        differences = objective_differences({**facts, "sidecars": kept}, {**facts, "sidecars": {"codes": "a"}})
        assert [each.topic for each in differences] == ["objective"] * found
        assert ["sidecar 'codes' has other values" in each.text for each in differences] == [True] * found
    assert objective_differences(facts, {**facts, "sidecars": {"codes": "a"}}) == []
    assert objective_differences(None, facts) == []
