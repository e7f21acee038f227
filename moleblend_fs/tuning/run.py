"""A run of `moleblend tune`: trials scored on validation folds, then an ordinary run of `moleblend finetune` with the winner's settings."""

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moleblend_fs.checkpoint.weights_by_name import NONE, names
from moleblend_fs.data.split_file import SplitFile, open_store
from moleblend_fs.data.splits import TRAIN, VALID
from moleblend_fs.data.store import Store
from moleblend_fs.data.typed_json import READING, read_json
from moleblend_fs.errors import UserError
from moleblend_fs.files import as_json, resolved, write_atomically
from moleblend_fs.finetune import member_processes, members
from moleblend_fs.finetune.folds import check_labels, dealt, groups_of, kind_of, smiles_of
from moleblend_fs.finetune.progress import Progress
from moleblend_fs.finetune.run import METRICS, Begun, Outcome, begin, finetune, look, splits_of
from moleblend_fs.finetune.run_folder import LOCK, SELECTION, STORE, Asked, leave, refuse
from moleblend_fs.finetune.settings import Settings
from moleblend_fs.locks import locked
from moleblend_fs.tuning.search import Search
from moleblend_fs.tuning.space import Dimension, check_space, space_of
from moleblend_fs.tuning.study import JOURNAL, Study, Tried, tried_in

