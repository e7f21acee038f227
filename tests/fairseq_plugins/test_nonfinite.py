"""A loss or gradient that is infinite or not a number: one message that says which, when and whose, exit code 2, checkpoints untouched."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import fairseq_plugins.trainer as trainer
from moleblend_fs.checkpoint.read import load
from moleblend_fs.checkpoint.write import save
from moleblend_fs.data.graph import LabelSpec
from moleblend_fs.data.store import Store
from tests.fairseq_plugins.conftest import write_graphs
from tests.fairseq_plugins.runs import ADAM, FINETUNE, NO_DROPOUT, PRETRAIN, SMALL, Run, arguments, train
from tests.model.molecules import ORDINARY, graph
from tests.support import forked_ranks

SICK, SICK_ROW = 7, 9
"""The molecule at fault: its place in the store, and its row of the source."""
needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
ZERO = ("--optimizer", "deepspeed", "--clip-norm", "5", "--lr", "1e-3", "--zero-stage")


def store_with(path: Path, value: float, split: str = "train", opposite: bool = False) -> Store:
    """20 molecules of training and 5 of validation with a label y; one has a coordinate that is `value` (and one that is -`value`)."""
    rows = []
    for place in range(25):
        made = graph(ORDINARY[place % len(ORDINARY)], place, labels=[place % 5 - 2.0])
        named = "train" if place < 20 else "valid"
        if place == SICK:
            assert made.coordinates is not None
            made.coordinates[0, 1, 2] = value
            if opposite:
                made.coordinates[0, 2, 2] = -value
            named = split
        rows.append((made, named))
    spec = (LabelSpec(name="y", unit="eV", kind="regression"),)
    return write_graphs(path, rows, spec, source_rows=[place if place < 5 else place + 2 for place in range(25)])


@pytest.fixture(scope="module")
def sick(tmp_path_factory) -> Store:
    return store_with(tmp_path_factory.mktemp("stores") / "sick", math.nan)


def named(run: Run, *parts: str) -> None:
    """One message with all these parts, no traceback."""
    said = [line for line in run.output.splitlines() if line.startswith("moleblend: error: ")]
    assert run.code == 2, run.output[-3000:]
    assert "Traceback" not in run.output
    assert len(said) == 1, said
    for part in (*parts, "checkpoints stay as they were before"):
        assert part in said[0], (part, said[0])


def molecule(store: Store) -> str:
    return f"at fault in {store.path}: molecule {SICK} (row {SICK_ROW} of its source): its coordinates are not finite; make the store again"


COMMON = (*SMALL, *NO_DROPOUT, "--batch-size", "4", "--max-epoch", "2", "--disable-validation", "--save-interval-updates", "1")


@pytest.mark.parametrize(
    ("task", "optimizer"), [(PRETRAIN, ADAM), ((*FINETUNE, "--inputs", "2d+3d"), (*ADAM, "--bf16"))], ids=["pretraining", "finetuning bf16"]
)
def test_a_molecule_that_is_not_finite_is_named(sick, tmp_path, task, optimizer):
    check_end(sick, train(sick.path, tmp_path, *task, *COMMON, *optimizer))


def check_end(store: Store, run: Run) -> None:
    """The molecule is named, at the update after the last that was logged; checkpoints are from before."""
    done = len(run.logged("train_inner"))
    named(run, f"update {done + 1}: the ", " loss ", " infinite or not a number; at fault", molecule(store))
    for path in run.folder.glob("*.pt"):
        found = load(path)
        assert found.about["updates"] <= done
        assert all(bool(weight.isfinite().all()) for weight in found.weights.values())
    assert not (run.folder / "crash.pt").exists()


def on_ranks(number: int, store: Store, folder: Path, *options: str) -> Run:
    """A run on several ranks, all of which must end with 2; what all of them said."""
    ranks = forked_ranks.start(arguments(store.path, folder, options), ranks=number, logs=folder / "logs")
    try:
        codes = ranks.wait(120)
    finally:
        ranks.kill()
    output = "\n".join(ranks.output(rank) for rank in range(number))
    assert codes == [2] * number, output[-5000:]
    return Run(2, output, folder, [("train_inner", values) for values in forked_ranks.logged(output)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "optimizer"),
    [
        (2, ADAM),
        pytest.param(1, (*ZERO, "1"), marks=needs_deepspeed),
        pytest.param(1, (*ZERO, "2", "--bf16"), marks=needs_deepspeed),
        pytest.param(2, (*ZERO, "3"), marks=needs_deepspeed),
    ],
    ids=["Adam", "ZeRO 1", "ZeRO 2 bf16", "ZeRO 3"],
)
def test_all_ranks_end_where_one_has_the_molecule(sick, tmp_path, number, optimizer):
    check_end(sick, on_ranks(number, sick, tmp_path, *PRETRAIN, *COMMON, *optimizer))


def test_a_molecule_of_the_validation_split_is_named(tmp_path):
    store = store_with(tmp_path / "store", math.nan, split="valid")
    for task in (PRETRAIN, (*FINETUNE, "--inputs", "3d")):
        run = train(store.path, tmp_path / task[1], *task, *SMALL, *ADAM, "--batch-size", "4", "--max-epoch", "1")
        named(run, "validation after update 5: the ", molecule(store))
        assert not list((tmp_path / task[1]).glob("*.pt"))


def test_numbers_that_are_read_late_name_the_same_update(sick, tmp_path, monkeypatch):
    """As on a GPU: at the log interval, when later updates have spoilt the weights."""
    options = (*PRETRAIN, *COMMON[:-2], *ADAM)
    at_once = train(sick.path, tmp_path / "once", *options)
    monkeypatch.setattr(trainer.MoleBlendTrainer, "defers", property(lambda self: True))
    late = train(sick.path, tmp_path / "late", *options, "--log-interval", "1000")
    named(late, molecule(sick))
    said = [run.output.split("moleblend: error: ")[1].split(";")[0] for run in (at_once, late)]
    assert said[0] == said[1]
    assert not list((tmp_path / "late").glob("*.pt")), "numbers are read before anything is saved"


def test_a_molecule_whose_input_is_finite_is_found_by_computing_parts_again(tmp_path):
    """Two atoms whose coordinates and their squares are finite in float32, but not the square of their distance."""
    far = 1.2e19
    assert np.isfinite(np.float32(far) ** 2)
    assert not np.isfinite(np.float32(2 * far) ** 2)
    store = store_with(tmp_path / "store", far, opposite=True)
    run = train(store.path, tmp_path / "run", *FINETUNE, "--inputs", "3d", *COMMON, *ADAM, "--batch-size", "20")
    named(
        run, "update 1: the ", f"molecule {SICK} (row {SICK_ROW} of its source): its ", "is not finite; if they are sound, a smaller --lr"
    )
    assert run.output.count("of its source") == 1, "no other is named"


def test_weights_that_are_not_finite_are_told(tmp_path):
    """Pretrained weights with one number that is not finite: no molecule's fault."""
    store = store_with(tmp_path / "store", 0.5)
    train(store.path, tmp_path / "first", *PRETRAIN, *SMALL, *ADAM, "--batch-size", "20", "--max-update", "1", "--disable-validation")
    found = load(tmp_path / "first" / "checkpoint_last.pt")
    found.weights["encoder.blocks.1.ffn_in.weight"] = torch.full_like(found.weights["encoder.blocks.1.ffn_in.weight"], np.nan)
    save(found, tmp_path / "broken")
    options = ("--finetune-from-model", str(tmp_path / "broken"))
    run = train(store.path, tmp_path / "second", *FINETUNE, *COMMON, *ADAM, *options)
    named(
        run, "update 1: the mse loss is", "1 of the model's parameters are not finite themselves, e.g. model.encoder.blocks.1.ffn_in.weight"
    )


def test_a_learning_rate_that_is_far_too_high(tmp_path):
    store = store_with(tmp_path / "store", 0.5)
    run = train(store.path, tmp_path / "run", *FINETUNE, *COMMON, *ADAM, "--lr", "1e30", "--max-epoch", "50")
    named(run, "a smaller --lr")
