"""Which checkpoint a run goes on from: the first rank decides for all, and what a command has saved itself comes before what it was told
to begin with."""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist
from omegaconf import DictConfig

from fairseq_plugins.given_numbers import flag
from moleblend_fs.checkpoint.read import read_torch_file
from moleblend_fs.checkpoint.write import raise_on_all
from moleblend_fs.errors import UserError

logger = logging.getLogger(__name__)

DEFAULT = "checkpoint_last.pt"
"""fairseq's --restore-file where none is given: that of --save-dir."""
RESETS = ("reset_optimizer", "reset_lr_scheduler", "reset_meters", "reset_dataloader")
PATIENCE = 60.0
"""Seconds that a rank is given to see in --save-dir what the first one sees there: longer than what hosts of a shared file system
remember of a folder."""
LOOK_AGAIN = 1.0
"""Seconds between two looks."""


class Last(NamedTuple):
    """The last checkpoint in --save-dir, as a rank sees it.

    Attributes:
        updates: done when it was saved; None where there is none, or none that can be read.
        beginning: --restore-file and the options of `RESETS` that the command had which saved it.
    """

    updates: int | None
    beginning: dict[str, Any] | None


def path_of_last(cfg: DictConfig) -> Path:
    """Where a run saves its last checkpoint.

    Args:
        cfg: fairseq's options of checkpoints.
    """
    return Path(cfg.save_dir, f"checkpoint_last{cfg.checkpoint_suffix}.pt")


def look(cfg: DictConfig) -> Last:
    """What this rank sees."""
    try:
        content = read_torch_file(path_of_last(cfg), tensors=False)
        return Last(int(content["optimizer_history"][-1]["num_updates"]), _beginning(content["cfg"]["checkpoint"]))
    except (UserError, LookupError, TypeError, ValueError):
        return Last(None, None)


def _beginning(cfg: Any) -> dict[str, Any]:
    return {name: cfg[name] for name in ("restore_file", *RESETS)}


def agreed(cfg: DictConfig) -> Last:
    """What the first rank sees, once all others see the same; to be called by all.

    Raises:
        SharedError: (on all ranks) one does not, on whose host the folder is another one, or seen late.
    """
    if not dist.is_initialized():
        return look(cfg)
    told: list[Any] = [look(cfg) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(told)
    raise_on_all(None if dist.get_rank() == 0 else _waited_for(cfg, told[0]))
    return told[0]


def _waited_for(cfg: DictConfig, first: Last) -> str | None:
    """Wait until this rank sees what the first one does; what it sees instead if it does not in time."""
    end, says = time.monotonic() + PATIENCE, True
    while (mine := look(cfg)).updates != first.updates:
        here = f"rank {dist.get_rank()} on {socket.gethostname()}"
        difference = f"{path_of_last(cfg)}: {here} sees {_described(mine)}, and rank 0 {_described(first)}"
        if time.monotonic() >= end:
            return f"{difference}; --save-dir must be the same folder on all hosts"
        if says:
            logger.warning("%s; it is waited for, %.0f s at most", difference, PATIENCE)
        says = False
        time.sleep(LOOK_AGAIN)  # noqa: TID251  a file system tells nobody what another host does
    return None


def _described(last: Last) -> str:
    return "no checkpoint" if last.updates is None else f"one of update {last.updates}"


@contextlib.contextmanager
def own_checkpoint_first(cfg: DictConfig, *, tells: bool) -> Iterator[None]:
    """Within, --restore-file and what is to be reset at the beginning are left out where this command has begun so already: the last
    checkpoint in --save-dir is its own then. fairseq would begin so at every start of the command, as of a job that is requeued.

    Args:
        cfg: fairseq's options of checkpoints. tells: whether this rank says so.
    """
    last, given = agreed(cfg), _beginning(cfg)
    asked = [flag(name) for name in RESETS if given[name]]
    if given["restore_file"] != DEFAULT:
        asked.insert(0, f"--restore-file {given['restore_file']}")
    if not asked or last.beginning != given:
        yield
        return
    if tells:
        logger.warning(
            "going on from %s, which this command saved after update %d; what it began with is not done again: %s. To begin so once more, "
            "choose another --save-dir, or move that checkpoint elsewhere",
            *(os.fspath(path_of_last(cfg)), last.updates, ", ".join(asked)),
        )
    for name in given:
        cfg[name] = DEFAULT if name == "restore_file" else False
    try:
        yield
    finally:
        for name, value in given.items():  # checkpoints are to say how the command began
            cfg[name] = value
