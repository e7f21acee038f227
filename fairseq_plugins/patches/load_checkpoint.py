"""Replaces `fairseq.checkpoint_utils.load_checkpoint`, and for the time of a call `load_checkpoint_to_cpu` (fairseq 0.12).

A run goes on as it would have gone on without the stop (`resuming`), and what fairseq's trainer reads from a checkpoint is changed
before it uses it, for which it has no hook.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from fairseq import checkpoint_utils
from fairseq.logging import meters
from omegaconf import DictConfig

from fairseq_plugins.going_on import own_checkpoint_first
from fairseq_plugins.patches import resuming

PINS = {
    "fairseq.checkpoint_utils.load_checkpoint": "bc7cc4344393",
    "fairseq.checkpoint_utils.load_checkpoint_to_cpu": "4f169c4bf484",
    "fairseq.logging.meters.MetersDict.load_state_dict": "d13ecfd440d3",
    "fairseq.trainer.Trainer.load_checkpoint": "3e9ad6268adc",
}

_fairseq_load_checkpoint = checkpoint_utils.load_checkpoint


def install() -> None:
    """Put ours in its place."""
    checkpoint_utils.load_checkpoint = load_checkpoint


def load_checkpoint(cfg: DictConfig, trainer: Any, **options: Any) -> tuple[Any, Any]:
    """fairseq's; then the validation that a signal cut short is done, and a run that is complete is not trained on (see `resuming`)."""
    with own_checkpoint_first(cfg, tells=trainer.is_data_parallel_master):
        extra_state, epoch_itr = _fairseq_load_checkpoint(cfg, trainer, **options)
        anew = cfg.reset_optimizer or cfg.reset_meters
    if extra_state is not None and not anew:
        resuming.restore(trainer, extra_state)
    return extra_state, epoch_itr


def without_unknown_meters(saved: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Saved metrics without those that fairseq does not know: it makes meters again by the names of its own classes (0.12), and
    our first checkpoints hold another."""
    return {  # entries are (priority, name, name of the class, state)
        group: [entry for entry in entries if hasattr(meters, entry[2])] for group, entries in saved.items()
    }


@contextlib.contextmanager
def loaded_state_through(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[None]:
    """Change what fairseq's trainer reads from a checkpoint before it uses it; it has no hook for that."""
    original = checkpoint_utils.load_checkpoint_to_cpu

    def changed(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return change(original(*args, **kwargs))

    checkpoint_utils.load_checkpoint_to_cpu = changed
    try:
        yield
    finally:
        checkpoint_utils.load_checkpoint_to_cpu = original
