"""A --user-dir that trains as moleblend_fs does, and rests before each update: for a run that lasts until a clock of others stops it."""

import threading

import moleblend_fs.tasks.register  # noqa: F401  what moleblend_fs is as a --user-dir
from fairseq_plugins.trainer import MoleBlendTrainer

SECONDS = 0.2
_train_step = MoleBlendTrainer.train_step


def rested(self, *args, **options):
    threading.Event().wait(SECONDS)
    return _train_step(self, *args, **options)


MoleBlendTrainer.train_step = rested
