"""Going on with a run: as if it had not stopped, and what fairseq alone would fail at or forget.

Stops and numbers of processes: `tests/distributed/test_resume_matrix.py`; kill -9: `test_interruptions.py` there.
"""

import pytest
import torch
from fairseq.logging import meters, metrics

from moleblend_fs.checkpoint.read import read_torch_file
from tests.fairseq_plugins.runs import ADAM, FINETUNE, PRETRAIN, SMALL, Run, train, train_forked

OPTIONS = (*FINETUNE, *SMALL, *ADAM, "--inputs", "2d", "--batch-size", "8")
TIMES = ("_per_second", "wall", "ups")
TARGETS = {"classification": "c", "regression": "y"}


def updates(run: Run, name: str = "checkpoint_last.pt") -> int:
    return read_torch_file(run.folder / name)["optimizer_history"][-1]["num_updates"]


@pytest.mark.parametrize("kind", TARGETS)
def test_a_checkpoint_of_mid_epoch_after_a_validation(uneven_store, tmp_path, kind):
    """Four updates an epoch. The file of update 6 names only meters that fairseq can make again, and is gone on from."""
    options = (*OPTIONS, "--targets", TARGETS[kind], "--save-interval-updates", "3")
    train(uneven_store.path, tmp_path, *options, "--max-update", "6")
    saved = read_torch_file(tmp_path / "checkpoint_last.pt")["extra_state"]
    assert saved["train_iterator"]["iterations_in_epoch"] == 2
    names = {entry[2] for entries in saved["metrics"].values() for entry in entries}
    assert names
    assert names <= set(vars(meters))
    second = train(uneven_store.path, tmp_path, *options, "--max-update", "8")
    assert second.code == 0
    assert [values["num_updates"] for values in second.logged("train_inner")] == ["7", "8"]


def test_a_checkpoint_with_a_meter_of_ours(uneven_store, tmp_path):
    """As earlier versions wrote them."""
    options = (*OPTIONS, "--targets", "y", "--save-interval-updates", "3")
    train(uneven_store.path, tmp_path, *options, "--max-update", "6")
    path = tmp_path / "checkpoint_last.pt"
    content = torch.load(path, weights_only=True)
    for name in ("default", "train", "valid"):
        content["extra_state"]["metrics"].setdefault(name, []).append((50, "_predictions", "PredictionMeter", {}))
    torch.save(content, path)
    assert train(uneven_store.path, tmp_path, *options, "--max-update", "7").code == 0


def test_the_same_command_again_trains_no_further(uneven_store, tmp_path):
    """fairseq would do one more update, at a learning rate past the schedule's end."""
    options = (*OPTIONS, "--targets", "y", "--max-update", "4", "--lr-scheduler", "cosine", "--warmup-updates", "1")
    train(uneven_store.path, tmp_path, *options)
    before = (tmp_path / "checkpoint_last.pt").read_bytes()
    again = train(uneven_store.path, tmp_path, *options)
    assert again.code == 0
    assert "update 4 of --max-update 4 is done" in again.output
    assert again.logged("train_inner") == []
    assert (tmp_path / "checkpoint_last.pt").read_bytes() == before


def test_patience_is_kept(uneven_store, tmp_path):
    """At a learning rate of 0 the score never improves: with --patience 2 the third epoch is the last, stop or no stop."""
    options = (*OPTIONS, "--targets", "y", "--lr", "0", "--patience", "2")
    straight = train(uneven_store.path, tmp_path / "straight", *options, "--max-epoch", "9")
    assert updates(straight) == 12
    train(uneven_store.path, tmp_path / "cut", *options, "--max-epoch", "2")
    second = train(uneven_store.path, tmp_path / "cut", *options, "--max-epoch", "9")
    assert updates(second) == 12


def test_predictions_of_past_validations_are_forgotten(uneven_store, tmp_path):
    """They would grow without end."""
    train(uneven_store.path, tmp_path, *OPTIONS, "--targets", "y", "--max-epoch", "3")
    held = sum(len(rows) for rows in metrics.get_meter("valid", "_predictions").predictions)
    assert held == uneven_store.manifest.splits["valid"].molecules


@pytest.mark.slow
def test_a_run_stopped_in_mid_epoch_goes_on_as_if_it_had_not(qm9_store, tmp_path):
    """With loader workers, accumulated updates, dropout and several epochs: every logged digit, and the same weights bit for bit."""
    options = (*PRETRAIN, *SMALL, *ADAM, "--batch-size", "8", "--update-freq", "2")  # 8 updates an epoch
    whole = train(qm9_store.path, tmp_path / "whole", *options, "--max-update", "19")
    folder = tmp_path / "parts"
    parts = [train_forked(qm9_store.path, folder, *options, "--num-workers", "2", "--max-update", stop) for stop in ("5", "19")]
    assert [part.code for part in parts] == [0, 0], parts[-1].output[-3000:]

    def steps(run: Run) -> list[dict]:
        return [{k: v for k, v in values.items() if not k.endswith(TIMES)} for values in run.logged("train_inner")]

    expected, found = steps(whole), steps(parts[0]) + steps(parts[1])
    assert [values["num_updates"] for values in found] == [str(update) for update in range(1, 20)]
    # The information bound uses the class counts of the epoch so far, as the meters do that fairseq restores.
    assert found == expected
    assert sum(float(values["molecules"]) for values in found[:16]) == 2 * len(qm9_store.split("train"))
    ours, theirs = Run(0, "", folder).weights(), whole.weights()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
