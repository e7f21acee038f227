"""Adapters to fairseq's registries: importing this package registers them, and puts `patches` in their places."""

from fairseq_plugins import criterion, finetuning_task, model, optimizer, pretraining_task
from fairseq_plugins.patches import (
    call_main,
    clip_grad_norm,
    configuration_reads,
    fused_adam,
    half_precision_weights,
    load_checkpoint,
    multiply_grads,
    parse_args,
    saving_failures,
    seeds,
    starting_ranks,
    trainer_class,
    uncompiled_optimizers,
)

__all__ = ["criterion", "finetuning_task", "model", "optimizer", "pretraining_task"]

for _patch in (
    call_main,
    clip_grad_norm,
    configuration_reads,
    fused_adam,
    half_precision_weights,
    load_checkpoint,
    multiply_grads,
    parse_args,
    saving_failures,
    seeds,
    starting_ranks,
    trainer_class,
    uncompiled_optimizers,
):
    _patch.install()
