"""What the training tests on a cluster share: a tiny pretraining run, and its losses in one process to compare with."""

import contextlib
from pathlib import Path

from moleblend_fs.checkpoint.read import read_torch_file
from moleblend_fs.report.training_logs import read_log
from tests.fairseq_plugins.runs import NO_DROPOUT, PRETRAIN, SMALL, train
from tests.support import waiting

PER_RANK, UPDATES = 8, 12
OPTIONS = (*SMALL, *NO_DROPOUT, "--log-interval", "1")
SCHEDULE = ("--lr", "1e-3", "--lr-scheduler", "cosine", "--warmup-updates", "2", "--clip-norm", "5")
ADAM = ("--optimizer", "adam", "--adam-betas", "(0.9, 0.999)")
ZERO = ("--optimizer", "deepspeed", "--zero-stage", "2")

GENTLE = ("--adam-eps", "1e-3", "--geometry-weight", "0", "--noise-weight", "0")
"""Without targets whose normalised vectors would blow up, over many updates, how ZeRO and Adam round."""


def words(folder, *more, updates=UPDATES):
    """Options of a run of two processes that gives the losses of `alone`."""
    common = (*PRETRAIN, *OPTIONS, *SCHEDULE, *ADAM, "--max-update", str(updates), "--batch-size", str(PER_RANK), "--num-workers", "0")
    log = ("--log-format", "json", "--log-file", f"{folder}/train.log")
    return (*common, "--seed", "1", "--save-dir", str(folder), "--no-epoch-checkpoints", *log, *more)


def alone(store, folder, *more, updates=UPDATES):
    """Update -> loss of one process with the batches of two."""
    common = (*PRETRAIN, *OPTIONS, *SCHEDULE, *ADAM, "--max-update", str(updates), "--batch-size", str(PER_RANK))
    run = train(store.path, folder, *common, "--update-freq", "2", "--no-save", *more)
    return {int(line["num_updates"]): float(line["loss"]) for line in run.logged("train_inner")}


def check_stop(store, folder, number, code, launch, **settings):
    """Real training of two processes with a loader each, stopped by a signal to launch.sh; what is left is checked.

    Args:
        number: signal that launch.sh gets.
        code: exit code that it is to have.
        launch: starts launch.sh with words and settings, what it says going to a file.
    """
    folder.mkdir()
    said = folder / "out"
    options = words(folder, *GENTLE, "--num-workers", "1", updates=100_000)
    with said.open("w") as out:
        process = launch(out, store.path, *options, PROCS=2, **settings)
    try:
        until(lambda: losses_in(folder), process, said.read_text)
        process.send_signal(number)
        assert process.wait(120) == code, said.read_text()[-3000:]
    finally:
        process.kill()
    assert processes_of(folder) == []
    done = max(losses_in(folder))
    assert f"after {done} updates" in (folder / "preempted").read_text()
    saved = read_torch_file(folder / "checkpoint_last.pt")
    assert saved["optimizer_history"][-1]["num_updates"] == done


def processes_of(folder):
    """Command lines of processes that are given the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found.append(path.read_text().replace("\0", " "))
    return [line for line in found if str(folder) in line]


def until(condition, process, output, seconds=300):
    """The condition's first value that is true, of a process that still runs."""
    return waiting.until(condition, seconds=seconds, runs=lambda: process.poll() is None, said=output)


def losses_in(folder):
    """Update -> loss in a run's log, those after a resumption included."""
    if not (folder / "train.log").is_file():
        return {}
    log = read_log(folder / "train.log", folder)
    return {} if log is None or "loss" not in log.train else dict(zip(*(values.tolist() for values in log.train["loss"]), strict=True))
