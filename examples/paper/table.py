"""The table at the end: the paper's figures beside ours, with intervals."""

import csv
import datetime
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from grid import HERE, QM9, Cell, Plan, Row
from grid_runs import commit

from moleblend_fs.data.units import factor
from moleblend_fs.errors import UserError
from moleblend_fs.files import whole_file, write_atomically
from moleblend_fs.report import html
from moleblend_fs.report.result_files import Evaluation, read_evaluation
from moleblend_fs.report.statistics import draws, interval
from moleblend_fs.wording import counted

PUBLISHED, CITED, OURS, ABSENT = "published, also run here", "published, cited", "run here", "not available here"
COMMIT = "commit.txt"
"""In the folder of a run: the commit of the code that made it."""
HIGHER_IS_BETTER = ("ROC-AUC %",)
NAMES = {"ROC-AUC %": ("roc_auc", ""), "RMSE": ("rmse", "")}
HEADER = ("table", "method", "source", "data", "metric", "value", "std", "low", "high", "seeds", "trial", "validation", "commit", "date")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A number of the table.

    Attributes:
        value: mean over the seeds. std: over them. low, high: 95 % by bootstrap over test molecules, drawn alike for all seeds.
        trial: that validation chose. validation: its mean there.
        commit: of the code that ran it, several with blanks between. date: of the last run.
    """

    method: str
    source: str
    data: str
    metric: str
    value: float
    std: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int | None = None
    trial: int | None = None
    validation: float | None = None
    commit: str = ""
    date: str = ""

    def shown(self) -> str:
        """As a cell of the page."""
        text = f"{self.value:.4g}" + ("" if self.std is None else f" ± {self.std:.2g}")
        return text if self.low is None else f"{text} ({self.low:.4g} to {self.high:.4g})"


def published(plan: Plan) -> list[Entry]:
    """The paper's rows of the table; those that the grid runs itself are told from those only cited."""
    run_here = {row.published for row in plan.grid.rows if row.available}
    with (HERE / "published.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if f"table{row['table']}" == plan.table]
    return [
        Entry(
            method=f"{row['method']}, {row['backbone']}" if row["backbone"] else row["method"],
            source=PUBLISHED if row["method"] in run_here else CITED,
            data=row["target"].lower(),
            metric=row["metric"],
            value=float(row["value"]),
            std=float(row["std"]) if row["std"] else None,
        )
        for row in rows
    ]


def metric_of(data: str, plan: Plan) -> str:
    """As the paper names it for a data set of the table."""
    name = data.removeprefix(QM9)
    return next(entry.metric for entry in published(plan) if entry.data == name)


def score(result: Evaluation, metric: str) -> tuple[str, float]:
    """(name, factor) of a score in the paper's unit: percent, meV."""
    name, unit = NAMES.get(metric, ("mae", metric.removeprefix("MAE ")))
    if name == "roc_auc":
        return name, 100.0
    ours = next(iter(result.units.values()), "")
    return name, (factor(ours, unit) or 1.0) if unit else 1.0


def mean_over_targets(result: Evaluation, metric: str) -> float | None:
    """Averaged over the targets for which it is defined."""
    name, times = score(result, metric)
    values = [value for scores in result.metrics.values() if (value := scores.get(name)) is not None]
    return times * statistics.mean(values) if values else None


def resampled(result: Evaluation, metric: str) -> np.ndarray:
    """(resamples,) the same average for resamples of the test molecules, each over the targets of which it holds both classes."""
    name, times = score(result, metric)
    drawn = dict(zip(result.metrics, draws(result.prediction, result.target, seed=0), strict=True))
    values = np.stack([drawn[target][name] for target, scores in result.metrics.items() if scores.get(name) is not None])
    known = np.isfinite(values)
    total, number = np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0)
    return times * np.divide(total, number, out=np.full(len(total), np.nan), where=number > 0)


def read(cell: Cell, out: Path, split: str) -> Evaluation | None:
    """A result of a run; None where it is not there."""
    path = cell.folder(out) / f"{split}.json"
    try:
        return read_evaluation(path, out) if path.is_file() else None
    except UserError as error:
        raise UserError(f"{path}: {error}; delete it to have it made again") from error


