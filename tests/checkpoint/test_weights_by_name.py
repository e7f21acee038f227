"""Published weights: written from a checkpoint of pretraining, found by name, checked by their sums, and chosen where they fit."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from moleblend_fs import Embedder
from moleblend_fs.checkpoint import weights_by_name
from moleblend_fs.checkpoint.publish import published
from moleblend_fs.checkpoint.read import load
from moleblend_fs.checkpoint.weights_by_name import default_weights, located
from moleblend_fs.checkpoint.write import save
from moleblend_fs.cli.convert import LARGEST
from moleblend_fs.cli.main import main
from moleblend_fs.errors import UserError
from tests.fairseq_plugins.runs import ADAM, PRETRAIN, SMALL, train

SMILES = ["CCO", "c1ccccc1O", "CC(=O)NC", "CCCCCCN"]


@pytest.fixture(scope="module")
def pretrained(qm9_store, tmp_path_factory) -> Path:
    """A checkpoint of three updates from QM9, with hydrogens and structures."""
    folder = tmp_path_factory.mktemp("pretrained")
    options = (*PRETRAIN, *ADAM, *SMALL, "--batch-size", "16", "--max-update", "3", "--disable-validation")
    assert train(qm9_store.path, folder, *options).code == 0
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def written(pretrained, tmp_path_factory) -> Path:
    """A folder with the weights `small`, and what convert said."""
    folder = tmp_path_factory.mktemp("weights")
    assert main(["convert", str(pretrained), str(folder / "small"), "--half", "--limit", "A toy.", "--note", "Loss 5."]) == 0
    return folder


@pytest.fixture
def weights(written, monkeypatch) -> Path:
    """The same, where names are looked for, as if nothing came with the package."""
    monkeypatch.setattr(weights_by_name, "PACKAGED", written / "nothing")
    monkeypatch.setenv("MOLEBLEND_WEIGHTS", f"{written / 'absent'}{os.pathsep}{written}")
    return written


def test_the_encoder_is_kept_in_half_and_read_in_float32(pretrained, weights):
    whole, found, kept = load(pretrained), load("small"), load_file(weights / "small" / "model.safetensors")
    assert {path.stat().st_mode & 0o777 for path in (weights / "small").iterdir()} == {0o644}, "others may read them"
    assert {value.dtype for value in kept.values()} == {torch.float16}
    assert {name for name in whole.weights if not name.startswith("heads.")} == set(kept) == set(found.weights)
    for name, value in found.weights.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, whole.weights[name].half().float()), name
    assert found.config == replace(whole.config, heads=())
    assert found.build().heads.keys() == set()


def test_the_card_is_made_from_the_run(pretrained, qm9_store, weights):
    card = load("small").card
    (store,) = card.stores
    assert (store.source, store.molecules) == ("qm9", qm9_store.manifest.splits["train"].molecules)
    assert store.records_sha256 == qm9_store.manifest.records_sha256
    assert store.inputs == qm9_store.manifest.inputs
    assert store.options["hydrogens"] == qm9_store.manifest.options["hydrogens"]
    assert [each["name"] for each in card.objectives] == ["blend_then_predict"]
    assert (card.updates, card.molecules_per_update, card.learning_rate) == (3, 16, 1e-3)
    assert card.seconds > 0
    assert card.dropped == ("spd", "edge", "displacement", "noise")
    assert card.notes == ("Loss 5.",)
    assert card.limits[-1] == "A toy."
    assert card.licence == "Apache-2.0"


def test_float16_changes_embeddings_less_than_bfloat16(pretrained, tmp_path):
    """By about its three more bits of mantissa; the reason for the choice."""
    whole = load(pretrained)
    found = {}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        path = tmp_path / str(dtype)
        save(replace(whole, weights={name: 4 * value.to(dtype).float() for name, value in whole.weights.items()}), path)
        with Embedder(path, workers=0, tell=lambda line: None) as embedder:
            found[dtype] = embedder(SMILES, "mean")
    half, bf = (abs(found[dtype] - found[torch.float32]).mean() for dtype in (torch.float16, torch.bfloat16))
    assert 0 < 4 * half < bf


def test_inspect_shows_the_card(weights, tmp_path, capsys):
    assert main(["inspect", "small", "--html", str(tmp_path / "card.html"), "--verify"]) == 0
    out, page = capsys.readouterr().out, (tmp_path / "card.html").read_text()
    for text in ("blend_then_predict", "A toy.", "Loss 5.", "Apache-2.0", "float16", "3 updates of 16 molecules at most", "With hydrogens"):
        assert text in out
        assert text in page
    assert "SHA-256 that was written" in out
    assert main(["inspect", "small", "--molecules", "2"]) == 2


def test_doctor_lists_them(weights, monkeypatch, capsys):
    assert main(["doctor"]) == 0
    size = sum(path.stat().st_size for path in (weights / "small").iterdir())
    assert f"weights          small: {size / 1e6:.1f} MB, as they were written, in {weights / 'small'}" in capsys.readouterr().out
    monkeypatch.delenv("MOLEBLEND_WEIGHTS")
    assert main(["doctor"]) == 0
    assert "weights          none that come with the package or lie in a folder of MOLEBLEND_WEIGHTS" in capsys.readouterr().out


def test_an_unknown_name_lists_those_that_there_are(weights, capsys):
    for words in (["embed", "huge", "out.npy", "--smiles", "CCO"], ["predict", "huge", "--smiles", "CCO"]):
        assert main(words) == 2
        told = capsys.readouterr().err
        assert "huge: no such checkpoint, and no weights of that name; names that there are: small (in the package, and in " in told
        assert f"{weights / 'absent'} (no such folder), {weights}" in told


def test_names_are_words_and_paths_are_paths(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert located("small") == weights / "small"
    assert located("./small") == Path("small")
    assert located(Path("small")) == Path("small")
    assert located("gone.pt") == Path("gone.pt")
    (tmp_path / "own").mkdir()
    assert located("own") == Path("own")
    (tmp_path / "small").mkdir()
    with pytest.raises(UserError, match=r"small: there are weights of this name \(.*for the latter give ./small"):
        located("small")


def test_the_package_comes_before_the_folders(weights, tmp_path, monkeypatch):
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text("{}")
    monkeypatch.setattr(weights_by_name, "PACKAGED", tmp_path)
    assert located("small") == tmp_path / "small"


def test_weights_that_are_not_as_they_were_written_are_refused(weights, tmp_path, monkeypatch, capsys):
    """Even where checksums of other files are not compared."""
    monkeypatch.setenv("MOLEBLEND_VERIFY", "0")
    monkeypatch.setenv("MOLEBLEND_WEIGHTS", str(tmp_path))
    save(load(weights / "small"), tmp_path / "small")
    tensors = load_file(tmp_path / "small" / "model.safetensors")
    tensors["encoder.embedding_norm.bias"] += 0.5
    save_file(tensors, tmp_path / "small" / "model.safetensors")
    assert main(["embed", "small", str(tmp_path / "out.npy"), "--smiles", "CCO"]) == 2
    told = capsys.readouterr().err
    assert "damaged: model.safetensors is not as it was written (its SHA-256 is another); copy it again" in told
    monkeypatch.setattr(weights_by_name, "PACKAGED", tmp_path)
    monkeypatch.setattr("moleblend_fs.checkpoint.read.PACKAGED", tmp_path)
    again = r"; install the package again \(pip install .*\), or give --weights none$"
    with pytest.raises(UserError, match=r"of the package are not whole \(damaged: model.safetensors is .* is another\)\)" + again) as error:
        load("small")
    main(["doctor"])
    assert f"weights          small: {error.value}" in capsys.readouterr().out
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    del config["sha256"]
    (tmp_path / "small" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="published weights without their sums.*" + again):
        load("small")
    for name in ("model.safetensors", "config.json"):
        shutil.copytree(weights / "small", tmp_path / "small", dirs_exist_ok=True)
        (tmp_path / "small" / name).unlink()
        with pytest.raises(UserError, match=f"not whole .*No such file or directory: .*{name}.*" + again):
            load("small")


def test_what_cannot_be_published_is_refused(pretrained, written, tmp_path, capsys):
    """Other stores, checkpoints that do not know their pretraining, and numbers beyond the range of 16 bits."""
    from moleblend_fs.checkpoint.read import read_torch_file

    with pytest.raises(UserError, match=r"for checkpoints .* of pretraining by `moleblend train`"):
        published(written / "small")
    with pytest.raises(UserError, match="say where they are: --data A:B"):
        published(pretrained, data=str(tmp_path / "gone"))
    content = read_torch_file(pretrained)
    name = next(name for name in content["model"] if name.endswith("embedding_norm.bias"))
    content["model"][name][0] = 1e5
    torch.save(content, tmp_path / "large.pt")
    with pytest.raises(UserError, match=r"embedding_norm.bias cannot be kept in 16 bits: its largest number is 1e\+05"):
        published(tmp_path / "large.pt")
    assert main(["convert", str(pretrained), str(tmp_path / "out"), "--note", "x"]) == 2
    assert "give --half too" in capsys.readouterr().err


def test_the_default_is_what_fits(weights, tmp_path, monkeypatch):
    """No weights, weights of another size or hydrogens, or that were never shown what is to be read: none."""
    asked = {"arch": "", "hydrogens": "", "inputs": "2d"}
    assert default_weights(**asked) == ("small", "")
    assert default_weights(**asked | {"hydrogens": "explicit", "inputs": "2d+3d"}) == ("small", "")
    # They are called so, but are of the size of tests.
    assert default_weights(**asked | {"arch": "small"}) == ("none", "small is of another size than --arch small")
    assert default_weights(**asked | {"hydrogens": "none"}) == ("none", "small was pretrained with hydrogens as atoms")
    config = json.loads((weights / "small" / "config.json").read_text())
    config["trained_on"]["molecules_with_3d"] = 0
    config["config"] |= {"layers": 3, "embed_dim": 64, "ffn_dim": 64, "attention_heads": 4, "gaussians": 32}
    monkeypatch.setenv("MOLEBLEND_WEIGHTS", str(tmp_path))
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text(json.dumps(config))
    assert default_weights(**asked | {"arch": "tiny"}) == ("small", "")
    assert default_weights(**asked | {"arch": "small"})[0] == "none"
    assert default_weights(**asked | {"inputs": "3d"}) == ("none", "small was never shown a structure, which --inputs 3d reads")
    (tmp_path / "small" / "config.json").write_text("{")
    assert default_weights(**asked) == ("small", ""), "and reading them says what is wrong with them"
    (tmp_path / "small" / "config.json").rename(tmp_path / "small" / "model.safetensors")
    assert default_weights(**asked) == ("small", ""), "here too"
    monkeypatch.delenv("MOLEBLEND_WEIGHTS")
    assert default_weights(**asked) == ("none", "")


@pytest.mark.parametrize("name", sorted(path.parent.name for path in weights_by_name.PACKAGED.glob("*/config.json")))
def test_what_comes_with_the_package(name, monkeypatch):
    """Small enough, whole, with a card that names what was kept out of the pretraining."""
    monkeypatch.delenv("MOLEBLEND_WEIGHTS", raising=False)
    found = load(name)
    folder = weights_by_name.PACKAGED / name
    assert sum(path.stat().st_size for path in folder.iterdir()) <= LARGEST
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    excluded = [set(store.options["exclude"]["sets"]) for store in found.card.stores]
    assert all({"esol", "freesolv", "lipo", "bbbp", "bace", "clintox"} <= {each.split(".")[0] for each in sets} for sets in excluded)
