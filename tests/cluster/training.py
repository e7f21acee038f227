"""What the training tests on a cluster share: a tiny pretraining run, and its losses in one process to compare with."""

import time

from moleblend_fs.report.runs import read_log
from tests.fairseq_plugins.runs import NO_DROPOUT, PRETRAIN, SMALL, train

PER_RANK, UPDATES = 8, 12
OPTIONS = (*SMALL, *NO_DROPOUT, "--log-interval", "1")
SCHEDULE = ("--lr", "1e-3", "--lr-scheduler", "cosine", "--warmup-updates", "2", "--clip-norm", "5")
ADAM = ("--optimizer", "adam", "--adam-betas", "(0.9, 0.999)")
ZERO = ("--optimizer", "deepspeed", "--zero-stage", "2")


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


def until(condition, process, output, seconds=300):
    """The condition's first value that is true, of a process that still runs; a limit of the tests' own, to fail instead of hanging."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {seconds} s\n{output()[-3000:]}"
        assert process.poll() is None, output()[-3000:]
        time.sleep(0.05)
    return value


def losses_in(folder):
    """Update -> loss in a run's log, those after a resumption included."""
    if not (folder / "train.log").is_file():
        return {}
    log = read_log(folder / "train.log", folder)
    return {} if log is None or "loss" not in log.train else dict(zip(*(values.tolist() for values in log.train["loss"]), strict=True))
