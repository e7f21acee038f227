"""Scores of a folder of `moleblend finetune`, split by split, from its predictions of the test molecules."""

import csv
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moleblend_fs.comparison.score_lines import ScoreLine
from moleblend_fs.comparison.score_of_predictions import PRIMARY, hash_of, scores_of
from moleblend_fs.data.finetune_tables import number, read_lines
from moleblend_fs.data.typed_json import READING, read_json
from moleblend_fs.errors import UserError
from moleblend_fs.files import as_json

ABOUT, SPLITS, METRICS, TESTED = "model.json", "splits.json", "metrics.json", "predictions_test.csv"


class Tested(NamedTuple):
    """A test molecule: its row, (targets,) labels and predictions, and the cells of the input by their columns."""

    row: str
    labels: list[float]
    predictions: list[float]
    given: dict[str, str]


def is_run(path: Path) -> bool:
    """Whether a folder looks like one that `moleblend finetune` has finished."""
    return all((path / name).is_file() for name in (ABOUT, SPLITS, METRICS, TESTED))


def lines_of_run(path: Path, method: str) -> list[ScoreLine]:
    """A line for every fold and score: the mean over targets, of the model and of nothing else.

    Raises:
        UserError: no finished run, damaged files, or no labels in any test split.
    """
    if not is_run(path):
        raise UserError(f"{path}: no finished run of `moleblend finetune` (it lacks one of {ABOUT}, {SPLITS}, {METRICS}, {TESTED})")
    try:
        about, splits, metrics = (read_json(path / name) for name in (ABOUT, SPLITS, METRICS))
        kind, targets, folds = metrics["kind"], metrics["targets"], splits["folds"]
        dataset = dataset_of(about, targets)
        unit = ", ".join(dict.fromkeys(target["unit"] for target in targets.values() if target["unit"]))
        tested = _tested(path / TESTED, tuple(targets))
        return [
            line
            for fold, parts in folds.items()
            if fold in tested
            for line in _of_fold(
                fold, parts, tested[fold], tuple(targets), kind, dataset, unit if kind == "regression" else "", method, path
            )
        ]
    except (*READING, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise UserError(f"{path}: no finished run of `moleblend finetune`, or a damaged one ({type(error).__name__}: {error})") from error


def dataset_of(about: dict[str, Any], targets: dict[str, Any]) -> str:
    """Name of what was learned: the files of molecules, with a mark of their content, and the targets."""
    files = ", ".join(f"{name} ({digest.rpartition(':')[2][:8]})" for name, digest in sorted(about["data"].items()))
    return f"{files or 'unnamed data'}: {', '.join(targets)}"


def test_predictions(path: Path, targets: Sequence[str]) -> dict[str, list[tuple[str, list[float], list[float]]]]:
    """Fold -> (row, labels, predictions) of each test molecule."""
    return {fold: [each[:3] for each in tested] for fold, tested in _tested(path, targets).items()}


def _tested(path: Path, targets: Sequence[str]) -> dict[str, list[Tested]]:
    """Fold -> its test molecules."""
    found = defaultdict(list)
    for line in read_lines(path, targets):
        labels = [number(line.given.get(target, "")) for target in targets]
        found[line.fold].append(Tested(line.row, labels, [number(line.predicted[target]) for target in targets], line.given))
    return found


def _as_tables(tested: Sequence[Tested], targets: Sequence[str], labels: np.ndarray) -> frozenset[str]:
    """See `ScoreLine`: of every column in which each molecule has a name of its own."""
    columns = [[each.row for each in tested], *([each.given[name].strip() for each in tested] for name in tested[0].given)]
    return frozenset(hash_of(targets, names, labels) for names in columns if "" not in names and len(set(names)) == len(names))


def _of_fold(
    fold: str,
    parts: dict[str, list[int]],
    tested: list[Tested],
    targets: Sequence[str],
    kind: str,
    dataset: str,
    unit: str,
    method: str,
    path: Path,
) -> list[ScoreLine]:
    tested = sorted(tested, key=lambda each: int(each.row))
    labels, predictions = (np.array([each[place] for each in tested], dtype=np.float64) for place in (1, 2))
    found = scores_of(predictions, labels, kind)
    if PRIMARY[kind] not in found:
        raise UserError(f"{path}, {fold}: {PRIMARY[kind]} is not defined on its test molecules; without it nothing is compared")
    digest = hashlib.sha256(as_json([[each.row, each.labels] for each in tested]).encode()).hexdigest()
    as_tables = _as_tables(tested, targets, labels)
    return [
        ScoreLine(
            method=method,
            dataset=dataset,
            split=fold,
            metric=metric,
            value=value,
            unit=unit if metric in ("rmse", "mae") else "",
            train=len(parts.get("train", [])),
            test=len(tested),
            tested=digest,
            as_tables=as_tables,
            split_into=hashlib.sha256(as_json(parts).encode()).hexdigest(),
            where=f"{path}, {fold}",
        )
        for metric, value in found.items()
    ]
