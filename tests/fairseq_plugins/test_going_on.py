"""Which checkpoint a run goes on from, where a command says what to begin with and is given again: as Slurm does with a job."""

import pytest
import torch

from tests.fairseq_plugins.runs import ADAM, PRETRAIN, SMALL, Run, train
from tests.fairseq_plugins.test_resuming import updates

OPTIONS = (*PRETRAIN, *SMALL, *ADAM, "--batch-size", "8", "--disable-validation")
RESETS = ("--reset-optimizer", "--reset-lr-scheduler", "--reset-meters", "--reset-dataloader")


def numbers(run: Run) -> list[int]:
    """Of the updates that a run made."""
    assert run.code == 0, run.output[-3000:]
    return [int(values["num_updates"]) for values in run.logged("train_inner")]


@pytest.fixture(scope="module")
def former(uneven_store, tmp_path_factory):
    """Another run's checkpoint, of update 3."""
    folder = tmp_path_factory.mktemp("former")
    assert numbers(train(uneven_store.path, folder, *OPTIONS, "--max-update", "3")) == [1, 2, 3]
    return folder / "checkpoint_last.pt"


def test_what_a_command_has_saved_comes_before_its_beginning(uneven_store, former, tmp_path):
    begins = (*OPTIONS, "--restore-file", str(former), *RESETS)
    assert numbers(train(uneven_store.path, tmp_path, *begins, "--max-update", "2")) == [1, 2]
    again = train(uneven_store.path, tmp_path, *begins, "--max-update", "4")
    assert numbers(again) == [3, 4]
    assert f"not done again: --restore-file {former}, {', '.join(RESETS)}" in again.output
    assert numbers(train(uneven_store.path, tmp_path, *begins, "--max-update", "5")) == [5], "how it began is kept"


def test_a_command_that_begins_in_another_way_does_so(uneven_store, former, tmp_path):
    """fairseq's own meaning of --restore-file: also in a folder that has checkpoints."""
    begins = (*OPTIONS, "--restore-file", str(former))
    assert numbers(train(uneven_store.path, tmp_path, *OPTIONS, "--max-update", "5")) == [1, 2, 3, 4, 5]
    assert numbers(train(uneven_store.path, tmp_path, *begins, "--max-update", "4")) == [4]
    assert numbers(train(uneven_store.path, tmp_path, *begins, *RESETS, "--max-update", "1")) == [1]


def test_a_reset_of_the_own_run_is_done_once(uneven_store, former, tmp_path):
    begins = (*OPTIONS, "--continue-once", str(former), "--reset-optimizer")
    assert numbers(train(uneven_store.path, tmp_path, *begins, "--max-update", "2")) == [1, 2]
    assert numbers(train(uneven_store.path, tmp_path, *begins, "--max-update", "3")) == [3]
    assert numbers(train(uneven_store.path, tmp_path, *OPTIONS, "--reset-optimizer", "--reset-meters", "--max-update", "2")) == [1, 2]


def test_another_checkpoint_in_place_of_a_damaged_one(uneven_store, former, tmp_path):
    (tmp_path / "checkpoint_last.pt").write_bytes(former.read_bytes()[:-200])
    assert numbers(train(uneven_store.path, tmp_path, *OPTIONS, "--restore-file", str(former), "--max-update", "4")) == [4]


@pytest.mark.parametrize("precision", [(), ("--bf16",)], ids=["float32", "bf16"])
def test_without_the_optimizer_s_state_updates_count_on(uneven_store, tmp_path, precision):
    """The schedule too; only Adam's moments begin anew. fairseq would make six more updates, the first of them warm-up again."""
    schedule = ("--lr-scheduler", "cosine", "--warmup-updates", "2", "--max-update", "8")
    options = (*OPTIONS, *schedule, *precision, "--no-save-optimizer-state", "--save-interval-updates", "1")
    whole = train(uneven_store.path, tmp_path / "whole", *options)
    for name in ("checkpoint_2_6.pt", "checkpoint_last.pt"):
        (tmp_path / "whole" / name).rename(tmp_path / name)
    (tmp_path / "cut").mkdir()
    (tmp_path / "checkpoint_2_6.pt").rename(tmp_path / "cut" / "checkpoint_last.pt")
    cut = train(uneven_store.path, tmp_path / "cut", *options)
    assert numbers(cut) == [7, 8]
    assert "without the optimizer's state (--no-save-optimizer-state)" in cut.output
    assert cut.column("train_inner", "lr") == whole.column("train_inner", "lr")[-2:]


def test_changed_options_of_adam_are_those_of_the_command(uneven_store, tmp_path):
    """fairseq goes on with the checkpoint's, and says nothing."""
    train(uneven_store.path, tmp_path, *OPTIONS, "--weight-decay", "0.1", "--max-update", "1")
    changed = ("--adam-betas", "(0.8, 0.99)", "--adam-eps", "1e-6")
    again = train(uneven_store.path, tmp_path, *OPTIONS, *changed, "--max-update", "2")
    assert numbers(again) == [2]
    (group,) = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)["last_optimizer_state"]["param_groups"]
    assert (tuple(group["betas"]), group["eps"], group["weight_decay"]) == ((0.8, 0.99), 1e-6, 0.0)
    for said in ("--adam-betas was (0.9, 0.999), and is (0.8, 0.99)", "--adam-eps was 1e-08, and is 1e-06", "--weight-decay was 0.1"):
        assert said in again.output
    third = train(uneven_store.path, tmp_path, *OPTIONS, *changed, "--optimizer-overrides", "{'eps': 1e-5}", "--max-update", "3")
    assert "--weight-decay was" not in third.output
    (group,) = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)["last_optimizer_state"]["param_groups"]
    assert group["eps"] == 1e-5


def test_patience_that_is_over_stays_so(uneven_store, tmp_path):
    """fairseq would train for one more epoch at each start of the same command."""
    options = tuple(word for word in OPTIONS if word != "--disable-validation")
    options = (*options, "--lr", "0", "--patience", "1", "--max-epoch", "9")
    first = train(uneven_store.path, tmp_path, *options)
    done = updates(first)
    assert done == 8
    again = train(uneven_store.path, tmp_path, *options)
    assert numbers(again) == []
    assert "no better score within --patience 1" in again.output
    assert updates(again) == done
    assert numbers(train(uneven_store.path, tmp_path, *options, "--patience", "2"))[-1] == 12, "another patience goes on"


@pytest.mark.parametrize("more", [(), ("--ema-fp32",)], ids=["", "float32"])
def test_averages_of_weights_may_begin_later(uneven_store, tmp_path, more):
    """fairseq ends in a KeyError where a checkpoint has none."""
    train(uneven_store.path, tmp_path, *OPTIONS, "--max-update", "1")
    begun = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)["model"]
    again = train(uneven_store.path, tmp_path, *OPTIONS, "--store-ema", "--ema-decay", "0.75", *more, "--max-update", "2")
    assert numbers(again) == [2]
    assert "saved without averaged weights" in again.output
    content = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)
    for name, average in content["extra_state"]["ema"].items():
        torch.testing.assert_close(average, 0.75 * begun[name] + 0.25 * content["model"][name])
