"""Checkpoint files: round trip, and refusal of files that would run code or are something else."""

import json
import os
import pickle

import numpy as np
import pytest
import torch

from moleblend_fs.errors import UserError
from moleblend_fs.inference.checkpoint import Checkpoint, FinetunedFor, load, load_weights, save
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.moleblend import MoleBlend

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
        "text.pt": r"not a readable torch checkpoint|refused",
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
    with pytest.raises(UserError, match=r"file: lacks 1 parameters of this model, e\.g\. relations\.gaussian_means"):
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
