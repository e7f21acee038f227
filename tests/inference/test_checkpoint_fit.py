"""What a checkpoint was trained on is in it, and is compared with the store that it is used on: evaluate, predict, embeddings, finetuning.

Going on with a run: tests/fairseq_plugins/test_other_store.py.
"""

import json
import shutil

import pytest
import torch

from moleblend_fs.checkpoint.read import load
from moleblend_fs.cli.main import main
from moleblend_fs.data.store import Store
from moleblend_fs.data.trained_on import TrainedOn
from moleblend_fs.errors import UserError
from moleblend_fs.inference.checkpoint_fit import TOPICS, parse_allowed
from tests.conftest import preprocessed
from tests.fairseq_plugins.runs import ADAM, FINETUNE, PRETRAIN, SMALL, Run, train

CHAINS = ["C" * n + end for n in range(1, 9) for end in ("O", "N", "Cl", "C(=O)O", "c1ccccc1")]
"""40 molecules."""


def table(path, unit: float = 1.0, molecules=CHAINS):
    """A file with an energy of each molecule, in eV by default, and a class."""
    values = [0.1 * len(s) + 0.37 * (s.count("O") - s.count("N")) for s in molecules]
    rows = [f"{s},{value * unit!r},{len(s) % 2}" for s, value in zip(molecules, values, strict=True)]
    path.write_text("smiles,e,high\n" + "\n".join(rows) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("comparison")


@pytest.fixture(scope="module")
def store(folder) -> Store:
    """Heavy atoms, energies in eV."""
    return preprocessed(folder / "eV", "csv", table(folder / "eV.csv"), "--label", "e:regression:eV", "--label", "high:classification")


@pytest.fixture(scope="module")
def explicit(folder, store) -> Store:
    """The same file with explicit hydrogens."""
    return preprocessed(folder / "explicit", "csv", str(folder / "eV.csv"), "--label", "e:regression:eV", "--hydrogens", "explicit")


def tuned(store: Store, folder, *options: str) -> Run:
    return train(store.path, folder, *FINETUNE, *SMALL, *ADAM, "--batch-size", "16", "--max-epoch", "1", "--lr", "5e-3", *options)


@pytest.fixture(scope="module")
def model(store, folder) -> str:
    return str(tuned(store, folder / "model", "--targets", "e").folder / "checkpoint_last.pt")


@pytest.fixture(scope="module")
def pretrained(explicit, folder) -> str:
    flat = ("--geometry-weight", "0", "--noise-weight", "0", "--batch-size", "16", "--max-update", "1")
    return str(train(explicit.path, folder / "pretrained", *PRETRAIN, *SMALL, *ADAM, *flat).folder / "checkpoint_last.pt")


def said(capsys, words: list[str], code: int) -> str:
    """What a command says on stderr."""
    capsys.readouterr()
    assert main(words) == code, capsys.readouterr()
    return capsys.readouterr().err


def scores(capsys, model: str, store: Store, out, *options: str) -> dict:
    said(capsys, ["evaluate", model, str(store.path), "--json", str(out), *options], 0)
    return json.loads(out.read_text())


def test_it_is_in_the_checkpoint_and_in_the_folder(model, pretrained, store, explicit, tmp_path):
    expected = TrainedOn.of(store.manifest, train_subset="train", valid_subset="valid")
    assert load(model).trained_on == expected
    assert (expected.hydrogens, expected.structures, expected.labels[0].unit) == ("none", "none", "eV")
    assert main(["convert", model, str(tmp_path / "ours")]) == 0
    assert load(tmp_path / "ours").trained_on == expected
    assert load(pretrained).trained_on == TrainedOn.of(explicit.manifest, train_subset="train", valid_subset="valid")


@pytest.mark.parametrize("command", [["evaluate"], ["predict", "OUT.csv"], ["predict", "OUT.npy", "--embeddings", "2d"]])
def test_hydrogens_that_the_model_was_not_trained_on(model, explicit, tmp_path, capsys, command):
    name, *rest = [str(tmp_path / word) if word.startswith("OUT") else word for word in command]
    words = [name, model, str(explicit.path), *rest]
    message = said(capsys, words, 2)
    assert message.count("\n") == 1
    for part in (model, str(explicit.path), "heavy atoms only", "explicit hydrogens", "--hydrogens none", "--allow-differences hydrogens"):
        assert part in message
    assert list(tmp_path.iterdir()) == []
    message = said(capsys, [*words, "--allow-differences", "hydrogens"], 0)
    assert "differs from" in message
    assert "explicit hydrogens" in message


def test_finetuning_from_other_hydrogens(pretrained, store, tmp_path):
    options = ("--targets", "e", "--finetune-from-model", pretrained)
    refused = tuned(store, tmp_path / "a", *options)
    assert refused.code == 2
    for part in (pretrained, "explicit hydrogens", "heavy atoms only", "pretrained with --hydrogens none", "--allow-differences hydrogens"):
        assert part in refused.output
    meant = tuned(store, tmp_path / "b", *options, "--allow-differences", "hydrogens")
    assert meant.code == 0
    assert "as --allow-differences says" in meant.output


def test_features_of_another_version(model, store, tmp_path, capsys):
    content = torch.load(model, weights_only=True)
    content["extra_state"]["moleblend"]["trained_on"]["featurisation"] += 1
    torch.save(content, tmp_path / "later.pt")
    message = said(capsys, ["evaluate", str(tmp_path / "later.pt"), str(store.path)], 2)
    assert "features of version" in message
    assert "--allow-differences featurisation" in message


def test_another_unit_that_can_be_converted(model, store, folder, tmp_path, capsys):
    """The same molecules with energies in kcal/mol: the same scores, in the model's eV."""
    other = preprocessed(tmp_path / "kcal", "csv", table(tmp_path / "kcal.csv", 1 / 0.043364104241801), "--label", "e:regression:kcal/mol")
    capsys.readouterr()
    assert main(["evaluate", model, str(other.path), "--json", str(tmp_path / "b.json")]) == 0
    err = capsys.readouterr().err
    assert "from kcal/mol into the model's eV: multiplied by 0.0433641" in err
    ours, theirs = scores(capsys, model, store, tmp_path / "a.json"), json.loads((tmp_path / "b.json").read_text())
    assert theirs["units"] == {"e": "eV"}
    for part in ("metrics", "baseline"):
        for name in ("mae", "rmse"):
            assert theirs[part]["e"][name] == pytest.approx(ours[part]["e"][name], rel=1e-6)
    targets = [[row["target"][0] for row in each["predictions"]] for each in (ours, theirs)]
    assert targets[0] == pytest.approx(targets[1], rel=1e-6)


@pytest.mark.parametrize(
    ("label", "part"),
    [("e:regression:log eV", "'e' is in eV in the model, in log eV in the store"), ("e", "in eV in the model, in a unit that is not told")],
)
def test_another_unit_that_cannot(model, tmp_path, capsys, label, part):
    other = preprocessed(tmp_path / "s", "csv", table(tmp_path / "t.csv"), "--label", label)
    message = said(capsys, ["evaluate", model, str(other.path)], 2)
    for each in (part, "--label 'e:regression:eV'", "--allow-differences units"):
        assert each in message
    said(capsys, ["predict", model, str(other.path), str(tmp_path / "p.csv")], 0)
    assert main(["evaluate", model, str(other.path), "--allow-differences", "units"]) == 0


def test_another_kind(store, tmp_path, capsys):
    """No flag makes classes of numbers."""
    model = str(tuned(store, tmp_path / "m", "--targets", "high").folder / "checkpoint_last.pt")
    other = preprocessed(tmp_path / "s", "csv", table(tmp_path / "t.csv"), "--label", "high:regression")
    message = said(capsys, ["evaluate", model, str(other.path)], 2)
    assert "'high' is a classification of the model, a regression in the store" in message
    assert "--allow-differences" not in message


def test_structures_of_another_kind(qm9_store, tmp_path, capsys):
    """A model of DFT structures, read from 2D+3D; its 2D representations do not depend on the structures."""
    model = str(tuned(qm9_store, tmp_path / "m", "--targets", "gap", "--inputs", "2d+3d").folder / "checkpoint_last.pt")
    made = preprocessed(
        tmp_path / "s", "csv", table(tmp_path / "t.csv", molecules=CHAINS[:6]), "--hydrogens", "explicit", "--conformers", "1"
    )
    words = ["predict", model, str(made.path), str(tmp_path / "out.npy"), "--embeddings"]
    message = said(capsys, [*words, "2d+3d"], 2)
    for part in ("structures of DFT", "structures of ETKDG", "--inputs 2d", "--allow-differences structures"):
        assert part in message
    said(capsys, [*words, "2d"], 0)
    said(capsys, [*words, "2d+3d", "--allow-differences", "structures"], 0)


def test_test_molecules_that_were_trained_on(model, store, folder, tmp_path, capsys):
    """The same file split with another seed; another file with the same name is no reason to refuse."""
    label = ("--label", "e:regression:eV")
    resplit = preprocessed(tmp_path / "seed", "csv", str(folder / "eV.csv"), *label, "--split-seed", "1")
    message = said(capsys, ["evaluate", model, str(resplit.path)], 2)
    for part in ("random, seed 0 in training, random, seed 1 here", "split 'test'", "--allow-differences splits"):
        assert part in message
    assert main(["evaluate", model, str(resplit.path), "--allow-differences", "splits"]) == 0
    again = tuned(resplit, tmp_path / "again", "--targets", "e", "--finetune-from-model", model)
    assert again.code == 2
    assert "--allow-differences splits" in again.output
    other = preprocessed(tmp_path / "other", "csv", table(tmp_path / "eV.csv", molecules=CHAINS[::-1]), *label, "--split-seed", "1")
    assert main(["evaluate", model, str(other.path)]) == 0
    shutil.copytree(store.path, tmp_path / "moved")
    assert main(["evaluate", model, str(tmp_path / "moved"), "--split", "train"]) == 0


def test_a_checkpoint_of_an_earlier_version(model, store, explicit, tmp_path, capsys):
    content = torch.load(model, weights_only=True)
    del content["extra_state"]["moleblend"]["trained_on"]
    torch.save(content, tmp_path / "old.pt")
    message = said(capsys, ["evaluate", str(tmp_path / "old.pt"), str(explicit.path)], 0)
    assert message.count("\n") == 1
    assert "old.pt does not say what it was trained on" in message
    run = tuned(store, tmp_path / "run", "--targets", "e", "--finetune-from-model", str(tmp_path / "old.pt"))
    assert run.code == 0
    assert run.output.count("does not say what it was trained on") == 1


def test_differences_have_names():
    assert parse_allowed(" units, splits") == {"units", "splits"}
    assert parse_allowed("") == parse_allowed(None) == frozenset()
    with pytest.raises(UserError, match=f"no difference is called 'colour'; there are {', '.join(TOPICS)}"):
        parse_allowed("units,colour")


def test_what_is_damaged_is_told(model, tmp_path):
    for change in ({"labels": 3}, {"splits": [1]}, {"labels": [{"name": "x"}]}):
        content = torch.load(model, weights_only=True)
        content["extra_state"]["moleblend"]["trained_on"] |= change
        torch.save(content, tmp_path / "damaged.pt")
        with pytest.raises(UserError, match=r"damaged\.pt"):
            load(tmp_path / "damaged.pt")
