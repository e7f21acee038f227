"""One run of the grid: settings chosen on validation molecules, test molecules predicted once, and a row with all that is known of it."""

import json
import resource
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from cleaning import hash_of, read_table
from grid_runs import call, commit
from learners import drawn, features, fitted, predicted
from methods import DATA_SETS, METHODS
from networks import trials_of
from peers import installed_megabytes, minimol_fingerprints, software
from plan import Cell, Plan, digest_of
from splitting import rows_of, split_hash

from benchmarks.harness import busy_seconds
from moleblend_fs import __version__
from moleblend_fs.chem.parse import silence_rdkit
from moleblend_fs.comparison.score_lines import is_higher_better
from moleblend_fs.comparison.score_of_predictions import scores_of
from moleblend_fs.errors import UserError
from moleblend_fs.files import write_atomically


def run_cell(plan: Plan, out: Path, cell: Cell) -> None:
    """Do it, unless its row is there."""
    path = cell.row(out)
    if path.is_file():
        return
    silence_rdkit()
    about = DATA_SETS[cell.data]
    smiles, labels, _ = read_table(cell.table(out))
    parts = rows_of(cell.splits(out))
    began = (time.perf_counter(), *busy_seconds())
    run = here if METHODS[cell.method].trained == "here" else networks
    found = run(plan, out, cell, smiles, labels, parts)
    spent = [now - before for now, before in zip((time.perf_counter(), *busy_seconds()), began, strict=True)]
    scores = {part: scores_of(found.pop(part), labels[parts[part]], about.kind) for part in ("valid", "test")}
    if about.metric not in scores["test"]:
        raise UserError(f"{cell.dataset}, {cell.split}: {about.metric} is not defined on its test molecules")
    made = found.pop("made", {})
    speed = found.pop("predict_seconds", None)
    row = {
        **asdict(cell),
        "title": cell.title,
        "dataset": cell.dataset,
        "metric": about.metric,
        "value": scores["test"][about.metric],
        "valid": scores["valid"].get(about.metric),
        "unit": about.unit,
        "others": scores["test"],
        **{f"n_{part}": len(rows) for part, rows in parts.items()},
        **found,
        "seconds": spent[0] + made.get("seconds", 0.0),
        "cpu_seconds": spent[2] + made.get("cpu_seconds", 0.0),
        "others_busy": max(0.0, spent[1] - spent[2]) / spent[0],
        "molecules_per_second": len(parts["test"]) / speed if speed else None,
        "memory_mb": max(peak_memory(), made.get("memory_mb", 0.0)),
        "install_mb": installed_megabytes(METHODS[cell.method].program),
        "software": software_of(cell),
        "commit": commit(),
        "split_hash": split_hash(cell.splits(out)),
        "data_hash": hash_of(cell.table(out)),
        "weights_hash": digest_of(plan.weights[cell.weights]) if cell.weights else "",
    }
    write_atomically(path, json.dumps(row, indent=1) + "\n")


def peak_memory() -> float:
    """Of this process or the largest of those that it ran, MB."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def software_of(cell: Cell) -> str:
    """What did it, with versions."""
    program = METHODS[cell.method].program
    ours = f"moleblend_fs {__version__}"
    if program == "ours" and METHODS[cell.method].trained == "network":
        return f"{ours}, torch {version('torch')}"
    learned = f"scikit-learn {version('scikit-learn')}, RDKit {version('rdkit')}"
    if program == "chemprop":
        return software(program)
    return {"ours": f"{ours}, {learned}", "forest": learned, "minimol": f"{software('minimol')}, {learned}"}[program]


def best_of(cell: Cell, labels: np.ndarray, parts: dict[str, np.ndarray], trials: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Of the trials that with the best score of its validation molecules; of equal ones the first.

    Args:
        trials: (settings in words, predictions of the validation molecules with whatever else should be kept).
    """
    about, best = DATA_SETS[cell.data], dict[str, Any]()
    for number, (settings, found) in enumerate(trials):
        score = scores_of(found["valid"], labels[parts["valid"]], about.kind).get(about.metric)
        if not best or is_better(about.metric, score, best["score"]):
            best = {"score": score, "trial": number, "settings": settings, **found}
        best["trials"] = number + 1
    best.pop("score")
    return best


def is_better(metric: str, value: float | None, than: float | None) -> bool:
    """Of two validation scores; one that is not defined is worse than any."""
    if value is None or than is None:
        return value is not None
    return value > than if is_higher_better(metric) else value < than


def here(plan: Plan, out: Path, cell: Cell, smiles: list[str], labels: np.ndarray, parts: dict[str, np.ndarray]) -> dict[str, Any]:
    """A method of scikit-learn: trained with each trial's settings on the training molecules, the best on validation molecules kept."""
    kind, made = DATA_SETS[cell.data].kind, dict[str, float]()
    if cell.method in ("probe", "minimol"):
        x, made = embedded(plan, out, cell)
    else:
        used = np.concatenate(list(parts.values()))
        seen = features(cell.method, [smiles[i] for i in used])
        x = np.zeros((len(smiles), seen.shape[1]), dtype=seen.dtype)
        x[used] = seen

    def trial(number: int) -> tuple[str, dict[str, Any]]:
        settings = drawn(cell.method, number, cell.seed)
        models = fitted(cell.method, kind, settings, cell.seed, x[parts["train"]], labels[parts["train"]])
        return json.dumps(settings), {"models": models, "valid": predicted(models, kind, x[parts["valid"]])}

    count = 1 if cell.method == "constant" else plan.scale.trials
    best = best_of(cell, labels, parts, map(trial, range(count)))
    began = time.perf_counter()
    test = predicted(best.pop("models"), kind, x[parts["test"]])
    return best | {"test": test, "predict_seconds": time.perf_counter() - began, "made": made}


def networks(plan: Plan, out: Path, cell: Cell, smiles: list[str], labels: np.ndarray, parts: dict[str, np.ndarray]) -> dict[str, Any]:
    """A method that a command trains; what it left is removed at the end."""
    trials, work = trials_of(plan, out, cell, parts)
    best = best_of(cell, labels, parts, ((settings, dict[str, Any](train())) for settings, train in trials))
    shutil.rmtree(work)
    return best


def embedded(plan: Plan, out: Path, cell: Cell) -> tuple[np.ndarray, dict[str, float]]:
    """((molecules, width) of a table, what making them took another run): means of the atoms by the weights, or MiniMol's fingerprints."""
    path = out / "embeddings" / f"{cell.data}-{cell.version}-{cell.folder}.npy"
    costs = path.with_suffix(".json")
    if costs.is_file():
        return np.load(path), json.loads(costs.read_text())
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f"{path.stem}-{cell.protocol}-{cell.split}-{cell.seed}.npy")
    made = costs_of(lambda: embed(plan, out, cell, own))
    own.replace(path)
    write_atomically(costs, json.dumps(made) + "\n")
    return np.load(path), {}  # this run's own time has it


def embed(plan: Plan, out: Path, cell: Cell, path: Path) -> None:
    """Make them."""
    if cell.method == "minimol":
        minimol_fingerprints(cell.table(out), path)
    else:
        weights = str(plan.weights[cell.weights])
        call(["moleblend", "embed", weights, str(cell.table(out)), str(path), "--level", "mean", "--no-progress"])


def costs_of(work: Callable[[], None]) -> dict[str, float]:
    """Seconds and memory of something that other programs do."""
    began = time.perf_counter(), busy_seconds()[1]
    work()
    return {"seconds": time.perf_counter() - began[0], "cpu_seconds": busy_seconds()[1] - began[1], "memory_mb": peak_memory()}
