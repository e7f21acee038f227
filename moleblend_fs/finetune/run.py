"""A run of `moleblend finetune`, from DATA to a folder with members, predictions, scores and a report."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moleblend_fs import __version__
from moleblend_fs.checkpoint.read import load
from moleblend_fs.data.split_file import all_labels, open_store
from moleblend_fs.data.splits import TEST, TRAIN, VALID
from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError
from moleblend_fs.files import as_json, resolved, whole_file, write_atomically
from moleblend_fs.finetune import baselines, members
from moleblend_fs.finetune.data import COPY, Data, is_store, prepare
from moleblend_fs.finetune.folds import make_folds, smiles_of
from moleblend_fs.finetune.predicting import FoldResult, fold_result
from moleblend_fs.finetune.progress import Progress
from moleblend_fs.finetune.scoring import HIGHER_IS_BETTER, INTERVALS, calibrate, coverage, half_widths, score_folds
from moleblend_fs.finetune.settings import Settings
from moleblend_fs.finetune.tables import write_tables
from moleblend_fs.inference.predict import Runner
from moleblend_fs.predictions.calibration import Calibration
from moleblend_fs.predictions.model import ABOUT, FORMAT, VERSION
from moleblend_fs.sources.base import identify

REQUEST, SPLITS, METRICS, CALIBRATION = "request.json", "splits.json", "metrics.json", "calibration.json"
TRAINING_MOLECULES, COMMAND = "training_molecules.csv", "command.sh"
SHAPES_STORE = {"targets", "kind", "smiles_column", "split_column", "weights", "inputs", "hydrogens", "conformers", "max_atoms"}
"""Settings that a store is made by."""
MODEL_NAME = "moleblend"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run came to.

    Attributes:
        out: its folder. metrics: content of metrics.json. notes: what the user should be told of the input.
        molecules, failed: stored and unreadable rows.
    """

    out: Path
    metrics: dict[str, Any]
    notes: tuple[str, ...]
    molecules: int
    failed: int


def finetune(
    given: str | os.PathLike,
    out: str | os.PathLike,
    settings: Settings,
    *,
    jobs: int = 0,
    progress: Progress | None = None,
    command: str = "",
) -> Outcome:
    """Do all of it; what an earlier call with the same arguments has done is not done again.

    Args:
        given: DATA. out: the run's folder. jobs: members at a time; 0 for what the machine has.
        progress: where it is shown how far it is. command: that is written to command.sh.

    Raises:
        UserError: anything that is the user's to mend; `out` holds a run of other arguments.
    """
    progress = progress or Progress(quiet=True)
    given, folder = Path(given), resolved(out)
    hydrogens = _hydrogens(settings)
    was_there = folder.exists()
    _claim(given, folder, settings)
    if command:
        write_atomically(folder / COMMAND, f"#!/bin/sh\n{command}\n")
    progress.stage("molecules")
    try:
        data = prepare(given, settings, folder, hydrogens, workers=jobs or len(os.sched_getaffinity(0)), progress=progress.verbose)
    except UserError:
        _leave(folder, was_there)
        raise
    progress.stage("splits")
    if not (folder / SPLITS).is_file():
        make_folds(data.store, settings).save(folder / SPLITS)
    folds = _folds(data, folder)
    store_path = "store" if not is_store(given) else str(resolved(given))
    planned = members.plan(data, store_path, folds, settings)
    at_once = jobs or members.default_jobs(len(planned))
    progress.stage("training")
    members.Training(folder, planned, at_once, progress.updates).run()
    progress.stage("predictions")
    checkpoints = {name: [folder / members.FOLDER / m.name / members.CHECKPOINT for m in planned if m.fold == name] for name in folds}
    results = [fold_result(name, store, checkpoints[name], data, Runner()) for name, store in folds.items()]
    progress.stage("baselines")
    metrics = _metrics(data, folds, results, settings, jobs=jobs or len(os.sched_getaffinity(0)), progress=progress)
    _write(folder, given, data, folds, planned, results, settings, metrics)
    progress.stage("report")
    from moleblend_fs.report.finetuned import write_page

    write_page(folder)
    progress.end()
    failed = sum(1 for line in data.store.failures() if line.row not in set(data.store.source_row.tolist()))
    return Outcome(out=Path(out), metrics=metrics, notes=data.notes, molecules=len(data.store), failed=failed)


