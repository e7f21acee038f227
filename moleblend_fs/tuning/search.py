"""Trials under way: each trains a member on every validation fold, one after the other, and is pruned by its scores so far."""

import json
import math
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from moleblend_fs.data.splits import TRAIN
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.finetune import member_processes, members
from moleblend_fs.finetune.run import Begun
from moleblend_fs.finetune.run_folder import SELECTION
from moleblend_fs.finetune.settings import Settings
from moleblend_fs.locks import wait_for
from moleblend_fs.tuning.study import HELD, Claimed, Study, Tried

STEPS = 10
"""Of a member: tenths of its epochs, so that trials of any number of epochs are compared at the same step."""
SCORE = "valid_"
"""What a validation score is called in a member's log, the score's name after it."""
TRIALS = "trials"
TOLD_TO_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that end a process that has not begun to train; others are failures."""


@dataclass(slots=True, kw_only=True)
class Trial:
    """A trial that this process runs.

    Attributes:
        claimed: from the study. planned: a member for each validation fold. epochs: of each. slot: which of those that run at a time.
        scores: of members that ended. process: of the one that trains. step: last one that was reported. hopeless: told to stop.
        seen: bytes of the log at the last look.
    """

    claimed: Claimed
    planned: list[members.Member]
    epochs: int
    slot: int
    scores: list[float] = field(default_factory=list)
    process: subprocess.Popen
    step: int = 0
    hopeless: bool = False
    seen: int = -1

    @property
    def member(self) -> members.Member:
        """The one that trains."""
        return self.planned[len(self.scores)]

    @property
    def is_at_its_end(self) -> bool:
        """Whether the last epoch of the last fold was scored: nothing is saved by stopping it."""
        return self.step >= STEPS * len(self.planned)


class Search:
    """The trials of one process.

    Args:
        begun: the run. folds: validation folds, of `SELECTION`. study: where trials are. trials: of the study in all. jobs: at a time.
        metric: the validation score, as logs name it. by_loss: whether epochs are chosen by the loss.
        show: called with (trials ended and parts of running ones, a note) now and then.
    """

    def __init__(
        self,
        begun: Begun,
        folds: dict[str, Store],
        study: Study,
        *,
        trials: int,
        jobs: int,
        metric: str,
        by_loss: bool,
        show: Callable[[float, Sequence[Tried]], None],
    ):
        self.begun, self.folds, self.study = begun, folds, study
        self.trials, self.jobs, self.metric, self.by_loss, self.show = trials, jobs, metric, by_loss, show
        self.threads = max(1, len(os.sched_getaffinity(0)) // jobs)
        self.start = members.starting_checkpoint(begun.settings)
        self.running: list[Trial] = []

    def run(self, *, to_the_end: bool) -> None:
        """Run trials until none is left to begin.

        Args:
            to_the_end: whether to wait for those of other processes, and to go on with what they leave.
        """
        try:
            while True:
                while len(self.running) < self.jobs and (claimed := self.study.claim(self.trials)) is not None:
                    self._begin(claimed)
                if self.running:
                    member_processes.wait_for_one([trial.process for trial in self.running], member_processes.POLL)
                    for trial in list(self.running):
                        self._look(trial)
                    self._show()
                elif to_the_end and (others := [each.number for each in self.study.tried() if each.state == "running"]):
                    wait_for(self.begun.folder / HELD.format(others[0]))
                else:
                    return
        finally:
            member_processes.stop(trial.process for trial in self.running)
            for trial in self.running:
                os.close(trial.claimed.lock)
            self.running.clear()

    def planned(self, claimed: Claimed) -> list[members.Member]:
        """A member of a trial for each validation fold."""
        settings = self._settings(claimed)
        return [
            members.plan_one(
                self.begun.data,
                self.begun.store_path,
                name,
                fold,
                settings,
                self.start,
                number=0,
                folder=f"{TRIALS}/trial{claimed.number}-{name}",
                splits=SELECTION,
                by_loss=self.by_loss,
            )
            for name, fold in self.folds.items()
        ]

    def _settings(self, claimed: Claimed) -> Settings:
        return replace(self.begun.settings, ensemble=1, **claimed.settings)

    def _scores(self, member: members.Member) -> list[tuple[int, float]]:
        return scores_in(self.begun.folder / member.folder / members.LOG, self.metric, maximise=self.study.maximise)

    def _begin(self, claimed: Claimed) -> None:
        """Start a trial, or go on with it where another process left it."""
        settings, planned = self._settings(claimed), self.planned(claimed)
        scores = [score for member in planned if (score := self._finished(member)) is not None]
        if len(scores) == len(planned):
            self._complete(claimed, planned, scores)
            return
        slot = next(number for number in range(self.jobs) if number not in {trial.slot for trial in self.running})
        kind = self.begun.data.targets[0].kind
        epochs = max(members.chosen_recipe(settings, fold.manifest.splits[TRAIN].molecules, kind).epochs for fold in self.folds.values())
        process = self._process(claimed, planned[len(scores)], slot)
        trial = Trial(claimed=claimed, planned=planned, epochs=epochs, slot=slot, scores=scores, process=process, step=claimed.last_step)
        self.running.append(trial)

    def _process(self, claimed: Claimed, member: members.Member, slot: int) -> subprocess.Popen:
        """It holds the trial's lock as well: nobody else goes on with what it may still save."""
        return member_processes.start(self.begun.folder, member, slot, self.threads, kept=[claimed.lock])

    def _finished(self, member: members.Member) -> float | None:
        """The score of a member that an earlier process trained to its end."""
        scores = self._scores(member) if member_processes.was_trained(self.begun.folder, member) else []
        return scores[-1][1] if scores else None

    def _look(self, trial: Trial) -> None:
        """Report new scores, and do what is due: prune, go on with the next fold, end."""
        code = trial.process.poll()
        self._report(trial)
        if code is None:
            if not trial.hopeless and not trial.is_at_its_end and self.study.hopeless(trial.claimed):
                trial.hopeless = True
                trial.process.terminate()
            return
        folder = self.begun.folder / trial.member.folder
        if not trial.hopeless and ((code == 0 and (folder / member_processes.STOPPED).exists()) or -code in TOLD_TO_STOP):
            raise UserError(f"trial {trial.claimed.number} was stopped by a signal; the same command goes on with it")
        self.running.remove(trial)
        if trial.hopeless:
            self.study.prune(trial.claimed)
            self._clear(trial.planned)
            return
        try:
            member_processes.check_end(self.begun.folder, trial.member, code)
            scores = self._scores(trial.member)
            if not scores or not math.isfinite(scores[-1][1]):
                raise UserError(f"no validation score that is a number; all it said is in {folder / member_processes.OUTPUT}")
        except UserError as error:
            self.study.fail(trial.claimed, str(error).removesuffix("; the same command goes on"))
            self._clear(trial.planned)
            return
        trial.scores.append(scores[-1][1])
        if len(trial.scores) == len(trial.planned):
            self._complete(trial.claimed, trial.planned, trial.scores)
            return
        trial.seen, trial.process = -1, self._process(trial.claimed, trial.member, trial.slot)
        self.running.append(trial)

    def _complete(self, claimed: Claimed, trained: list[members.Member], scores: list[float]) -> None:
        self.study.complete(claimed, sum(scores) / len(scores))
        self._clear(trained)

    def _report(self, trial: Trial) -> None:
        """The mean over folds so far, of each fold the best epoch so far, at all steps that were passed since the last look."""
        log = self.begun.folder / trial.member.folder / members.LOG
        size = log.stat().st_size if log.exists() else 0
        if size == trial.seen:
            return
        trial.seen = size
        for epoch, best in self._scores(trial.member):
            step = STEPS * len(trial.scores) + min(STEPS, STEPS * epoch // trial.epochs)
            values = [*trial.scores, best]
            for passed in range(trial.step + 1, step + 1) if math.isfinite(best) else ():
                self.study.report(trial.claimed, passed, sum(values) / len(values))
            trial.step = max(trial.step, step)

    def _clear(self, trained: list[members.Member]) -> None:
        """Remove the checkpoints of a trial that ended: the winner is trained again, on the same molecules."""
        for member in trained:
            for path in (self.begun.folder / member.folder).glob("*.pt"):
                path.unlink(missing_ok=True)

    def _show(self) -> None:
        tried = self.study.tried()
        ended = sum(each.state != "running" for each in tried)
        self.show(ended + sum(trial.step for trial in self.running) / (STEPS * len(self.folds)), tried)


def scores_in(log: Path, metric: str, *, maximise: bool) -> list[tuple[int, float]]:
    """(epoch, best score so far) of each validation that a member's log tells of; what is no number is worse than any."""
    result: list[tuple[int, float]] = []
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return result
    for line in lines:
        if f'"{SCORE}{metric}"' not in line:
            continue
        try:
            content = json.loads(line[line.index("{") :])
            epoch, score = int(content["epoch"]), float(content[f"{SCORE}{metric}"])
        except (ValueError, KeyError, TypeError):
            continue
        numbers = [each for each in (*(best for _, best in result[-1:]), score) if math.isfinite(each)]
        result.append((epoch, (max if maximise else min)(numbers, default=score)))
    return result
