"""Pretraining on a GPU machine that is there for a short while: rehearsed on a CPU, within its budget, mistakes told."""

import gzip
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from moleblend_fs.checkpoint.read import load

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "gpu_pretrain.sh"
RINGS = ["c1ccccc1", "c1ccncc1", "C1CCCCC1", "c1ccsc1", "C1CCNCC1", "c1ccoc1"]
MOLECULES = [f"{start}{a}CC{b}" for i, a in enumerate(RINGS) for b in RINGS[i:] for start in ("C", "O")]


def call(*arguments, **environment):
    given = os.environ | {"PYTHON": sys.executable, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, env=given | environment, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """What --pack brings together, with few molecules."""
    folder = tmp_path_factory.mktemp("gpu") / "the wheels"
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    with gzip.open(corpus / "moses.csv.gz", "wt") as file:
        file.write("SMILES\n" + "".join(f"{text}\n" for text in MOLECULES))
    for name in ("esol", "freesolv", "lipo", "bbbp", "bace", "clintox", "sider"):
        (corpus / f"{name}.csv").write_text(f"smiles\n{MOLECULES[0]}\n")
    return folder


def settings(wheels, out):
    return {"WHEELS": str(wheels), "OUT": str(out), "CORPUS": "moses", "WORKERS": "1"}


@pytest.mark.slow
def test_a_rehearsal_brings_weights_back_that_know_structures(wheels, tmp_path):
    done = call("--rehearse", "--budget", "200", **settings(wheels, tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    with tarfile.open(tmp_path / "out" / "gpu_pretrained.tar.gz") as archive:
        archive.extractall(tmp_path / "back", filter="data")
    updates, cooldown = map(int, (tmp_path / "back" / "plan").read_text().split())
    assert (updates, cooldown) == (1, 1), "a rehearsal leaves time for no more"
    card = load(tmp_path / "back" / "weights" / "tiny").card
    assert [each["name"] for each in card.objectives] == ["blend_then_predict", "descriptors"]
    assert card.updates == cooldown
    assert all(store.options["exclude"]["sets"] for store in card.stores)
    assert {path.suffix for path in (tmp_path / "back").rglob("*") if path.is_file()} & {".pt", ".lmdb"} == set(), "weights alone are small"
    again = call("--rehearse", "--budget", "200", **settings(wheels, tmp_path / "out"))
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished before") == 2

    # What ends too early brings back what there is.
    late = tmp_path / "late"
    (late / "pretrain").mkdir(parents=True)
    shutil.copy(tmp_path / "out" / "pretrain" / "checkpoint_last.pt", late / "pretrain")
    (late / "plan").write_text("100000 1\n")
    stores = {"STORES": str(tmp_path / "out" / "data")}
    done = call("--rehearse", "--budget", "12", **settings(wheels, late), **stores)
    assert done.returncode != 0
    assert not (late / "data").exists()
    assert "not all updates were made in time" in done.stderr
    unfinished = load(late / "unfinished" / "tiny").card
    assert 0 < unfinished.updates < 100_000
    assert "ran out of time" in "".join(unfinished.notes)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fast"], "--fast is unknown"),
        (["--budget"], "needs a number of seconds, got ''"),
        (["--budget", "ten"], "needs a number of seconds, got 'ten'"),
        (["--rehearse", "--budget", "0"], "needs a number of seconds, got '0'"),
    ],
)
def test_mistakes(arguments, said, tmp_path):
    done = call(*arguments, OUT=str(tmp_path / "out"))
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(wheels, tmp_path):
    done = call("--budget", "60", **settings(wheels, tmp_path / "out"))
    assert done.returncode == 1
    assert "torch sees no GPU" in done.stderr


def test_help_is_the_head_of_the_script():
    said = call("--help").stdout
    assert said.startswith("Pretrained weights from a GPU machine")
    assert "set -euo" not in said


def test_packing_tells_where_data_are_missing(tmp_path):
    done = call("--pack", DATA=str(tmp_path), WHEELS=str(tmp_path / "wheels"))
    assert done.returncode == 2
    assert "say where MoleculeNet's files are" in done.stderr
