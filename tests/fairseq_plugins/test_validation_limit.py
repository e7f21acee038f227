"""--max-valid-steps: fairseq validates so many batches and one more, and leaves its loop over all of them."""

import threading

import pytest

from tests.fairseq_plugins.runs import ADAM, PRETRAIN, SMALL, train, train_forked


def test_nothing_is_left_waiting(uneven_store, tmp_path):
    """11 molecules of validation in batches of 2; a thread that reads ahead would be left by each of three validations."""
    before = set(threading.enumerate())
    options = ("--batch-size", "8", "--batch-size-valid", "2", "--data-buffer-size", "1", "--max-epoch", "3")
    run = train(uneven_store.path, tmp_path, *PRETRAIN, *SMALL, *ADAM, *options, "--max-valid-steps", "1")
    assert run.code == 0, run.output[-3000:]
    assert run.column("valid", "valid_molecules") == [4, 4, 4]
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive(), thread


@pytest.mark.slow
def test_every_process_has_as_many_batches(uneven_store, tmp_path):
    """Six batches of validation on two processes, two of each."""
    options = ("--batch-size", "8", "--batch-size-valid", "2", "--max-epoch", "1")
    spread = ("--distributed-world-size", "2", "--max-valid-steps", "1")
    run = train_forked(uneven_store.path, tmp_path, *PRETRAIN, *SMALL, *ADAM, *options, *spread)
    assert run.code == 0, run.output[-3000:]
    assert run.column("valid", "valid_molecules") == [8]
