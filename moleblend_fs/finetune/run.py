"""A run of `moleblend finetune`, from DATA to a folder with members, predictions, scores and a report."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moleblend_fs import __version__
from moleblend_fs.chem.parse import silence_rdkit
from moleblend_fs.data.split_file import SplitFile, open_store
from moleblend_fs.data.splits import TEST, TRAIN
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.files import as_json, resolved, whole_file, write_atomically
from moleblend_fs.finetune import member_processes, members
from moleblend_fs.finetune.data import Data, is_store, opened, prepare
from moleblend_fs.finetune.folds import check_labels, make_folds, smiles_of
from moleblend_fs.finetune.metrics import metrics_of
from moleblend_fs.finetune.predicting import FoldResult, fold_result
from moleblend_fs.finetune.progress import Progress
from moleblend_fs.finetune.run_folder import COMMAND, SPLITS, STORE, Asked, at_work, claim, leave
from moleblend_fs.finetune.scoring import calibrate
from moleblend_fs.finetune.settings import Settings
from moleblend_fs.finetune.starting_point import StartingPoint, starting_point
from moleblend_fs.finetune.store_cache import cache_folder, link_or_copy
from moleblend_fs.finetune.tables import write_tables
from moleblend_fs.inference.predict import Runner
from moleblend_fs.predictions.calibration import Calibration
from moleblend_fs.predictions.checkpoint_model import ABOUT, FORMAT, VERSION

METRICS, CALIBRATION = "metrics.json", "calibration.json"
TRAINING_MOLECULES = "training_molecules.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run came to.

    Attributes:
        out: its folder. metrics: content of metrics.json. notes: what the user should be told of the input.
        molecules, failed: stored and unreadable rows.
        began: what the models began with, in words.
    """

    out: Path
    metrics: dict[str, Any]
    notes: tuple[str, ...]
    molecules: int
    failed: int
    began: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A run whose molecules are read and split.

    Attributes:
        given: DATA. folder: the run's. settings: what is asked for. data: the molecules.
        store_path: as members' commands name the store, seen from the folder. folds: name -> the store split so.
        start: what models begin with.
    """

    given: Path
    folder: Path
    settings: Settings
    data: Data
    store_path: str
    folds: dict[str, Store]
    start: StartingPoint

    def members(self) -> list[members.Member]:
        """All that are to be trained."""
        return members.plan(self.data, self.store_path, self.folds, self.settings)


def finetune(
    given: str | os.PathLike,
    out: str | os.PathLike,
    settings: Settings,
    *,
    jobs: int = 0,
    progress: Progress | None = None,
    command: str = "",
    store: Path | None = None,
    cache: bool = True,
) -> Outcome:
    """Do all of it; what an earlier call with the same arguments has done is not done again.

    Args:
        given: DATA. out: the run's folder. jobs: members at a time; 0 for what the machine has.
        progress: where it is shown how far it is. command: that is written to command.sh.
        store: one that was made of the same DATA with the same settings, to be taken instead of making it.
        cache: whether molecules that an earlier run made of the same content may be taken, and these be kept for others (`store_cache`).

    Raises:
        UserError: anything that the user can put right; `out` holds a run of other arguments, or another command is at work there.
    """
    progress = progress or Progress(quiet=True)
    with at_work(Path(given), resolved(out)) as lock:
        begun = begin(given, out, settings, jobs=jobs, progress=progress, command=command, store=store, cache=cache)
        planned = begun.members()
        progress.stage(f"training from {begun.start.name}")
        at_once = jobs or member_processes.default_jobs(len(planned))
        member_processes.Training(begun.folder, planned, at_once, progress.updates, kept=[lock]).run()
        return finish(begun, planned, jobs=jobs, progress=progress, shown=Path(out))


def collect(given: str | os.PathLike, out: str | os.PathLike, settings: Settings, *, jobs: int, progress: Progress) -> Outcome:
    """The end of a run whose members were trained elsewhere; UserError names those that were not."""
    with at_work(Path(given), resolved(out)):
        begun = begin(given, out, settings, jobs=jobs, progress=progress)
        planned = begun.members()
        if missing := [member.name for member in planned if not member_processes.finished(begun.folder, member)]:
            raise UserError(f"{len(missing)} of {len(planned)} members are not trained: {', '.join(missing[:20])}; the command trains them")
        return finish(begun, planned, jobs=jobs, progress=progress, shown=Path(out))


def begin(
    given: str | os.PathLike,
    out: str | os.PathLike,
    settings: Settings,
    *,
    jobs: int = 0,
    progress: Progress,
    command: str = "",
    store: Path | None = None,
    cache: bool = True,
    asked: Asked | None = None,
) -> Begun:
    """Claim the folder, read the molecules and split them; as in `finetune`. `asked`: by whom, and what for besides the settings."""
    given, folder = Path(given), resolved(out)
    silence_rdkit()  # molecules that an earlier run made are read here for the first time
    start = starting_point(given, settings)
    settings = start.settings
    was_there = folder.exists()
    claim(given, folder, settings, asked or Asked())
    if command:
        write_atomically(folder / COMMAND, f"#!/bin/sh\n{command}\n")
    progress.stage("molecules")
    if store is not None and not (folder / STORE).exists() and not is_store(given):
        shutil.copytree(store, folder / STORE, copy_function=link_or_copy)
    stores, workers = cache_folder() if cache else None, jobs or len(os.sched_getaffinity(0))
    try:
        data = prepare(given, settings, folder, start.hydrogens, workers=workers, progress=progress.verbose, cache=stores)
    except UserError:
        leave(folder, was_there)
        raise
    progress.stage("splits")
    if not (folder / SPLITS).is_file():
        make_folds(data.store, settings).save(folder / SPLITS)
    store_path = STORE if not is_store(given) else str(resolved(given))
    folds = _folds(data, folder)
    check_labels(folds, [label.name for label in data.targets])
    return Begun(given=given, folder=folder, settings=settings, data=data, store_path=store_path, folds=folds, start=start)


def look(given: str | os.PathLike, out: str | os.PathLike, settings: Settings, asked: Asked | None = None) -> None:
    """Claim the folder and find the user's mistakes in DATA and settings, before any molecule is made; as in `begin`."""
    given, folder = Path(given), resolved(out)
    start = starting_point(given, settings)
    was_there = folder.exists()
    claim(given, folder, start.settings, asked or Asked())
    try:
        if not is_store(given):
            opened(given, start.settings, folder, start.hydrogens)
    except UserError:
        leave(folder, was_there)
        raise


