"""What the training tests on a cluster share: a tiny pretraining run, and its losses in one process to compare with."""

from moleblend_fs.report.runs import read_log
from tests.fairseq_plugins.runs import NO_DROPOUT, PRETRAIN, SMALL, train

PER_RANK, UPDATES = 8, 12
OPTIONS = (*SMALL, *NO_DROPOUT, "--log-interval", "1")
SCHEDULE = ("--lr", "1e-3", "--lr-scheduler", "cosine", "--warmup-updates", "2", "--max-update", str(UPDATES), "--clip-norm", "5")
ADAM = ("--optimizer", "adam", "--adam-betas", "(0.9, 0.999)")


def words(folder, *options):
    """Options of a run of two processes that gives the losses of `alone`."""
    return (
        *(*PRETRAIN, *OPTIONS, *SCHEDULE, *ADAM, "--batch-size", str(PER_RANK), "--num-workers", "0", "--seed", "1"),
        *("--save-dir", str(folder), "--no-epoch-checkpoints", "--log-format", "json", "--log-file", f"{folder}/train.log", *options),
    )


def alone(store, folder):
    """Update -> loss of one process with the batches of two."""
    options = (*PRETRAIN, *SCHEDULE, *ADAM, "--batch-size", str(PER_RANK), "--update-freq", "2", *OPTIONS, "--no-save")
    return {int(line["num_updates"]): float(line["loss"]) for line in train(store.path, folder, *options).logged("train_inner")}


def losses_in(folder):
    """Update -> loss in a run's log, those after a resumption included."""
    log = read_log(folder / "train.log", folder)
    return {} if log is None or "loss" not in log.train else dict(zip(*(values.tolist() for values in log.train["loss"]), strict=True))
