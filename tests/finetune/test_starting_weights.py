"""What finetuning starts from: weights by name, by path, none, and what is chosen where nothing is said."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from moleblend_fs.checkpoint import weights_by_name
from moleblend_fs.checkpoint.read import load
from moleblend_fs.checkpoint.write import save
from moleblend_fs.data.store import Store
from moleblend_fs.data.trained_on import TrainedOn
from moleblend_fs.errors import UserError
from moleblend_fs.finetune.estimators import MoleBlendRegressor
from moleblend_fs.finetune.members import starting_checkpoint
from moleblend_fs.finetune.progress import Progress
from moleblend_fs.finetune.recipes import OUTPUT_SCALE
from moleblend_fs.finetune.run import finetune, look
from moleblend_fs.finetune.settings import Settings
from moleblend_fs.finetune.starting_point import starting_point
from moleblend_fs.tuning.run import Wanted, absolute, searchable
from tests.finetune.conftest import QUICK
from tests.inference.untrained_models import untrained

ASKED = {**QUICK, "arch": "", "epochs": 1, "targets": ("logS",), "split": "random"}


@pytest.fixture
def weights(finetuned, tmp_path, monkeypatch) -> Path:
    """A folder with the weights `small`: of heavy atoms, never shown a structure, and of no shipped size."""
    checkpoint = load(untrained(tmp_path / "plain", readout="token+mean"))
    checkpoint.trained_on = TrainedOn.of(Store(finetuned.out / "store").manifest)
    checkpoint.finetuned, checkpoint.config = None, replace(checkpoint.config, heads=())
    checkpoint.weights = {name: value for name, value in checkpoint.weights.items() if not name.startswith("heads.")}
    save(checkpoint, tmp_path / "weights" / "small")
    monkeypatch.setattr(weights_by_name, "PACKAGED", tmp_path / "nothing")
    monkeypatch.setenv("MOLEBLEND_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def test_a_run_starts_from_the_default_and_says_so(weights, table, tmp_path, monkeypatch, capsys):
    outcome = finetune(table, tmp_path / "run", Settings(**ASKED), progress=Progress())
    assert "moleblend finetune: training from small\n" in capsys.readouterr().err
    assert outcome.began == "began with the weights small"
    assert json.loads((tmp_path / "run" / "model.json").read_text())["weights"] == "small"
    member = tmp_path / "run" / "members" / "fold0-member0"
    assert f"--finetune-from-model {weights / 'small'}" in (member / "command.sh").read_text()
    assert f"pretrained weights from {weights / 'small'}" in (member / "output.log").read_text()
    assert "<td>weights to begin with</td><td>small</td>" in (tmp_path / "run" / "report.html").read_text()
    config = load(member / "checkpoint_best.pt").config
    assert (config.embed_dim, config.readout, config.output_scale) == (16, "token+mean", OUTPUT_SCALE)
    look(table, tmp_path / "run", Settings(**ASKED | {"weights": "small"}))  # the same
    with pytest.raises(UserError, match="--weights small there, none here"):
        look(table, tmp_path / "run", Settings(**ASKED | {"weights": "none"}))
    monkeypatch.delenv("MOLEBLEND_WEIGHTS")
    with pytest.raises(UserError, match="--weights small there, none here"):
        look(table, tmp_path / "run", Settings(**ASKED))


def test_the_last_layer_begins_as_a_linear_model_where_that_is_asked_for(weights, table, tmp_path):
    finetune(table, tmp_path / "run", Settings(**ASKED | {"head_start": "ridge"}), progress=Progress())
    member = tmp_path / "run" / "members" / "fold0-member0"
    assert "--head-start ridge" in (member / "command.sh").read_text()
    assert "the property head's last layer begins as a linear model on" in (member / "output.log").read_text()
    assert load(member / "checkpoint_best.pt").config.output_scale == 1
    with pytest.raises(UserError, match="--head-start ridge needs pretrained --weights"):
        Settings(**ASKED | {"head_start": "ridge", "weights": "none"})


def test_a_run_of_an_earlier_version_goes_on_from_random_weights(weights, finetuned, table, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finetuned.out, folder)
    request = json.loads((folder / "request.json").read_text())
    request["settings"]["weights"] = ""
    (folder / "request.json").write_text(json.dumps(request))
    settings = Settings(**QUICK | {"ensemble": 2}, targets=("logS",), split="random")
    look(table, folder, settings)


def test_what_is_said_is_what_is_taken(weights, finetuned, table):
    plain = Settings(**ASKED)
    assert plain.with_weights().weights == "small"
    assert plain.with_weights().start == weights / "small"
    assert not plain.pretrained
    for why, changes in {
        "": {"weights": "none"},
        ": small is of another size than --arch tiny": {"arch": "tiny"},
        ": small was pretrained without hydrogens as atoms": {"hydrogens": "explicit"},
        ": small was never shown a structure, which --inputs 2d+3d reads": {"inputs": "2d+3d"},
    }.items():
        chosen = replace(plain, **changes).with_weights()
        assert (chosen.weights, chosen.start, starting_checkpoint(chosen)) == ("none", None, None), changes
        found = starting_point(table, replace(plain, **changes))
        assert (found.settings, found.name, found.told) == (chosen, "random weights", f"began with random weights{why}")
        assert found.hydrogens == changes.get("hydrogens", "none")
    assert plain.with_weights("explicit").weights == "none", "as the molecules of a store are"
    path = str(weights / "small")
    assert replace(plain, weights=path).with_weights().weights == path
    with pytest.raises(UserError, match=r"--arch tiny, but --weights small are of --arch moleblend_base --layers 2 .* --weights none"):
        look(table, finetuned.out.parent / "never", replace(plain, weights="small", arch="tiny"))
    with pytest.raises(UserError, match=r"--hydrogens explicit, but --weights small were trained without .* out, or give --weights none"):
        look(table, finetuned.out.parent / "never", replace(plain, weights="small", hydrogens="explicit"))
    with pytest.raises(UserError, match=r"--inputs 2d\+predicted3d, but --weights small have no head .* or other inputs"):
        look(table, finetuned.out.parent / "never", replace(plain, weights="small", inputs="2d+predicted3d"))
    with pytest.raises(UserError, match="no weights of that name; names that there are: small"):
        look(table, finetuned.out.parent / "never", replace(plain, weights="large"))
    assert not (finetuned.out.parent / "never").exists()


def test_with_nothing_said_it_is_what_comes_with_the_package(table, monkeypatch):
    """Random weights where nothing does; what the package's are told to be is their card's."""
    monkeypatch.delenv("MOLEBLEND_WEIGHTS", raising=False)
    found = starting_point(table, Settings())
    if not (weights_by_name.PACKAGED / "small").exists():
        assert (found.name, found.told) == ("random weights", "began with random weights")
        return
    card = load("small").card
    molecules, objective = sum(store.molecules for store in card.stores), card.objectives[0]["name"]
    assert (found.name, found.settings.weights, found.hydrogens) == ("small", "small", "none")
    assert found.told == f"began with the weights small (moleblend inspect small), pretrained on {molecules:,} molecules by {objective}"


def test_options_say_the_same_again(weights):
    assert "--weights" not in Settings(**ASKED).words()
    words = Settings(**ASKED).with_weights().words()
    assert words[words.index("--weights") + 1] == "small"
    words = Settings(**ASKED | {"arch": "tiny"}).with_weights().words()
    assert words[words.index("--weights") + 1] == "none"


def test_a_search_over_sizes_starts_from_nothing(weights, monkeypatch, tmp_path):
    plain = Settings(**ASKED)
    assert searchable(plain, Wanted(space=("arch=tiny,small",))).weights == "none"
    assert searchable(plain, Wanted(space=("lr=1e-4,1e-3",))).weights == ""
    with pytest.raises(UserError, match="the size is that of --weights"):
        searchable(replace(plain, weights="small"), Wanted(space=("arch=tiny,small",)))
    monkeypatch.chdir(tmp_path)
    assert absolute(replace(plain, weights="small")).weights == "small"
    assert absolute(replace(plain, weights="weights/small")).weights == str(tmp_path / "weights" / "small")
    assert absolute(replace(plain, weights="none")).weights == "none"


def test_estimators_take_names(weights):
    with pytest.raises(UserError, match="huge: no such checkpoint, and no weights of that name; names that there are: small"):
        MoleBlendRegressor(weights="huge", epochs=1).fit(["CCO", "CCC", "CCN", "CCCC"] * 4, range(16))
