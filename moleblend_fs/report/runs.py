"""All runs under a folder: their logs, and the results of `moleblend evaluate`."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from moleblend_fs.data.onnx_detection import refuse_exported
from moleblend_fs.data.sidecar import FOLDER as SIDECARS
from moleblend_fs.data.store import MANIFEST
from moleblend_fs.errors import UserError
from moleblend_fs.files import resolved
from moleblend_fs.report.drawable_values import run_name, split_name
from moleblend_fs.report.result_files import Evaluation, read_evaluation
from moleblend_fs.report.training_logs import TrainingLog, read_log

T = TypeVar("T")
DETAILS = "details.log"
"""What training writes in each save folder: configuration and warnings. Progress is in `--log-file`, or was on the terminal alone."""


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
        found = [path.parent for path in sorted(self.folder.rglob(MANIFEST)) if not of_sidecar(path)]
        found += [Path(evaluation.store) for evaluation in self.evaluations]
        return list(dict.fromkeys(resolved(path) for path in found if holds_store(path)))


def of_sidecar(manifest: Path) -> bool:
    """Whether a manifest is that of a store's sidecar, which lies below the store."""
    above = manifest.parent.parent
    return above.name == SIDECARS and holds_store(above.parent)


def holds_store(path: Path) -> bool:
    """Whether a store lies there; a path of a result file may be one that no system can have."""
    try:
        return (path / MANIFEST).is_file()
    except (OSError, ValueError):
        return False


def find_runs(folder: Path) -> Runs:
    """Read every log (*.log, *.jsonl) and evaluation (*.json) under a folder; files of other kinds are passed over."""
    if not folder.is_dir():
        refuse_exported(folder, "here the folder of runs is needed that it was exported from")
        raise UserError(f"{folder}: no such folder; give the folder that holds the runs' save folders")
    notes: list[str] = []
    files = _files(folder, "*.log", "*.jsonl")
    found = [(path, log) for path in files if (log := _read(read_log, path, folder, notes)) is not None]
    logs = one_log_per_run(found, folder)
    results = [(path, made) for path in _files(folder, "*.json") if (made := _read(read_evaluation, path, folder, notes)) is not None]
    evaluations = told_apart(results, folder)
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
    """A sentence for each folder that holds a run, and logs without curves, or no log. `DETAILS` never has any, and is no log."""
    for run in sorted(runs):
        empty = [path for path in logs if path.parent == run and path.name != DETAILS]
        yield from (f"{path}: holds no curve of a training run" for path in empty)
        if not empty:
            yield (
                f"{run}: no curves are shown: there is no log of the run (*.log, *.jsonl); trained with "
                f"--log-file {run / 'train.log'} it is kept"
            )


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


def told_apart(found: Sequence[tuple[Path, Evaluation]], root: Path) -> list[Evaluation]:
    """Results named by their folders; by their files as well where a folder has several of one split, as of two checkpoints or stores."""
    of_split = Counter((made.name, made.split) for _, made in found)
    return [
        made if of_split[made.name, made.split] == 1 else dataclasses.replace(made, name=run_name(path.with_suffix("") / path.name, root))
        for path, made in found
    ]


def one_log_per_run(found: Sequence[tuple[Path, TrainingLog]], root: Path) -> list[TrainingLog]:
    """Logs of one folder that say the same are of one run, as `--log-file` and `details.log` are; others are named by their files."""
    logs: dict[str, TrainingLog] = {}
    for path, log in found:
        if log.name in logs and not logs[log.name].agrees_with(log):
            log = dataclasses.replace(log, name=run_name(path.with_suffix("") / path.name, root))
        logs[log.name] = logs[log.name].joined_with(log) if log.name in logs else log
    return list(logs.values())
