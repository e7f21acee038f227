"""Thin adapters to fairseq's registries. Importing this package registers them and mends what fairseq needs mended."""

from fairseq_plugins import compat, criterions, fused_adam, model, optimizer, tasks, trainer

__all__ = ["compat", "criterions", "fused_adam", "model", "optimizer", "tasks", "trainer"]

compat.install()
fused_adam.install()
trainer.install()