def _claim(given: Path, folder: Path, settings: Settings) -> None:
    """Note in the folder what the run is of; UserError if it has trained another one, or holds something else."""
    if not given.exists():
        raise UserError(f"{given}: no such file")
    identity = Store(given).manifest.records_sha256 if is_store(given) else next(iter(identify([given]).values()))
    request: dict[str, Any] = {"data": {"name": given.name, "hash": identity}, "settings": settings.to_json(), "version": __version__}
    if settings.split_file:
        request["split file"] = next(iter(identify([_existing(settings.split_file)]).values()))
    if settings.weights:
        request["weights"] = _weights_identity(settings.weights)
    place = folder / REQUEST
    if place.is_file():
        try:
            before = json.loads(place.read_text())
        except ValueError as error:
            raise UserError(f"{place}: cannot be read ({error}); choose another OUT") from error
        differing = [name for name in settings.to_json() if before.get("settings", {}).get(name) != request["settings"][name]]
        told = [f"--{name.replace('_', '-')} {before['settings'].get(name)} there, {request['settings'][name]} here" for name in differing]
        told += [f"{name}: another file" for name in ("data", "split file", "weights") if before.get(name) != request.get(name)]
        if not told:
            return
        if (folder / members.FOLDER).exists():
            raise UserError(
                f"{folder} has a run of other arguments ({'; '.join(told)}); give the same to go on with it, or choose another OUT"
            )
        _begin_anew(folder, same_molecules=before.get("data") == request["data"] and not SHAPES_STORE.intersection(differing))
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and no run of `moleblend finetune`; choose another OUT")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(place, as_json(request, indent=1) + "\n")


def _begin_anew(folder: Path, *, same_molecules: bool) -> None:
    """Remove what a run of other arguments made that did not come to train: its splits, and its store if the molecules are others."""
    (folder / SPLITS).unlink(missing_ok=True)
    if not same_molecules:
        (folder / COPY).unlink(missing_ok=True)
        for name in ("store", "store.partial"):
            shutil.rmtree(folder / name, ignore_errors=True)


def _leave(folder: Path, was_there: bool) -> None:
    """Take back the claim on a folder in which nothing was made."""
    if {path.name for path in folder.iterdir()} <= {REQUEST, COMMAND}:
        for name in (REQUEST, COMMAND):
            (folder / name).unlink(missing_ok=True)
        if not was_there:
            folder.rmdir()


def _existing(path: str) -> Path:
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    return Path(path)


def _weights_identity(path: str) -> str:
    place = Path(path)
    place = place / "model.safetensors" if place.is_dir() else place
    return next(iter(identify([_existing(str(place))]).values()))


def _hydrogens(settings: Settings) -> str:
    """Those that are asked for, or of the weights, or none."""
    if settings.hydrogens or not settings.weights:
        return settings.hydrogens or "none"
    trained_on = load(settings.weights).trained_on
    return "explicit" if trained_on is not None and trained_on.hydrogens == "explicit" else "none"


def _folds(data: Data, folder: Path) -> dict[str, Store]:
    names = list(json.loads((folder / SPLITS).read_text())["folds"])
    return {name: open_store(data.store.path, folder / SPLITS, name) for name in names}


def _cross(folds: dict[str, Store], settings: Settings) -> bool:
    """Whether the folds are those of a cross-validation, in which every molecule is tested."""
    return settings.folds > 1


def _metrics(
    data: Data, folds: dict[str, Store], results: list[FoldResult], settings: Settings, *, jobs: int, progress: Progress
) -> dict[str, Any]:
    """The content of metrics.json."""
    names, kind = tuple(label.name for label in data.targets), data.targets[0].kind
    tested = [result for result in results if not np.isnan(result.test.labels).all()]
    metrics: dict[str, Any] = {
        "kind": kind,
        "targets": {label.name: {"kind": label.kind, "unit": label.unit} for label in data.targets},
        "score": INTERVALS[kind][0],
        "molecules": {name: {s: store.manifest.splits[s].molecules for s in (TRAIN, VALID, TEST)} for name, store in folds.items()},
        "level": settings.level,
        "models": {},
    }
    if not tested:
        return metrics | {"first_line": "there is no test split with labels: nothing was scored"}
    metrics["models"][MODEL_NAME] = score_folds([(r.reported(), r.test.labels) for r in tested], names, kind, settings.seed)
    if kind == "regression":
        metrics["coverage"] = _coverage(tested, names, settings.level, settings.ensemble)
    said = {r.name: _baselines(data, folds[r.name], settings.seed, jobs) for r in tested}
    for name in baselines.NAMES[kind]:
        metrics["models"][name] = score_folds([(said[r.name][name], r.test.labels) for r in tested], names, kind, settings.seed)
    return metrics | compared(metrics)


