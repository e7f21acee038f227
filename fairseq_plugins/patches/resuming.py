"""What fairseq 0.12 forgets when a run goes on: validations that a signal left out, patience, and that a run was complete.

It keeps the best score and the count of --patience at functions of its own, which are read and set here.
"""

import logging
import math
import sys
from dataclasses import dataclass
from typing import Any

import fairseq_cli.train
from fairseq import checkpoint_utils
from omegaconf import open_dict

logger = logging.getLogger(__name__)

PINS = {
    "fairseq_cli.train.main": "7b5c19d75199",
    "fairseq_cli.train.should_stop_early": "4c442a0bc320",
    "fairseq_cli.train.validate_and_save": "6eaeda1b2df1",
    "fairseq_cli.train.validate": "e9e42554e3e3",
}
NO_EPOCH = -1
"""A --max-epoch that no epoch is within; 0 is none."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a checkpoint was saved, as fairseq asks its epoch iterator.

    Attributes:
        epoch: that was being trained. ended: whether it was at its end.
        state: of the iterator, to be saved again.
    """

    epoch: int
    ended: bool
    state: dict[str, Any]

    @classmethod
    def of(cls, state: dict[str, Any]) -> "Position":
        """From an iterator's state, which tells of the epoch to come where one has ended."""
        ended = state["iterations_in_epoch"] == 0
        return cls(state["epoch"] - ended, ended, state)

    def end_of_epoch(self) -> bool:
        return self.ended

    def state_dict(self) -> dict[str, Any]:
        return self.state


def training_module() -> Any:
    """The module that runs training: fairseq keeps the count of --patience at one of its functions."""
    modules = (sys.modules.get(name) for name in ("__main__", "__mp_main__"))
    return next((module for module in modules if hasattr(module, "should_stop_early")), fairseq_cli.train)


def validates_here(trainer: Any, epoch_itr: Any) -> bool:
    """Whether fairseq would validate after this update (`validate_and_save` of 0.12), had no signal come."""
    dataset, checkpoint, updates = trainer.cfg.dataset, trainer.cfg.checkpoint, trainer.get_num_updates()
    if trainer.requested.disable_validation or updates < dataset.validate_after_updates:
        return False

    def every(interval: int) -> bool:
        return interval > 0 and updates > 0 and updates % interval == 0

    ended = epoch_itr.end_of_epoch()
    due = epoch_itr.epoch % dataset.validate_interval == 0 if ended else every(checkpoint.save_interval_updates)
    return due or every(dataset.validate_interval_updates) or (0 < trainer.requested.max_update <= updates)


def drop_what_differs(extra_state: dict[str, Any], differing: frozenset[str]) -> None:
    """Leave out of a checkpoint's state what means nothing where a run goes on with something else.

    Args:
        differing: topics of `inference.checkpoint_fit.TOPICS`. A score of another target or validation split is no best score of this run,
            and a place among other molecules no place in its epoch.
    """
    if not differing:
        return
    for name in ("best", "patience", "validation_due"):
        extra_state.pop(name, None)
    logger.warning("the best score so far was of something else: the next validation begins anew")
    position = extra_state["train_iterator"]
    if differing & {"records", "splits"} and position["iterations_in_epoch"]:
        extra_state["train_iterator"] = {**position, "iterations_in_epoch": 0}
        logger.warning("epoch %d begins anew", position["epoch"])


def drop_other_score(state: dict[str, Any], cfg: Any) -> None:
    """Leave out of a checkpoint the best score so far where another one chooses now: they cannot be compared.

    Args:
        state: the checkpoint; cfg: this run's configuration.
    """
    before, now = (
        (chosen["best_checkpoint_metric"], bool(chosen["maximize_best_checkpoint_metric"]))
        for chosen in (state["cfg"]["checkpoint"], cfg.checkpoint)
    )
    if before != now and "best" in state["extra_state"]:
        for name in ("best", "patience"):
            state["extra_state"].pop(name, None)
        logger.warning("the best score so far was by %s, and %s chooses now: the next validation begins anew", before[0], now[0])


def state_to_save(trainer: Any) -> dict[str, Any]:
    """What `restore` reads."""
    early = training_module().should_stop_early
    patience = {name: getattr(early, name) for name in ("best", "num_runs") if hasattr(early, name)}
    return {"validation_due": trainer.validation_due, "patience": patience}


def restore(trainer: Any, extra_state: dict[str, Any]) -> None:
    """Go on as the run would have gone on without the stop.

    Args:
        trainer: with the checkpoint's weights.
        extra_state: of the checkpoint, as fairseq loaded it.
    """
    early = training_module().should_stop_early
    for name, value in extra_state.get("patience", {}).items():
        setattr(early, name, value)
    stop = False
    if extra_state.get("validation_due") and not trainer.cfg.dataset.disable_validation:
        stop = _validate(trainer, Position.of(extra_state["train_iterator"]))
    updates, last = trainer.get_num_updates(), trainer.cfg.optimization.max_update or math.inf
    if updates >= last:
        logger.info("update %d of --max-update %d is done: nothing is left to train", updates, last)
        stop = True
    if 0 < trainer.cfg.checkpoint.patience <= getattr(early, "num_runs", 0):
        logger.info("no better score within --patience %d: nothing is left to train", trainer.cfg.checkpoint.patience)
        stop = True
    if stop:
        with open_dict(trainer.cfg):
            trainer.cfg.optimization.max_epoch = NO_EPOCH


def _validate(trainer: Any, position: Position) -> bool:
    """Validate and save with the score; whether --patience is over."""
    cfg, running = trainer.cfg, trainer.epoch_iterator
    logger.info("validating after update %d, which an earlier run was stopped before or in", trainer.get_num_updates())
    trainer.epoch_iterator = position  # another signal saves there
    try:
        losses = training_module().validate(cfg, trainer, trainer.task, position, cfg.dataset.valid_subset.split(","))
        stop = training_module().should_stop_early(cfg, losses[0])
        checkpoint_utils.save_checkpoint(cfg.checkpoint, trainer, position, losses[0])
    finally:
        trainer.epoch_iterator = running
    return stop
