"""An Optuna study in a run's folder, on which any number of processes work: who runs which trial, and what became of it."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from moleblend_fs.errors import UserError
from moleblend_fs.locks import locked, taken
from moleblend_fs.tuning.space import PARAMETERS, Dimension, settings_with

JOURNAL, LOCK, HELD = "study.journal", "study.lock", "trials/trial{}.lock"
NAME = "moleblend"
STARTUP, WARM_UP = 4, 2
"""Trials that end before any is pruned, and steps of a trial before it may be."""
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed", TrialState.RUNNING: "running"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A trial that is this process's to run.

    Attributes:
        number: of the study. settings: values that were drawn. last_step: that an earlier process reported; 0 for none.
        lock: an open file; closed when the trial has ended.
    """

    number: int
    settings: dict[str, Any]
    last_step: int
    lock: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What became of a trial.

    Attributes:
        state: of `STATES`. score: of a complete one; of another the last that was reported. steps: step -> score so far.
        reason: why it failed. seconds: from its beginning to its end, None while it runs.
    """

    number: int
    state: str
    settings: dict[str, Any]
    score: float | None
    steps: dict[int, float] = field(default_factory=dict)
    reason: str = ""
    seconds: float | None = None


class Study:
    """The study of a folder, made where there is none.

    Args:
        folder: of the run. space: what is drawn from. maximise: whether more is better. seed: of all draws. pruning: whether
            trials that are worse than the median of the others at the same step end early.
    """

    def __init__(self, folder: Path, space: Sequence[Dimension], *, maximise: bool, seed: int, pruning: bool):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder, self.seed, self.maximise = folder, seed, maximise
        self.distributions = {each.name: distribution(each) for each in space}
        pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=WARM_UP) if pruning else optuna.pruners.NopPruner()
        with locked(folder / LOCK), damage_told(folder / JOURNAL):
            self.storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
            self.study = optuna.create_study(
                storage=self.storage,
                study_name=NAME,
                pruner=pruner,
                sampler=optuna.samplers.TPESampler(seed=seed),
                direction="maximize" if maximise else "minimize",
                load_if_exists=True,
            )
        self.id = self.storage.get_study_id_from_name(NAME)

    def claim(self, trials: int) -> Claimed | None:
        """A trial that nobody runs any more, or a new one while there are fewer than `trials`; None where nothing is left to begin."""
        with locked(self.folder / LOCK):
            known = self.study.get_trials(deepcopy=False)
            for trial in known:
                if trial.state == TrialState.RUNNING and (lock := taken(self.folder / HELD.format(trial.number))) is not None:
                    left = self.storage.get_trial(self._id(trial.number))  # it may have ended since it was read
                    if left.state == TrialState.RUNNING and set(left.params) == set(self.distributions):
                        return self._claimed(left.number, left.params, lock, left.last_step or 0)
                    if left.state == TrialState.RUNNING:
                        self.study.tell(left.number, state=TrialState.FAIL)  # its process ended while it drew
                    os.close(lock)
            if sum(set(trial.params) == set(self.distributions) for trial in known) >= trials:
                return None
            lock = taken(self.folder / HELD.format(len(known)))
            assert lock is not None, "numbers are given under the study's lock"
            # Of its own for each trial, so that what a search draws does not depend on how often it was stopped.
            drawn = int(np.random.SeedSequence([self.seed, len(known)]).generate_state(1)[0])
            self.study.sampler = optuna.samplers.TPESampler(seed=drawn)
            new = self.study.ask(fixed_distributions=self.distributions)
            return self._claimed(new.number, new.params, lock, 0)

    def _claimed(self, number: int, params: dict[str, Any], lock: int, last_step: int) -> Claimed:
        return Claimed(number=number, settings=settings_with(params), last_step=last_step, lock=lock)

    def report(self, claimed: Claimed, step: int, score: float) -> None:
        """Note the score of a trial so far."""
        self.storage.set_trial_intermediate_value(self._id(claimed.number), step, score)

    def hopeless(self, claimed: Claimed) -> bool:
        """Whether a trial may end early."""
        return self.study.pruner.prune(self.study, self.storage.get_trial(self._id(claimed.number)))

    def complete(self, claimed: Claimed, score: float) -> None:
        """A trial ended."""
        self.study.tell(claimed.number, score)
        os.close(claimed.lock)

    def prune(self, claimed: Claimed) -> None:
        """A trial ended early."""
        self.study.tell(claimed.number, state=TrialState.PRUNED)
        os.close(claimed.lock)

    def fail(self, claimed: Claimed, reason: str) -> None:
        """A trial failed."""
        self.storage.set_trial_user_attr(self._id(claimed.number), "reason", reason)
        self.study.tell(claimed.number, state=TrialState.FAIL)
        os.close(claimed.lock)

    def _id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self.id, number)

    def tried(self) -> list[Tried]:
        """All trials whose settings are drawn."""
        known = self.study.get_trials(deepcopy=False)
        return [_tried(trial) for trial in known if set(trial.params) == set(self.distributions)]

    def best(self) -> Tried | None:
        """The complete trial with the best score, the first of equal ones."""
        complete = [trial for trial in self.tried() if trial.state == "complete"]
        return (max if self.maximise else min)(complete, key=lambda trial: float(trial.score or 0.0), default=None)


def tried_in(folder: Path) -> list[Tried]:
    """All trials of a folder's study, without making one; none where there is none."""
    journal = folder / JOURNAL
    if not journal.is_file() or not journal.stat().st_size:
        return []
    with damage_told(journal):
        study = optuna.load_study(study_name=NAME, storage=JournalStorage(JournalFileBackend(str(journal))))
        return [_tried(trial) for trial in study.get_trials(deepcopy=False) if trial.params]


@contextmanager
def damage_told(journal: Path) -> Iterator[None]:
    """Whatever Optuna raises where lines of a journal are not what it writes becomes a UserError."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        raise UserError(f"{journal}: damaged ({error!r}); put back a copy, or delete it: the search begins again then") from error


def _tried(trial: FrozenTrial) -> Tried:
    last = trial.intermediate_values.get(trial.last_step) if trial.last_step is not None else None
    return Tried(
        number=trial.number,
        state=STATES[trial.state],
        settings=settings_with(trial.params),
        score=trial.value if trial.state == TrialState.COMPLETE else last,
        steps=dict(trial.intermediate_values),
        reason=trial.user_attrs.get("reason", ""),
        seconds=trial.duration.total_seconds() if trial.duration is not None else None,
    )


def distribution(dimension: Dimension) -> BaseDistribution:
    """A dimension as Optuna draws from it."""
    if dimension.values:
        return CategoricalDistribution(dimension.values)
    parameter = PARAMETERS[dimension.name]
    kind: Any = IntDistribution if parameter.kind is int else FloatDistribution
    return kind(dimension.low, dimension.high, log=parameter.log)
