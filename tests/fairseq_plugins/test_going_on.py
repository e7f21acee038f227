"""Which checkpoint a run goes on from, where a command says what to begin with and is given again: as Slurm does with a job."""

import pytest

from tests.fairseq_plugins.runs import ADAM, PRETRAIN, SMALL, Run, train

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
