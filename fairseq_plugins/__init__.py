"""Thin adapters to fairseq's registries. Importing this package registers them and mends what fairseq needs mended."""

from fairseq_plugins import compat, criterions, model, optimizer, tasks, trainer

__all__ = ["compat", "criterions", "model", "optimizer", "tasks", "trainer"]

compat.install()
trainer.install()
