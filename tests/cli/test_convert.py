"""`moleblend convert` and `moleblend check-golden` as commands; what they compute is tested in tests/inference."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from moleblend_fs.cli.main import main
from tests.fairseq_plugins.runs import ADAM, FINETUNE, train


class Malicious:
    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_reference_checkpoint(shared, tmp_path, capsys):
    folder = tmp_path / "ours"
    assert main(["convert", str(shared / "golden" / "reference_checkpoint.pt"), str(folder)]) == 0
    out = capsys.readouterr().out
    assert "3 layers, width 48, 4 attention heads, 16 Gaussians" in out
    assert "heads: spd, edge, displacement, noise" in out
    config = json.loads((folder / "config.json").read_text())
    assert config["config"]["layers"] == 3
    assert config["about"]["format"] == "reference release"


def test_parameters_that_are_not_understood_are_named(shared, tmp_path, capsys):
    from moleblend_fs.checkpoint.read import read_torch_file

    content = read_torch_file(shared / "golden" / "reference_checkpoint.pt")
    weights = {**content["model"], "encoder.molecule_encoder.novelty.weight": torch.zeros(3)}
    torch.save({"model": weights}, tmp_path / "more.pt")
    assert main(["convert", str(tmp_path / "more.pt"), str(tmp_path / "ours")]) == 0
    assert "not understood, left out: encoder.molecule_encoder.novelty.weight" in capsys.readouterr().out


def test_finetuning_from_the_reference_checkpoint_itself(shared, qm9_store, tmp_path):
    """--finetune-from-model takes the release's file; the body is what the file holds."""
    size = ("--layers", "3", "--embed-dim", "48", "--ffn-dim", "48", "--attention-heads", "4", "--gaussians", "16")
    source = shared / "golden" / "reference_checkpoint.pt"
    options = ("--targets", "gap", "--batch-size", "64", "--max-update", "1", "--lr", "0", "--finetune-from-model", str(source))
    run = train(qm9_store.path, tmp_path, *FINETUNE, *ADAM, *size, *options)
    theirs = torch.load(source, weights_only=False)["model"]
    ours = run.weights()
    table = theirs["encoder.molecule_encoder.atom_feature.atom_encoder.weight"]
    assert torch.equal(ours["atoms.atom_table.weight"], table)
    assert torch.equal(ours["encoder.blocks.2.ffn_out.weight"], theirs["encoder.molecule_encoder.layers.2.fc2.weight"])


@pytest.mark.slow
def test_a_malicious_file_is_refused_by_the_command(tmp_path):
    torch.save({"model": {"x": torch.zeros(1)}, "args": Malicious(tmp_path / "trap")}, tmp_path / "evil.pt")
    command = [str(Path(sys.executable).parent / "moleblend"), "convert", str(tmp_path / "evil.pt"), str(tmp_path / "ours")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "evil.pt: refused, since reading it could run code" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "trap").exists()
    assert not (tmp_path / "ours").exists()


def test_golden_files_in_float64(shared, capsys):
    files = [str(shared / "golden" / f"{name}.npz") for name in ("pretrain", "finetune_2d", "finetune_2d3d")]
    assert main(["check-golden", *files, "--float64"]) == 0
    out = capsys.readouterr().out
    assert out.count("values compared") == 3
    assert "all within 1e-05" in out
    assert main(["check-golden", *files, "--tolerance", "1e-12"]) == 1, "the files are float32"
