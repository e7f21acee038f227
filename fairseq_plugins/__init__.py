"""Thin adapters to fairseq's registries. Importing this package registers them and mends what fairseq needs mended."""

from fairseq_plugins import command_line, compat, criterion, fused_adam, model, optimizer, task, trainer

__all__ = ["command_line", "compat", "criterion", "fused_adam", "model", "optimizer", "task", "trainer"]

compat.install()
command_line.install()
fused_adam.install()
trainer.install()
