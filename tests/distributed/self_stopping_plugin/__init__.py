"""A --user-dir that trains as moleblend_fs does, and whose first rank sends itself SIGTERM at a moment that $MOLEBLEND_TEST_STOP names.

"update:N": while update N is computed. "validation:N": before the second batch of the N-th validation.
"""

import os
import signal

import moleblend_fs.tasks.register  # noqa: F401  what moleblend_fs is as a --user-dir
from fairseq_plugins.trainer import MoleBlendTrainer

VARIABLE = "MOLEBLEND_TEST_STOP"


def stop_there(moment: str) -> None:
    """Have this process signal itself at the moment; the run goes through no other code than it would without."""
    kind, number = moment.split(":")
    train_step, begin_valid_epoch, valid_step = MoleBlendTrainer.train_step, MoleBlendTrainer.begin_valid_epoch, MoleBlendTrainer.valid_step
    seen = {"validations": 0, "batches": 0}

    def tell(trainer, now: bool) -> None:
        if now and trainer.is_data_parallel_master:
            os.kill(os.getpid(), signal.SIGTERM)

    def train(self, *args, **options):
        tell(self, kind == "update" and self.get_num_updates() + 1 == int(number))
        return train_step(self, *args, **options)

    def begin(self, epoch):
        seen["validations"], seen["batches"] = seen["validations"] + 1, 0
        return begin_valid_epoch(self, epoch)

    def validate(self, *args, **options):
        seen["batches"] += 1
        tell(self, kind == "validation" and (seen["validations"], seen["batches"]) == (int(number), 2))
        return valid_step(self, *args, **options)

    MoleBlendTrainer.train_step, MoleBlendTrainer.begin_valid_epoch, MoleBlendTrainer.valid_step = train, begin, validate


if VARIABLE in os.environ:
    stop_there(os.environ[VARIABLE])
