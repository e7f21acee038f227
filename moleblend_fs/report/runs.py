"""What finished runs left behind: fairseq's JSON logs and the results of `moleblend evaluate`."""

import dataclasses
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from moleblend_fs.data.manifest import Manifest
from moleblend_fs.data.store import MANIFEST
from moleblend_fs.data.typed_json import READING, from_json, read_json
from moleblend_fs.errors import UserError
from moleblend_fs.files import resolved
from moleblend_fs.report.settings import START, Settings, read_settings

VARIANTS = ("scratch", "pretrained")
"""Runs whose folder names differ only by one of these endings (after "_") are compared side by side."""

DAMAGED: dict[str, Any] = {"num_updates": None}
"""Stands for a line of a log that should be a JSON object."""
MOST_UPDATES = 2**53
LARGEST = 1e100
"""Numbers beyond cannot be drawn."""
WITHIN = re.compile(r"\bepoch \d+: +\d+ / \d+ (.*=.*)$")
AFTER = re.compile(r"\bepoch \d+ \| (valid on '.*?' subset \| )?(\w+ .*\|.*)$")
NOT_SHOWN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")
T = TypeVar("T")
Curve = tuple[np.ndarray, np.ndarray]
"""Updates (n,) and values (n,)."""


def split_name(name: str) -> tuple[str, str]:
    """("gap_2d", "scratch") of a run called gap_2d_scratch; the second is "" for names without such an ending."""
    stem, _, ending = name.rpartition("_")
    return (stem, ending) if stem and ending in VARIANTS else (name, "")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingLog:
    """The curves of one training run.

    Attributes:
        name: the log's folder, relative to the folder of runs.
        train: quantity -> values at every log interval.
        valid: quantity -> values at every validation.
        settings: what the run was started with, as far as the log tells.
    """

    name: str
    train: dict[str, Curve]
    valid: dict[str, Curve]
    settings: Settings = field(default_factory=dict)

    def agrees_with(self, other: "TrainingLog") -> bool:
        """Whether both have the same value wherever both have one."""
        for mine, theirs in ((self.train, other.train), (self.valid, other.valid)):
            for name in mine.keys() & theirs.keys():
                points = dict(zip(*mine[name], strict=True))
                if any(points.get(update, value) != value for update, value in zip(*theirs[name], strict=True)):
                    return False
        return True

    def joined_with(self, other: "TrainingLog") -> "TrainingLog":
        """The points of both."""
        both = []
        for mine, theirs in ((self.train, other.train), (self.valid, other.valid)):
            names = dict.fromkeys((*mine, *theirs))
            both.append({n: {u: v for log in (mine, theirs) if n in log for u, v in zip(*log[n], strict=True)} for n in names})
        return TrainingLog(name=self.name, train=curves(both[0]), valid=curves(both[1]), settings={**self.settings, **other.settings})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """One file written by `moleblend evaluate --json`.

    Attributes:
        name: the file's folder, relative to the folder of runs.
        store: path of the store.
        split: which split was scored.
        metrics: target -> metric -> value, None where it is not defined.
        baseline: target -> metric -> value of the predictor that always says the training mean.
        units: target -> unit; "" where it is not known.
        target, prediction: (molecules, targets), NaN where missing.
        smiles: of each molecule; "" where it is not told. rows: of each in the source, or what stands for it.
        about: what else the file says of the whole: "checkpoint", "updates", "inputs", "split_sha256", as texts.
    """

    name: str
    store: str
    split: str
    metrics: dict[str, dict[str, float | None]]
    baseline: dict[str, dict[str, float | None]]
    units: dict[str, str] = field(default_factory=dict)
    target: np.ndarray
    prediction: np.ndarray
    smiles: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)

    @property
    def variant(self) -> tuple[str, str]:
        """See `split_name`."""
        return split_name(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """All that was found under one folder, sorted by name."""

    folder: Path
    logs: list[TrainingLog]
    evaluations: list[Evaluation]
    notes: list[str] = field(default_factory=list)
    """What could not be read, a sentence for each file."""

    @property
    def stores(self) -> list[Path]:
        """Stores under the folder, and those that the evaluations name, as far as they still exist."""
        found = [path.parent for path in sorted(self.folder.rglob(MANIFEST))]
        found += [Path(evaluation.store) for evaluation in self.evaluations]
        return list(dict.fromkeys(resolved(path) for path in found if holds_store(path)))


def holds_store(path: Path) -> bool:
    """Whether a store lies there; a path of a result file may be one that no system can have."""
    try:
        return (path / MANIFEST).is_file()
    except (OSError, ValueError):
        return False


def find_runs(folder: Path) -> Runs:
    """Read every log (*.log, *.jsonl) and evaluation (*.json) under a folder; files of other kinds are passed over."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder that holds the runs' save folders")
    notes: list[str] = []
    files = _files(folder, "*.log", "*.jsonl")
    found = [(path, log) for path in files if (log := _read(read_log, path, folder, notes)) is not None]
    logs = one_log_per_run(found, folder)
    results = [(path, made) for path in _files(folder, "*.json") if (made := _read(read_evaluation, path, folder, notes)) is not None]
    evaluations = [result for _, result in results]
    if not logs and not evaluations:
        raise UserError(
            f"{folder}: neither a training log (fairseq-train --log-format json --log-file RUN/train.log) "
            f"nor a result (moleblend evaluate --json RUN/test.json) was found{''.join(f'; {note}' for note in notes[:5])}"
        )
    runs = {path.parent for path in (*_files(folder, "checkpoint*.pt"), *(path for path, _ in results))}
    notes += without_curves(runs - {path.parent for path, _ in found}, files)
    logs.sort(key=lambda log: split_name(log.name))
    evaluations.sort(key=lambda evaluation: evaluation.variant)
    return Runs(folder=folder, logs=logs, evaluations=evaluations, notes=notes)


def without_curves(runs: set[Path], logs: Sequence[Path]) -> Iterator[str]:
    """A sentence for each folder that holds a run, and logs without curves, or no log."""
    for run in sorted(runs):
        empty = [path for path in logs if path.parent == run]
        yield from (f"{path}: holds no curve of a training run" for path in empty)
        if not empty:
            yield f"{run}: no curves are shown: there is no log of the run (*.log, *.jsonl)"


def _files(folder: Path, *patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in folder.rglob(pattern) if not path.is_dir())


def _read(read: Callable[[Path, Path, list[str]], T | None], path: Path, folder: Path, notes: list[str]) -> T | None:
    """What a function makes of a file; None, and a note, where it cannot be read."""
    try:
        return read(path, folder, notes)
    except (UserError, OSError, ValueError, RecursionError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        notes.append(f"{path}: left out, it cannot be read ({str(what)[:200]})")
        return None


def one_log_per_run(found: Sequence[tuple[Path, TrainingLog]], root: Path) -> list[TrainingLog]:
    """Logs of one folder that say the same are of one run, as `--log-file` and `details.log` are; others are named by their files."""
    logs: dict[str, TrainingLog] = {}
    for path, log in found:
        if log.name in logs and not logs[log.name].agrees_with(log):
            log = dataclasses.replace(log, name=run_name(path.with_suffix("") / path.name, root))
        logs[log.name] = logs[log.name].joined_with(log) if log.name in logs else log
    return list(logs.values())


def read_log(path: Path, root: Path, notes: list[str] | None = None) -> TrainingLog | None:
    """The curves in one log file, or None if it holds none.

    fairseq's log file has plain lines between the JSON ones, and adds one more handler at each epoch, so that lines come
    once, twice, three times ...; a resumed run appends. Of several values at one update the last is kept. Lines that are damaged
    are left out, and counted in a note.
    """
    train: dict[str, dict[int, float]] = {}
    valid: dict[str, dict[int, float]] = {}
    settings: Settings = {}
    damaged = 0
    for entry in entries(path):
        if isinstance(entry, str):
            settings |= read_settings(entry)
            continue
        if "valid_num_updates" in entry:
            updates, kind, prefix = entry["valid_num_updates"], valid, "valid_"
        elif "num_updates" in entry:
            updates, kind, prefix = entry["num_updates"], train, ""
        else:
            continue
        update = number(updates)
        if update is None or not 0 <= update <= MOST_UPDATES:
            damaged += 1
            continue
        for name, text in entry.items():
            value = number(text)
            if name.startswith(prefix) and value is not None:
                kind.setdefault(clean(name.removeprefix(prefix)), {})[int(update)] = value
    if damaged and notes is not None:
        lines = "1 line of it is" if damaged == 1 else f"{damaged} lines of it are"
        notes.append(f"{path}: {lines} damaged and left out")
    if not train and not valid:
        return None
    return TrainingLog(name=run_name(path, root), train=curves(train), valid=curves(valid), settings=settings)


def entries(path: Path) -> Iterator[dict[str, Any] | str]:
    """What the lines of a log hold: values at an update, as JSON or as fairseq's plain formats; the configuration, as its text.

    `DAMAGED` stands for lines that should be JSON objects.
    """
    with open(path, errors="replace") as stream:
        for line in stream:
            if START in line:
                yield line
            elif (plain := plain_values(line)) is not None:
                yield plain
            elif (entry := json_values(line)) is not None:
                yield entry


def json_values(line: str) -> dict[str, Any] | None:
    """The JSON object at a line's end."""
    line = line[line.find("{") :].strip() if "{" in line else ""
    if not line.endswith("}"):
        return None
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = DAMAGED if '_updates"' in line or '"num_updates"' in line else None
    return entry if isinstance(entry, dict) else None


def plain_values(line: str) -> dict[str, Any] | None:
    """Names and values of a line of --log-format simple or tqdm, named as in JSON; None of any other line.

    "epoch 001:   50 / 53 loss=1.2, num_updates=50" within an epoch; "epoch 001 | valid on 'valid' subset | loss 1.2 | num_updates 53".
    """
    if (within := WITHIN.search(line)) is not None:
        pairs = [part.partition("=") for part in within[1].strip().split(", ")]
    elif (after := AFTER.search(line)) is not None:
        pairs = [part.partition(" ") for part in after[2].strip().split(" | ")]
        if not after[1]:  # averages of an epoch, of which JSON lines are passed over as well
            return None
    else:
        return None
    prefix = "valid_" if within is None else ""
    values = {f"{prefix}{name.strip()}": value.strip() for name, _, value in pairs}
    return values if f"{prefix}num_updates" in values else None


def number(text: Any) -> float | None:
    """A finite number that can be drawn, or None."""
    try:
        value = float(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if abs(value) <= LARGEST else None


def clean(text: str) -> str:
    """A text that can be written and drawn: JSON admits halves of characters, and characters that are none."""
    return NOT_SHOWN.sub("\ufffd", text.encode("utf-8", errors="replace").decode())


def curves(values: dict[str, dict[int, float]]) -> dict[str, Curve]:
    """Points sorted by update."""
    return {name: (np.array(sorted(points)), np.array([points[u] for u in sorted(points)])) for name, points in values.items()}


def run_name(path: Path, root: Path) -> str:
    """A file's folder relative to the root, or the file's own name at the root itself."""
    folder = path.parent.relative_to(root)
    return clean(os.fsencode(path.stem if folder == Path() else folder.as_posix()).decode(errors="replace"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    """The parts of a result file that are shown; see `Evaluation`."""

    store: str
    split: str
    metrics: dict[str, dict[str, float | None]]
    predictions: list[dict[str, Any]]
    baseline: dict[str, dict[str, float | None]] = field(default_factory=dict)
    units: dict[str, str] | None = None
    checkpoint: str = ""
    updates: int | None = None
    inputs: str = ""
    split_sha256: str = ""


def read_evaluation(path: Path, root: Path, notes: list[str] | None = None) -> Evaluation | None:
    """One result file, or None if the file is some other JSON.

    Raises:
        UserError: a result file whose parts are not what they should be.
    """
    try:
        raw = read_json(path)
    except READING as error:
        raise UserError(f"not readable as JSON: {error}") from error
    if not isinstance(raw, dict) or not {"store", "split", "metrics", "predictions"} <= set(raw):
        return None
    fields = {name: raw[name] for name in _Result.__dataclass_fields__ if raw.get(name) is not None}
    result = from_json(_Result, fields)

    def column(name: str) -> np.ndarray:
        values = [[math.nan if (x := number(value)) is None else x for value in row[name]] for row in result.predictions]
        if any(len(row) != len(result.metrics) for row in values):
            raise UserError(f"rows of {name!r} of another length than there are metrics")
        return np.array(values, dtype=np.float64).reshape(-1, len(result.metrics))

    try:
        target, prediction = column("target"), column("prediction")
    except (KeyError, TypeError) as error:
        raise UserError(f"predictions without a target or prediction ({error})") from error
    return Evaluation(
        name=run_name(path, root),
        store=result.store,
        split=clean(result.split),
        metrics=_cleaned(result.metrics),
        baseline=_cleaned(result.baseline),
        units={clean(name): clean(unit) for name, unit in (result.units or units_of(Path(result.store))).items()},
        target=target,
        prediction=prediction,
        smiles=[clean(str(row.get("smiles") or "")) for row in result.predictions],
        rows=[clean(str(row.get("id", ""))) for row in result.predictions],
        about={name: clean(str(raw[name])) for name in ("checkpoint", "updates", "inputs", "split_sha256") if raw.get(name) is not None},
    )


def _cleaned(scores: dict[str, dict[str, float | None]]) -> dict[str, dict[str, float | None]]:
    return {clean(target): {name: number(value) for name, value in metrics.items()} for target, metrics in scores.items()}


def units_of(store: Path) -> dict[str, str]:
    """Label -> unit of a store; nothing if it has gone, or cannot be read."""
    try:
        return {label.name: label.unit for label in Manifest.load(store / MANIFEST).labels}
    except UserError:
        return {}
