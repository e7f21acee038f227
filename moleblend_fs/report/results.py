"""The table of results: one number for each run, target and metric, variants of a run side by side."""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from moleblend_fs.report.drawable_values import VARIANTS
from moleblend_fs.report.result_files import Evaluation
from moleblend_fs.report.statistics import draws, interval
from moleblend_fs.wording import with_decimals

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


def result_rows(evaluations: Sequence[Evaluation], seed: int | None = None) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of results: a row for each (run, split, target, metric), variants side by side.

    Where a seed is given, numbers have 95 % intervals by bootstrap over molecules, and their own number stands before them.

    Runs called seed0, seed1, ... get a row more, with their mean and standard deviation. Columns without a value are left out.
    """
    variants = [name for name in ("", *VARIANTS) if any(e.variant[1] == name for e in evaluations)]
    titles = {"": "result"} | {name: name for name in VARIANTS}
    header = ["run", "split", "target", "metric", "unit", BASELINE, *(titles[name] for name in variants)]
    cells: dict[RowKey, dict[str, list[float]]] = {}
    ranges: dict[tuple[RowKey, str], tuple[float, float]] = {}
    for evaluation in evaluations:
        stem, variant = evaluation.variant
        found = {} if seed is None else intervals(evaluation, seed)
        for target, metric, value, baseline in scores(evaluation):
            unit = evaluation.units.get(target, "") if metric in OF_UNIT else ""
            key = (stem, evaluation.split, target, METRIC_TITLES[metric], unit)
            row = cells.setdefault(key, {})
            if (bounds := found.get((target if target in evaluation.metrics else "", metric))) is not None:
                ranges[key, variant] = bounds
            row[variant] = [value]
            if baseline is not None:
                row[BASELINE] = [baseline]
    cells |= over_seeds(cells)
    rows = [
        [*key, *(shown_numbers(row.get(name, [])) + shown_range(ranges.get((key, name))) for name in (BASELINE, *variants))]
        for key, row in cells.items()
    ]
    kept = [column for column in range(len(header)) if any(row[column] for row in rows)]
    return [header[column] for column in kept], [[row[column] for column in kept] for row in rows]


def intervals(evaluation: Evaluation, seed: int) -> dict[tuple[str, str], tuple[float, float]]:
    """(target, metric) -> its 95 % interval; "" stands for the average over all targets for which the metric is defined."""
    found: dict[tuple[str, str], tuple[float, float]] = {}
    drawn = dict(zip(evaluation.metrics, draws(evaluation.prediction, evaluation.target, seed=seed), strict=False))
    for metric in (*METRICS, "r2"):
        defined = [target for target, scores in evaluation.metrics.items() if scores.get(metric) is not None]
        parts = {target: drawn[target][metric] for target in defined if metric in drawn.get(target, {})}
        for target, values in parts.items():
            if (bounds := interval(values)) is not None:
                found[target, metric] = bounds
        if parts and len(parts) == len(defined) and (bounds := interval(np.mean(list(parts.values()), axis=0))) is not None:
            found["", metric] = bounds
    return found


def shown_range(bounds: tuple[float, float] | None) -> str:
    """An interval in brackets; nothing for none."""
    return "" if bounds is None else f" ({shown_number(bounds[0])} to {shown_number(bounds[1])})"


def uninformed(evaluation: Evaluation, target: str, metric: str) -> float | None:
    """A metric of the predictor that knows nothing of its input: as the result file has it, or of a constant probability.

    Of the latter the area under the ROC curve and balanced accuracy are 1/2, the average precision is the share of class 1.
    """
    told = evaluation.baseline.get(target, {}).get(metric)
    position = list(evaluation.metrics).index(target)
    if told is not None or evaluation.target.size == 0:
        return told
    labels = evaluation.target[:, position]
    labels = labels[~np.isnan(labels)]
    if evaluation.metrics[target].get(metric) is None or set(labels.tolist()) != {0.0, 1.0}:
        return None
    return {"roc_auc": 0.5, "balanced_accuracy": 0.5, "pr_auc": float(labels.mean())}.get(metric)


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
            known = [value for target in targets if (value := uninformed(evaluation, target, metric)) is not None]
            baseline = sum(known) / len(known) if len(known) == len(defined) else None
            yield f"average of {len(defined)}", metric, sum(defined) / len(defined), baseline
    for target in targets if len(targets) <= SINGLE_TARGETS else ():
        for metric in METRICS:
            if (value := evaluation.metrics[target].get(metric)) is not None:
                yield target, metric, value, uninformed(evaluation, target, metric)


def shown_numbers(values: Sequence[float]) -> str:
    """A number, or mean ± standard deviation (population) of several."""
    if not values:
        return ""
    mean = shown_number(float(np.mean(values)))
    return mean if len(values) == 1 else f"{mean} ± {shown_number(float(np.std(values)))}"


def shown_number(value: float) -> str:
    """One digit after the point from 100 on, three below, four below 1; of very large and small ones three digits in all."""
    if abs(value) >= 1e7:
        return f"{value:.3g}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3f}" if abs(value) >= 1 else with_decimals(value, 4)


def as_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table for a terminal."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (header, *rows)]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
