"""The table of results: one number for each run, target and metric, variants of a run side by side."""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from moleblend_fs.report.runs import VARIANTS, Evaluation

METRIC_TITLES = {
    "roc_auc": "ROC-AUC",
    "pr_auc": "PR-AUC",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "mcc": "MCC",
    "log_loss": "log loss",
    "mae": "MAE",
    "rmse": "RMSE",
}
METRICS = tuple(METRIC_TITLES)
OF_UNIT = ("mae", "rmse")
"""Metrics that have the target's unit."""
SINGLE_TARGETS = 3
"""Targets of a run that get rows and parity plots of their own; of more, the average is shown."""
BASELINE = "mean predictor"
SEED = re.compile(r"seed\d+")

RowKey = tuple[str, ...]
"""Run, split, target, metric, unit."""


def result_rows(evaluations: Sequence[Evaluation]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of results: a row for each (run, split, target, metric), variants side by side.

    Runs called seed0, seed1, ... get a row more, with their mean and standard deviation. Columns without a value are left out.
    """
    variants = [name for name in ("", *VARIANTS) if any(e.variant[1] == name for e in evaluations)]
    titles = {"": "result"} | {name: name for name in VARIANTS}
    header = ["run", "split", "target", "metric", "unit", BASELINE, *(titles[name] for name in variants)]
    cells: dict[RowKey, dict[str, list[float]]] = {}
    for evaluation in evaluations:
        stem, variant = evaluation.variant
        for target, metric, value, baseline in scores(evaluation):
            unit = evaluation.units.get(target, "") if metric in OF_UNIT else ""
            row = cells.setdefault((stem, evaluation.split, target, METRIC_TITLES[metric], unit), {})
            row[variant] = [value]
            if baseline is not None:
                row[BASELINE] = [baseline]
    cells |= over_seeds(cells)
    rows = [[*key, *(shown_numbers(row.get(name, [])) for name in (BASELINE, *variants))] for key, row in cells.items()]
    kept = [column for column in range(len(header)) if any(row[column] for row in rows)]
    return [header[column] for column in kept], [[row[column] for column in kept] for row in rows]


def over_seeds(cells: dict[RowKey, dict[str, list[float]]]) -> dict[RowKey, dict[str, list[float]]]:
    """The values of rows that differ in the number of a seed only, put together."""
    together: dict[RowKey, dict[str, list[float]]] = {}
    for (stem, *rest), row in cells.items():
        if SEED.search(stem):
            group = together.setdefault((SEED.sub("all seeds", stem), *rest), {})
            for name, values in row.items():
                group.setdefault(name, []).extend(values)
    return {key: row for key, row in together.items() if any(len(values) > 1 for values in row.values())}


def scores(evaluation: Evaluation) -> Iterator[tuple[str, str, float, float | None]]:
    """(target, metric, value, the mean predictor's or None) that stand in the table; more than a few targets by their average alone."""
    targets = list(evaluation.metrics)
    for metric in METRICS:
        defined = [value for target in targets if (value := evaluation.metrics[target].get(metric)) is not None]
        if len(targets) > SINGLE_TARGETS and defined:
            yield f"average of {len(defined)}", metric, sum(defined) / len(defined), None
    for target in targets if len(targets) <= SINGLE_TARGETS else ():
        for metric in METRICS:
            if (value := evaluation.metrics[target].get(metric)) is not None:
                yield target, metric, value, evaluation.baseline.get(target, {}).get(metric)


def shown_numbers(values: Sequence[float]) -> str:
    """A number, or mean ± standard deviation (population) of several."""
    if not values:
        return ""
    mean = shown_number(float(np.mean(values)))
    return mean if len(values) == 1 else f"{mean} ± {shown_number(float(np.std(values)))}"


def shown_number(value: float) -> str:
    """One digit after the point from 100 on, three below, four below 1."""
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3f}" if abs(value) >= 1 else f"{value:.4f}"


def as_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table for a terminal."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (header, *rows)]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