def ours(plan: Plan, out: Path, row: Row, data: str) -> Entry | None:
    """The trial with the best validation score, and what it gives on the test molecules; None without results."""
    metric = metric_of(data, plan)
    sign = 1 if metric in HIGHER_IS_BETTER else -1
    cells = [cell for cell in plan.cells if cell.row == row and cell.data == data]
    found: dict[int, float] = {}
    for trial in sorted({cell.trial for cell in cells}):
        results = [result for cell in cells if cell.trial == trial and (result := read(cell, out, "valid")) is not None]
        values = [value for result in results if (value := mean_over_targets(result, metric)) is not None]
        if values:
            found[trial] = statistics.mean(values)
    trial = max(found, key=lambda number: sign * found[number]) if found else 0
    chosen = [cell for cell in cells if cell.trial == trial]
    tests = [result for cell in chosen if (result := read(cell, out, "test")) is not None]
    scored = [(result, value) for result in tests if (value := mean_over_targets(result, metric)) is not None]
    if not scored:
        return None
    values = [value for _, value in scored]
    bounds = interval(np.mean([resampled(result, metric) for result, _ in scored], axis=0)) or (None, None)
    return Entry(
        method=row.published,
        source=OURS,
        data=data.removeprefix(QM9),
        metric=metric,
        value=statistics.mean(values),
        std=statistics.stdev(values) if len(values) > 1 else None,
        low=bounds[0],
        high=bounds[1],
        seeds=len(values),
        trial=trial,
        validation=found.get(trial),
        commit=" ".join(sorted({commit for cell in chosen if (commit := run_by(cell.folder(out)))})),
        date=f"{datetime.date.fromtimestamp(max((cell.folder(out) / 'test.json').stat().st_mtime for cell in chosen))}",
    )


def run_by(run: Path) -> str:
    """The commit whose code made a run, as the run wrote it down; "" where it did not."""
    path = run / COMMIT
    return path.read_text().strip() if path.is_file() else ""


def write(plan: Plan, out: Path) -> bool:
    """TABLE.csv and TABLE.html in `out`; whether all runs of the grid have given a result."""
    results = {(row, data): ours(plan, out, row, data) for row in plan.grid.rows if row.available for data in plan.data}
    entries = [*published(plan), *(entry for entry in results.values() if entry is not None)]
    with whole_file(out / f"{plan.table}.csv") as stream:
        lines = csv.writer(stream, lineterminator="\n")
        lines.writerow(HEADER)
        for entry in entries:
            cells = [getattr(entry, name) for name in HEADER[1:]]
            lines.writerow([plan.table, *(f"{cell:.6g}" if isinstance(cell, float) else "" if cell is None else cell for cell in cells)])
        lines.writerows([plan.table, row.published, ABSENT, *[""] * (len(HEADER) - 3)] for row in plan.missing)
    undone = [f"{row.published}: {data}" for (row, data), entry in results.items() if entry is None]
    write_atomically(out / f"{plan.table}.html", page(plan, entries, undone))
    print(f"written: {out / plan.table}.csv, {out / plan.table}.html")
    return not undone


def cells_of(plan: Plan, entries: list[Entry]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table, a column for each data set."""
    data = [name.removeprefix(QM9) for name in plan.grid.data]
    metrics = [metric_of(name, plan) for name in plan.grid.data]
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for entry in entries:
        lines.setdefault((entry.method, entry.source), {})[entry.data] = entry.shown()
    rows = [[method, source, *(cells.get(name, "") for name in data)] for (method, source), cells in lines.items()]
    rows += [[row.published, ABSENT, *[""] * len(data)] for row in plan.missing]
    return ["method", "source", *(f"{name}, {metric}" for name, metric in zip(data, metrics, strict=True))], rows


def notes_of(plan: Plan) -> list[str]:
    """What a reader must know of the figures."""
    scale = plan.scale
    seeds, trials = counted(len(scale.seeds), "seed"), counted(len(scale.trials), "trial")
    notes = [
        "Published figures: the MoleBlend paper (ICLR 2024). Rows marked as cited are those that it quotes from others, of other encoders, "
        "data and splits; its two rows called (Transformer impl.) were never released.",
        f"Run here: scale {plan.scale_name}, {scale.arch} model, {scale.updates:,} updates of {scale.batch} molecules of pretraining; "
        f"mean ± standard deviation over {seeds} of finetuning, in brackets the 95 % interval by bootstrap over test molecules, "
        "where nine in ten resamples have both classes. "
        f"Checkpoints, and the best of {trials}, are chosen on the validation molecules alone.",
    ]
    if scale.molecules:
        notes.append(f"At most {scale.molecules:,} molecules of each MoleculeNet set: not comparable with the published figures.")
    return notes


def page(plan: Plan, entries: list[Entry], undone: list[str]) -> str:
    """The table as a page."""
    header, rows = cells_of(plan, entries)
    strong = [number for number, row in enumerate(rows) if row[1] == OURS]
    notes = [*notes_of(plan), *([f"Without a result: {'; '.join(undone)}"] if undone else [])]
    body = [html.section(plan.grid.about, html.table(header, rows, strong=strong, name=plan.table)), *map(html.note, notes)]
    made = f"{datetime.datetime.now():%Y-%m-%d %H:%M}, commit {commit()}"
    return html.page(f"Table {plan.table.removeprefix('table')} of the paper", html.escape(made), body)
