"""Checkpoint files: round trip, and refusal of files that would run code or are something else."""

import collections
import dataclasses
import json
import os
import pickle

import numpy as np
import pytest
import torch

from moleblend_fs.checkpoint.read import Checkpoint, FinetunedFor, load, load_weights
from moleblend_fs.checkpoint.write import save
from moleblend_fs.errors import UserError
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.moleblend import MoleBlend

DAMAGED = 150
CONFIG = ModelConfig(layers=2, embed_dim=12, ffn_dim=10, attention_heads=3, gaussians=5, heads=("property",), tasks=2)
ABOUT = FinetunedFor(inputs="2d", targets=("a", "b"), kinds=("regression",) * 2, units=("eV", ""), mean=(1.5, 0.0), std=(2.0, 1.0))


class Malicious:
    """Unpickling this would create a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_folder_round_trip(tmp_path):
    model = MoleBlend(CONFIG)
    save(Checkpoint(config=CONFIG, weights=model.state_dict(), finetuned=ABOUT, about={"note": "x"}), tmp_path / "m")
    read = load(tmp_path / "m")
    assert (read.config, read.finetuned, read.about["note"]) == (CONFIG, ABOUT, "x")
    built = read.build().state_dict()
    assert built.keys() == model.state_dict().keys()
    assert all(torch.equal(value, built[name]) for name, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["torch", "legacy torch", "plain pickle", "inside the weights"])
def test_malicious_pickle_is_refused_and_not_run(tmp_path, form):
    trap, path = tmp_path / "trap", tmp_path / "evil.pt"
    content = {"model": {"encoder.x": torch.zeros(2)}, "args": Malicious(trap)}
    if form == "inside the weights":
        content = {"model": {"encoder.x": Malicious(trap)}}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form != "legacy torch")
    reason = "what torch's own checkpoints do not" if form == "plain pickle" else "asks for posix.mkdir"
    with pytest.raises(UserError, match=rf"evil\.pt: refused, since reading it could run code \(it .*{reason}\)\. Convert it where"):
        load(path)
    assert not trap.exists()
    torch.load(path, weights_only=False) if form != "plain pickle" else pickle.loads(path.read_bytes())
    assert trap.exists(), "the trap would not have sprung anyway"


def test_what_is_no_checkpoint_is_told(tmp_path):
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "folder").mkdir()
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"model": {"x": torch.zeros(1)}}, tmp_path / "other.pt")
    whole = tmp_path / "whole.pt"
    torch.save({"model": {"x": torch.zeros(10_000)}}, whole)
    (tmp_path / "truncated.pt").write_bytes(whole.read_bytes()[:20_000])
    for name, message in {
        "absent.pt": "no such checkpoint",
        "folder": "not a checkpoint folder",
        "list.pt": "not a checkpoint",
        "other.pt": "neither a MoleBlend checkpoint nor one of the reference release",
        "text.pt": "not a readable torch checkpoint: it begins with b'hello'; give a",
        "truncated.pt": "not a readable torch checkpoint",
    }.items():
        with pytest.raises(UserError, match=f"{name}: .*({message})"):
            load(tmp_path / name)


def test_weights_of_another_shape_or_missing_are_told(tmp_path):
    model = MoleBlend(CONFIG)
    wider = MoleBlend(ModelConfig(**{**vars(CONFIG), "embed_dim": 15}))
    with pytest.raises(UserError, match=r"file: a checkpoint of another architecture: atoms.graph_token is \(15,\) there, \(12,\) here"):
        load_weights(model, wider.state_dict(), where="file", strict=False)
    weights = model.state_dict()
    del weights["relations.gaussian_means"]
    with pytest.raises(UserError, match=r"file: lacks 1 parameter of this model, e\.g\. relations\.gaussian_means"):
        load_weights(model, weights, where="file", strict=True)
    assert load_weights(model, weights, where="file", strict=False) == ["relations.gaussian_means"]


def test_a_truncated_weight_file_and_damaged_json_are_told(tmp_path):
    save(Checkpoint(config=CONFIG, weights=MoleBlend(CONFIG).state_dict()), tmp_path / "m")
    weights, config = tmp_path / "m" / "model.safetensors", tmp_path / "m" / "config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="m: not a checkpoint folder"):
        load(tmp_path / "m")
    weights.write_bytes(whole)
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "config": {**content["config"], "layers": "many"}}))
    with pytest.raises(UserError, match="m: not a checkpoint folder"):
        load(tmp_path / "m")


def test_numpy_numbers_in_a_checkpoint_are_admitted(tmp_path):
    """fairseq stores the best score as whatever type a metric had."""
    path = tmp_path / "n.pt"
    torch.save({"model": {"x": torch.zeros(1)}, "extra_state": {"best": np.float64(0.5)}}, path)
    with pytest.raises(UserError, match="neither a MoleBlend checkpoint"):
        load(path)


def saved(path):
    save(Checkpoint(config=CONFIG, weights=MoleBlend(CONFIG).state_dict(), finetuned=ABOUT, about={"note": "x"}), path)
    return path


def test_one_changed_byte_of_a_folder_is_told(tmp_path, monkeypatch):
    """In the weights, or a digit of the mean that predictions are scaled by."""
    weights, config = saved(tmp_path / "m") / "model.safetensors", tmp_path / "m" / "config.json"
    whole, text = weights.read_bytes(), config.read_text()
    weights.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    with pytest.raises(UserError, match=r"damaged: model\.safetensors is not as it was written \(its SHA-256 is another\); copy it again"):
        load(tmp_path / "m")
    monkeypatch.setenv("MOLEBLEND_VERIFY", "0")
    load(tmp_path / "m")
    monkeypatch.delenv("MOLEBLEND_VERIFY")
    weights.write_bytes(whole)
    config.write_text(text.replace("1.5", "1.6"))
    with pytest.raises(UserError, match=r"damaged: config\.json is not as it was written \(its SHA-256 is another\); copy it again"):
        load(tmp_path / "m")
    content = json.loads(text)
    del content["sha256"]
    config.write_text(json.dumps(content))
    assert load(tmp_path / "m").finetuned == ABOUT, "folders of earlier versions have no checksums"


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("config", {"layers": 10**9}, "layers, but"),
        ("config", {"embed_dim": 3 * 10**6}, r"but the model's is \("),
        ("config", {"layers": 2.0}, r"config\.layers is 2\.0, not of type int"),
        ("config", {"more": 1}, "config lacks, or should not have: more"),
        ("config", {"dropout": 2.0}, r"--dropout must lie in \[0, 1\)"),
        ("finetuned", {"mean": [1.5]}, "of each of its 2 outputs"),
        ("finetuned", {"std": [float("nan"), 1.0]}, "that outputs are scaled by is no finite number"),
        ("finetuned", {"targets": "ab"}, r"finetuned\.targets is"),
    ],
)
def test_a_description_that_is_not_the_weights_is_told(tmp_path, part, value, message):
    """Before a model of that size is made."""
    path = saved(tmp_path / "m") / "config.json"
    content = json.loads(path.read_text())
    del content["sha256"]
    path.write_text(json.dumps({**content, part: content[part] | value}))
    with pytest.raises(UserError, match=rf"m: not a checkpoint folder.*{message}"):
        load(tmp_path / "m")


def fairseq_file(path, **changes):
    """As fairseq-train leaves it."""
    about = {"config": vars(CONFIG), "finetuned": dataclasses.asdict(ABOUT)}
    content = {
        "model": {f"model.{name}": value for name, value in MoleBlend(CONFIG).state_dict().items()},
        "extra_state": {"moleblend": about},
        "optimizer_history": [{"num_updates": 7}],
    }
    torch.save({**content, **changes}, path)
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"extra_state": None},
        {"extra_state": {"moleblend": 3}},
        {"extra_state": {"moleblend": {"config": {}}}},
        {"extra_state": {"moleblend": {"config": {**vars(CONFIG), "layers": 10**8}, "finetuned": None}}},
        {"optimizer_history": []},
        {"optimizer_history": [{"num_updates": "7"}]},
        {"model": {3: torch.zeros(1)}},
        {"model": {"model.atoms.graph_token": torch.zeros(7)}},
        {"model": {"encoder.molecule_encoder.layers.999999999.fc1.weight": torch.zeros(1)}},
    ],
)
def test_a_file_whose_parts_are_other_things_is_told(tmp_path, changes):
    assert load(fairseq_file(tmp_path / "a.pt")).about["updates"] == 7
    with pytest.raises(UserError, match=r"a\.pt: "):
        load(fairseq_file(tmp_path / "a.pt", **changes))


def test_damaged_checkpoints(tmp_path):
    """Files and folders with bytes changed, zeroed or cut: a message, or the very same model."""
    from tests.data.test_damage import damage

    folder = saved(tmp_path / "m")
    whole = {name: (folder / name).read_bytes() for name in ("model.safetensors", "config.json")}
    whole["a.pt"] = fairseq_file(tmp_path / "a.pt").read_bytes()
    counts = collections.Counter()
    for seed in range(DAMAGED):
        name = list(whole)[seed % 3]
        path = tmp_path / name if name == "a.pt" else tmp_path / "m" / name
        expected = load(tmp_path / "a.pt" if name == "a.pt" else tmp_path / "m")
        path.write_bytes(damage(whole[name], np.random.default_rng(seed)))
        try:
            found = load(tmp_path / "a.pt" if name == "a.pt" else tmp_path / "m")
        except UserError as error:
            counts[f"{name}: told"] += str(tmp_path) in str(error)
        else:
            counts[f"{name}: same"] += 1
            assert (found.config, found.finetuned) == (expected.config, expected.finetuned), seed
            assert all(torch.equal(value, found.weights[key]) for key, value in expected.weights.items()), seed
        path.write_bytes(whole[name])
    print(f"\n{DAMAGED} damaged checkpoints: {dict(sorted(counts.items()))}")
    assert sum(counts.values()) == DAMAGED
    assert all(counts[f"{name}: told"] > DAMAGED // 4 for name in whole)
