"""Starting from a checkpoint of another number of targets, and from one of another architecture."""

import pytest
import torch

from moleblend_fs.checkpoint.read import load
from moleblend_fs.model.config import PRESETS, ModelConfig, architecture_options
from tests.fairseq_plugins.runs import FINETUNE, PRETRAIN, SMALL, Run, train

STEP = ("--optimizer", "adam", "--lr", "0", "--batch-size", "64", "--max-update", "1")


def tuned(store, folder, targets: str, *options: str) -> Run:
    return train(store.path, folder, *FINETUNE, *SMALL, *STEP, "--targets", targets, *options)


@pytest.mark.parametrize(("before", "after"), [("gap", "gap,mu"), ("gap,mu,homo", "mu")])
def test_a_head_of_another_size_begins_at_random(qm9_store, tmp_path, before, after):
    """The body is the checkpoint's, the head is what a run without the checkpoint begins with, and one line says so."""
    first = tuned(qm9_store, tmp_path / "first", before, "--seed", "5")
    source = str(first.folder / "checkpoint_last.pt")
    second = tuned(qm9_store, tmp_path / "second", after, "--finetune-from-model", source)
    scratch = tuned(qm9_store, tmp_path / "scratch", after)
    assert second.code == 0
    sizes = [len(names.split(",")) for names in (after, before)]
    said = "the property head begins at random: it has {} outputs, the checkpoint's has {} for ".format(*sizes)
    assert sum(said + before.replace(",", ", ") in line for line in second.output.splitlines()) == 1
    for name, value in second.weights().items():
        expected = scratch if name.startswith("heads.property.") else first
        assert torch.equal(value, expected.weights()[name]), name
    assert load(second.folder / "checkpoint_last.pt").config.tasks == sizes[0]


def test_a_head_of_the_same_size_goes_on(qm9_store, tmp_path):
    first = tuned(qm9_store, tmp_path / "first", "gap", "--seed", "5")
    source = ("--finetune-from-model", str(first.folder / "checkpoint_last.pt"))
    second = tuned(qm9_store, tmp_path / "second", "mu", *source)
    assert "the property head goes on from the checkpoint's for gap" in second.output
    assert all(torch.equal(value, first.weights()[name]) for name, value in second.weights().items())
    scaled = tuned(qm9_store, tmp_path / "scaled", "mu", *source, "--output-scale", "4")
    for name, value in scaled.weights().items():  # a quarter of the weights, four times what they give
        assert torch.equal(value * (4 if name.startswith("heads.property.out.") else 1), first.weights()[name]), name


@pytest.mark.parametrize("how", ["start", "resume"])
@pytest.mark.parametrize("change", ["--layers 3", "--embed-dim 32", "--attention-heads 4", "--gaussians 9", "--ffn-dim 20"])
def test_the_arch_that_fits_is_named(qm9_store, tmp_path, how, change):
    """Fewer or more layers too: weights of the others would be left out, or left at random."""
    first = train(qm9_store.path, tmp_path, *PRETRAIN, *SMALL, *STEP)
    kind = (*FINETUNE, "--targets", "gap", "--save-dir", str(tmp_path / "new")) if how == "start" else PRETRAIN
    start = ("--finetune-from-model", str(first.folder / "checkpoint_last.pt")) if how == "start" else ()
    run = train(qm9_store.path, tmp_path, *kind, *SMALL, *STEP, *start, *change.split())
    assert run.code == 2
    option, here = change.split()
    there = SMALL[SMALL.index(option) + 1]
    said = next(line for line in run.output.splitlines() if line.startswith("moleblend: error: "))
    assert f"{option} {there} there, {here} here" in said
    assert "what fits is --arch moleblend_tiny --layers 2 --embed-dim 16" in said


def test_options_of_an_architecture():
    for size, values in PRESETS.items():
        assert architecture_options(ModelConfig(**values)) == f"--arch moleblend_{size}"
    nearly = ModelConfig(**{**PRESETS["base"], "layers": 11, "gaussians": 100})
    assert architecture_options(nearly) == "--arch moleblend_base --layers 11 --gaussians 100"


def test_pretraining_heads_do_not_matter_to_finetuning(qm9_store, tmp_path):
    first = train(qm9_store.path, tmp_path / "a", *PRETRAIN, *SMALL, *STEP, "--pair-dim", "5")
    assert tuned(qm9_store, tmp_path / "b", "gap", "--finetune-from-model", str(first.folder / "checkpoint_last.pt")).code == 0