def finish(begun: Begun, planned: list[members.Member], *, jobs: int, progress: Progress, shown: Path) -> Outcome:
    """Predictions, scores, files and page of a run whose members are trained; `shown`: its folder as the user calls it."""
    folder, data, folds, settings = begun.folder, begun.data, begun.folds, begun.settings
    progress.stage("predictions")
    checkpoints = {name: {m.name: folder / m.folder / members.CHECKPOINT for m in planned if m.fold == name} for name in folds}
    runner = Runner(precision=settings.precision)
    results = [fold_result(name, store, checkpoints[name], data, runner) for name, store in folds.items()]
    progress.stage("baselines")
    metrics = metrics_of(data, folds, results, settings, jobs=jobs or len(os.sched_getaffinity(0)), progress=progress)
    _write(folder, begun.given, data, folds, planned, results, settings, metrics)
    progress.stage("report")
    from moleblend_fs.finetune.split_similarity import left_out, nearest, overlap, with_pretraining
    from moleblend_fs.report.finetune_page import write_page

    pretraining = with_pretraining(data.store, folds, settings.start)
    near = nearest(folder, data.store, folds, [label.name for label in data.targets])
    write_page(folder, near, overlap(data.store, folds), pretraining, left_out(data.store))
    progress.end()
    made = {*data.store.source_row.tolist(), *data.store.joined_rows[:, 0].tolist()}
    failed = len({line.row for line in data.store.failures()} - made)
    began = begun.start.told
    return Outcome(out=shown, metrics=metrics, notes=data.notes, molecules=len(data.store), failed=failed, began=began)


def splits_of(path: Path) -> SplitFile:
    """A file of splits that a run made; UserError where it is damaged."""
    try:
        return SplitFile.load(path)
    except UserError as error:
        raise UserError(f"{error}; delete the file, and the same command makes it again") from error


def _folds(data: Data, folder: Path) -> dict[str, Store]:
    return {name: open_store(data.store.path, folder / SPLITS, name) for name in splits_of(folder / SPLITS).folds}


def _molecules(folds: dict[str, Store], split: str) -> np.ndarray:
    """Numbers of the molecules that are of a split in any fold."""
    return np.unique(np.concatenate([np.asarray(store.split(split)) for store in folds.values()]))


def _write(
    folder: Path,
    given: Path,
    data: Data,
    folds: dict[str, Store],
    planned: list[members.Member],
    results: list[FoldResult],
    settings: Settings,
    metrics: dict[str, Any],
) -> None:
    """All files but the report."""
    trained = _molecules(folds, TRAIN)
    cross = bool(np.isin(trained, _molecules(folds, TEST)).all())  # a cross-validation, in which all molecules are tested
    write_tables(folder, data, results, trained, members=settings.ensemble, level=settings.level, cross=cross)
    write_atomically(folder / METRICS, as_json(metrics, indent=1) + "\n")
    _write_calibration(folder, data, results, cross=cross)
    with whole_file(folder / TRAINING_MOLECULES) as stream:
        stream.write("smiles,row\n")
        for text, row in zip(smiles_of(data.store, trained), data.store.source_row[trained].tolist(), strict=True):
            stream.write(f'"{text}",{row}\n' if "," in text or '"' in text else f"{text},{row}\n")
    manifest = data.store.manifest
    kept = [m for m in planned if any(m.name in result.members for result in results if result.name == m.fold)]
    model = {
        "format": FORMAT,
        "version": VERSION,
        "inputs": settings.inputs,
        "weights": settings.weights,
        "hydrogens": manifest.options.get("hydrogens"),
        "conformers": manifest.options.get("conformers"),
        "targets": [{"name": label.name, "kind": label.kind, "unit": label.unit} for label in data.targets],
        "members": [{"name": m.name, "fold": m.fold, "checkpoint": f"{members.FOLDER}/{m.name}/{members.CHECKPOINT}"} for m in kept],
        "training_molecules": TRAINING_MOLECULES,
        "calibration": CALIBRATION,
        "data": dict(manifest.inputs),
        "split": next(iter(folds.values())).manifest.split,
        "version_of_moleblend_fs": __version__,
    }
    write_atomically(folder / ABOUT, as_json(model, indent=1) + "\n")


def _write_calibration(folder: Path, data: Data, results: list[FoldResult], *, cross: bool) -> None:
    """For new molecules: from all out-of-fold predictions. Over the members' spread only where all members are of one fold."""
    said = [result.test if cross else result.valid for result in results]
    prediction, std, label = (np.concatenate([getattr(part, name) for part in said]) for name in ("prediction", "std", "labels"))
    kind = data.targets[0].kind
    of_targets = calibrate(prediction, std, label, kind, scaled=len(results) == 1 and len(results[0].members) > 1)
    Calibration(targets={label.name: each for label, each in zip(data.targets, of_targets, strict=True)}).save(folder / CALIBRATION)