FINAL, HISTORY, FINAL_LOCK = "best-trial{}", "trials.json", "final.lock"
GROUPED = ("scaffold", "scaffold-balanced", "butina", "random")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked for besides the settings.

    Attributes:
        trials: in all. space: names of spaces and NAME=VALUES. folds: on whose validation molecules a trial is scored; 1 for the
            split's own. pruning: whether trials may end early.
    """

    trials: int = 20
    space: tuple[str, ...] = ()
    folds: int = 1
    pruning: bool = True

    def __post_init__(self) -> None:
        for name, value in (("--trials", self.trials), ("--validation-folds", self.folds)):
            if value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")

    def asked(self) -> Asked:
        """As a run's folder notes it; more trials go on with a search."""
        more = {"--space": list(self.space), "--validation-folds": self.folds, "pruning": self.pruning}
        return Asked(command="tune", more=more, trained=JOURNAL)

    def words(self) -> list[str]:
        """The options of `moleblend tune` that give this."""
        spaces = [word for text in self.space for word in ("--space", text)]
        return ["--trials", str(self.trials), *spaces, "--validation-folds", str(self.folds), *["--no-pruning"] * (not self.pruning)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What a search came to.

    Attributes:
        best: the winner. tried: all trials. metric: by which they are compared, on validation molecules.
        outcome: of the final run, whose folder it names.
    """

    best: Tried
    tried: list[Tried]
    metric: str
    outcome: Outcome


def tune(
    given: str | os.PathLike,
    out: str | os.PathLike,
    settings: Settings,
    wanted: Wanted,
    *,
    jobs: int = 0,
    progress: Progress | None = None,
    only_search: bool = False,
    cache: bool = True,
) -> Tuned | None:
    """Search, then train with what was found and score the test molecules once. Any number of processes may do this in one folder.

    Args:
        given: DATA. out: the run's folder. settings: what all trials have in common. jobs: trials at a time; 0 for what the machine has.
        only_search: end when no trial is left to begin; None is returned. cache: see `finetune`.

    Raises:
        UserError: anything that is the user's to mend; `out` holds a run of other arguments; no trial came to a score.
    """
    progress = progress or Progress(quiet=True, command="tune")
    if settings.folds > 1 or settings.repeats > 1:
        raise UserError("a search is scored on one test split; folds of its validation molecules are --validation-folds")
    begun, folds = prepared(given, out, settings, wanted, progress=progress, jobs=jobs, cache=cache)
    by_loss = not all(members.both_classes(begun.data, fold) for fold in folds.values())
    metric = metric_of(begun, by_loss)
    molecules = begun.folds[next(iter(begun.folds))].manifest.splits[TRAIN].molecules
    space = space_of(wanted.space, begun.settings, molecules, begun.data.targets[0].kind)
    study = Study(begun.folder, space, maximise=metric == "roc_auc", seed=settings.seed, pruning=wanted.pruning)
    progress.stage("trials")

    def show(done: float, tried: Sequence[Tried]) -> None:
        progress.updates(done, wanted.trials, f"; {told(tried, study.best(), metric)}")

    at_once = min(jobs or member_processes.default_jobs(wanted.trials), wanted.trials)
    search = Search(begun, folds, study, trials=wanted.trials, jobs=at_once, metric=metric, by_loss=by_loss, show=show)
    search.run(to_the_end=not only_search)
    if only_search:
        return None
    with locked(begun.folder / FINAL_LOCK):
        return _final(begun, study, space, metric, Path(out), jobs=jobs, progress=progress)


def prepared(
    given: str | os.PathLike,
    out: str | os.PathLike,
    settings: Settings,
    wanted: Wanted,
    *,
    progress: Progress,
    jobs: int,
    cache: bool = True,
) -> tuple[Begun, dict[str, Store]]:
    """The molecules, and their validation folds; made by one process while others wait."""
    settings = searchable(settings, wanted)
    given, folder = Path(given), resolved(out)
    refuse(given, folder, "tune")
    was_there = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder / LOCK):
            begun = begin(given, out, settings, jobs=jobs, progress=progress, cache=cache, asked=wanted.asked())
            if not (folder / SELECTION).is_file():
                selection(begun, wanted.folds).save(folder / SELECTION)
    except (UserError, OSError):
        leave(folder, was_there)
        raise
    found = splits_of(folder / SELECTION).folds
    folds = {name: open_store(begun.data.store.path, folder / SELECTION, name) for name in found}
    check_labels({f"validation {name}": fold for name, fold in folds.items()}, [label.name for label in begun.data.targets])
    return begun, folds


def searchable(settings: Settings, wanted: Wanted) -> Settings:
    """What all trials have in common; random weights where sizes are searched and nothing is said of weights."""
    sizes = any(each.name == "arch" for each in check_space(wanted.space, settings))
    return replace(settings, weights=NONE) if sizes and not settings.weights else settings


def look_at(given: str | os.PathLike, out: str | os.PathLike, settings: Settings, wanted: Wanted) -> None:
    """Find the user's mistakes before anything is made or submitted."""
    refuse(Path(given), resolved(out), "tune")
    look(given, out, searchable(settings, wanted), wanted.asked())


def ended(folder: Path) -> int:
    """Trials of a folder's search that have ended."""
    return sum(each.state != "running" for each in tried_in(folder))


def finished(folder: Path) -> bool:
    """Whether a search came to its end, the final run's scores and the page."""
    try:
        found = read_json(folder / HISTORY)
        return (folder / found["folder"] / METRICS).is_file() and len(found["trials"]) == len(tried_in(folder))
    except READING:
        return False


def selection(begun: Begun, count: int) -> SplitFile:
    """Folds of train and valid molecules alone: the split's own, or `count` of all that are not tested, in groups as they were split."""
    if len(begun.folds) > 1:
        raise UserError(f"a search is scored on one test split, the file has {', '.join(begun.folds)}; give a file of one")
    store = begun.data.store
    (split,) = begun.folds.values()
    train, valid = (np.asarray(split.split(name)) for name in (TRAIN, VALID))
    folds = {"fold0": {TRAIN: train, VALID: valid}}
    if count > 1:
        kind, pool = kind_of(store, begun.settings), np.sort(np.concatenate([train, valid]))
        parts = dealt(groups_of(smiles_of(store, pool), kind if kind in GROUPED else "random"), count, begun.settings.seed)
        if any(len(part) == 0 for part in parts):
            raise UserError(f"--validation-folds {count}: the molecules have fewer groups; take fewer folds")
        folds = {f"fold{i}": {TRAIN: np.delete(pool, part), VALID: pool[part]} for i, part in enumerate(parts)}
    rows = {name: {split: store.source_row[indices] for split, indices in fold.items()} for name, fold in folds.items()}
    about: dict[str, Any] = {"kind": "validation folds of a search", "folds": count, "seed": begun.settings.seed}
    return SplitFile(folds=rows, about=about, inputs=store.manifest.inputs)


def metric_of(begun: Begun, by_loss: bool) -> str:
    """The validation score that picks epochs and trials: as the task of fairseq does."""
    targets = begun.data.targets
    if by_loss or (targets[0].kind == "regression" and len(targets) > 1):
        return "loss"
    return "roc_auc" if targets[0].kind == "classification" else {"mse": "rmse", "mae": "mae"}[begun.settings.regression_loss]


def told(tried: Sequence[Tried], best: Tried | None, metric: str) -> str:
    """How far a search is, in a few words."""
    counts = Counter(each.state for each in tried)
    ended = f"{sum(counts.values()) - counts['running']} trials ended"
    return f"{ended}, best {metric} {best.score:.4g} (trial {best.number})" if best else ended


def _final(begun: Begun, study: Study, space: Sequence[Dimension], metric: str, out: Path, *, jobs: int, progress: Progress) -> Tuned:
    """The run with the winner's settings; test labels are looked at here for the first time."""
    tried, best = study.tried(), study.best()
    if best is None:
        reasons = "; ".join(dict.fromkeys(each.reason for each in tried if each.reason))
        raise UserError(
            f"no trial came to a score ({reasons[:500] or 'all were pruned'}); more of them: a larger --trials in the same folder"
        )
    content = {
        "metric": metric,
        "higher_is_better": study.maximise,
        "space": [str(each) for each in space],
        "best": best.number,
        "folder": FINAL.format(best.number),
        "trials": [asdict(each) for each in tried],
    }
    write_atomically(begun.folder / HISTORY, as_json(content, indent=1) + "\n")
    settings = replace(begun.settings, **best.settings)
    folder = begun.folder / FINAL.format(best.number)
    words = ["moleblend", "finetune", os.path.abspath(begun.given), str(folder), *absolute(settings).words()]
    store = None if begun.store_path != STORE else begun.folder / STORE
    outcome = finetune(begun.given, folder, absolute(settings), jobs=jobs, progress=progress, command=shlex.join(words), store=store)
    progress.stage("report")
    from moleblend_fs.report.tune_page import write_page

    write_page(begun.folder)
    progress.end()
    return Tuned(best=best, tried=tried, metric=metric, outcome=replace(outcome, out=out / folder.name))


def absolute(settings: Settings) -> Settings:
    """Settings whose paths are the same from everywhere."""
    named = settings.start is None or settings.weights in names()
    weights = settings.weights if named else os.path.abspath(settings.weights)
    return replace(settings, weights=weights, split_file=os.path.abspath(settings.split_file) if settings.split_file else "")