def _coverage(tested: list[FoldResult], names: tuple[str, ...], level: float, members_of_fold: int) -> dict[str, float | None]:
    """Share of test labels within their intervals, which were calibrated on validation molecules."""
    halves, predictions, labels = [], [], []
    for r in tested:
        halves.append(half_widths(r.test.std, r.calibration, level, members=members_of_fold))
        predictions.append(r.reported())
        labels.append(r.test.labels)
    return dict(zip(names, coverage(*map(np.concatenate, (predictions, halves, labels))), strict=True))


def _baselines(data: Data, store: Store, seed: int, jobs: int) -> dict[str, np.ndarray]:
    columns = [store.manifest.label_index(label.name) for label in data.targets]
    bits = {split: baselines.fingerprints(smiles_of(store, store.split(split))) for split in (TRAIN, VALID, TEST)}
    labels = {split: all_labels(store, store.split(split))[:, columns] for split in (TRAIN, VALID)}
    return baselines.predictions(bits, labels, data.targets[0].kind, seed=seed, jobs=jobs)


def compared(metrics: dict[str, Any]) -> dict[str, Any]:
    """The best model by the first score, and a sentence that says so first where a baseline wins."""
    score = metrics["score"]
    values = {name: of["mean"][score].get("value") for name, of in metrics["models"].items()}
    known = {name: value for name, value in values.items() if value is not None}
    if MODEL_NAME not in known:
        return {"best": None, "first_line": f"{score} is not defined on the test molecules (of classes it needs both)"}
    best = (max if HIGHER_IS_BETTER[score] else min)(known, key=lambda name: known[name])
    if best != MODEL_NAME:
        sentence = f"a baseline wins: {best} has test {score} {known[best]:.4g}, the trained model {known[MODEL_NAME]:.4g}"
        return {"best": best, "first_line": sentence}
    others = {name: value for name, value in known.items() if name != MODEL_NAME}
    second = (max if HIGHER_IS_BETTER[score] else min)(others, key=lambda name: others[name]) if others else None
    rest = "" if second is None else f", better than every baseline (best of them: {second}, {others[second]:.4g})"
    return {"best": MODEL_NAME, "first_line": f"test {score} {known[MODEL_NAME]:.4g}{rest}"}


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
    cross = _cross(folds, settings)
    write_tables(folder, data, results, members=settings.ensemble, level=settings.level, cross=cross)
    write_atomically(folder / METRICS, as_json(metrics, indent=1) + "\n")
    _write_calibration(folder, data, results, settings, cross=cross)
    trained = np.unique(np.concatenate([np.asarray(store.split(TRAIN)) for store in folds.values()]))
    with whole_file(folder / TRAINING_MOLECULES) as stream:
        stream.write("smiles,row\n")
        for text, row in zip(smiles_of(data.store, trained), data.store.source_row[trained].tolist(), strict=True):
            stream.write(f'"{text}",{row}\n' if "," in text or '"' in text else f"{text},{row}\n")
    manifest = data.store.manifest
    model = {
        "format": FORMAT,
        "version": VERSION,
        "inputs": settings.inputs,
        "hydrogens": manifest.options.get("hydrogens"),
        "conformers": manifest.options.get("conformers"),
        "targets": [{"name": label.name, "kind": label.kind, "unit": label.unit} for label in data.targets],
        "members": [{"name": m.name, "fold": m.fold, "checkpoint": f"{members.FOLDER}/{m.name}/{members.CHECKPOINT}"} for m in planned],
        "training_molecules": TRAINING_MOLECULES,
        "calibration": CALIBRATION,
        "data": dict(manifest.inputs),
        "split": next(iter(folds.values())).manifest.split,
        "version_of_moleblend_fs": __version__,
    }
    write_atomically(folder / ABOUT, as_json(model, indent=1) + "\n")


def _write_calibration(folder: Path, data: Data, results: list[FoldResult], settings: Settings, *, cross: bool) -> None:
    """For new molecules: from all out-of-fold predictions. Over the members' spread only where all members are of one fold."""
    said = [result.test if cross else result.valid for result in results]
    prediction, std, label = (np.concatenate([getattr(part, name) for part in said]) for name in ("prediction", "std", "labels"))
    kind = data.targets[0].kind
    of_targets = calibrate(prediction, std, label, kind, scaled=len(results) == 1 and settings.ensemble > 1)
    Calibration(targets={label.name: each for label, each in zip(data.targets, of_targets, strict=True)}).save(folder / CALIBRATION)
