"""Registers the tasks, models, criterions and the trainer with fairseq."""

import fairseq_plugins  # noqa: F401
