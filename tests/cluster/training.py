"""What the training tests on a cluster share: a tiny pretraining run, and its losses in one process to compare with."""

from moleblend_fs.report.runs import read_log
from tests.fairseq_plugins.runs import NO_DROPOUT, PRETRAIN, SMALL, train

PER_RANK, UPDATES = 8, 12
OPTIONS = (*SMALL, *NO_DROPOUT, "--log-interval", "1")
SCHEDULE = ("--lr", "1e-3", "--lr-scheduler", "cosine", "--warmup-updates", "2", "--clip-norm", "5")
ADAM = ("--optimizer", "adam", "--adam-betas", "(0.9, 0.999)")


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


def losses_in(folder):
    """Update -> loss in a run's log, those after a resumption included."""
    log = read_log(folder / "train.log", folder)
    return {} if log is None or "loss" not in log.train else dict(zip(*(values.tolist() for values in log.train["loss"]), strict=True))
