"""What collect.sh does: states and scores of an array's tasks, from the files that the tasks left."""

import csv
import json
import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METRICS = {"roc_auc": 1, "mae": -1, "rmse": -1}
"""Metric -> 1 if more is better, else -1."""
LOG_LINES, LOG_WIDTH = 5, 160


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task of the array.

    Attributes:
        number, dataset, trial, seed, options: as in tasks.tsv.
        state: "finished", or what is known of a task that gave no result.
        metric, valid, test: the score's name, and its value averaged over the targets; None without a result.
        unit: of the score, "" where targets differ or have none.
    """

    number: int
    dataset: str
    trial: int
    seed: str
    options: str
    state: str
    metric: str | None = None
    unit: str = ""
    valid: float | None = None
    test: float | None = None


def metric_of(kind: str, dataset: str, options: str) -> str:
    """The metric by which validation selected the checkpoint: ROC-AUC, MAE where MAE was trained (as QM9's example does), else RMSE."""
    if kind == "classification":
        return "roc_auc"
    loss = re.findall(r"--regression-loss[ =](\w+)", options) or ["mae" if dataset.startswith("qm9:") else "mse"]
    return "mae" if loss[-1] == "mae" else "rmse"


def score(result: dict[str, Any], metric: str) -> float | None:
    """Average over the targets that have it."""
    values = [row[metric] for row in result["metrics"].values() if row.get(metric) is not None]
    return sum(values) / len(values) if values else None


def read_task(out: Path, row: dict[str, str]) -> Task:
    """A task as its files show it."""
    about: dict[str, Any] = {
        "number": int(row["task"]),
        "dataset": row["dataset"],
        "trial": int(row["trial"]),
        "seed": row["seed"],
        "options": row["options"],
    }
    path = out / "tasks" / f"{row['task']}.state"
    if not path.is_file():
        return Task(**about, state="never began")
    state = path.read_text().strip()
    if not state.startswith("finished "):
        return Task(
            **about, state=f"{state}, and did not end (still at work, killed, or out of time)" if state.startswith("running") else state
        )
    run = Path(state.removeprefix("finished ").rpartition(" on ")[0])
    valid, test = (json.loads((run / f"{split}.json").read_text()) for split in ("valid", "test"))
    metric = metric_of(test["kind"], row["dataset"], row["options"])
    units = set(test["units"].values())
    unit = units.pop() if len(units) == 1 and metric != "roc_auc" else ""
    return Task(**about, state="finished", metric=metric, unit=unit, valid=score(valid, metric), test=score(test, metric))


def shown(values: list[float | None]) -> str:
    """Mean, and standard deviation (sample) of several."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.mean(known):.4f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.4f}"


def table(tasks: list[Task]) -> list[list[str]]:
    """Header and rows: a row for each data set and trial, the trial with the best validation mean marked."""
    rows = [["data set", "trial", "seeds", "metric", "unit", "validation", "test", "chosen", "options"]]
    for dataset in dict.fromkeys(task.dataset for task in tasks):
        done: dict[int, list[Task]] = {}
        for task in tasks:
            if task.dataset == dataset and task.metric is not None:
                done.setdefault(task.trial, []).append(task)
        ranked = {
            trial: METRICS[group[0].metric or ""] * statistics.mean(values)
            for trial, group in done.items()
            if (values := [task.valid for task in group if task.valid is not None])
        }
        for trial, group in sorted(done.items()):
            first, chosen = group[0], bool(ranked) and trial == max(ranked, key=lambda number: ranked[number])
            numbers = [shown([task.valid for task in group]), shown([task.test for task in group])]
            rows.append(
                [dataset, str(trial), str(len(group)), first.metric or "", first.unit, *numbers, "*" if chosen else "", first.options]
            )
    return rows


def end_of_log(path: Path) -> list[str]:
    """The last lines of a task's output, cut to a width; messages of mistakes whole, for they end with the remedy."""
    lines = path.read_text(errors="replace").splitlines()[-LOG_LINES:] if path.is_file() else []
    return [line if len(line) <= LOG_WIDTH or "moleblend: error:" in line else line[:LOG_WIDTH] + " ..." for line in lines]


def main(out: Path) -> int:
    """Print the table and what is missing; 1 if anything is."""
    if not (out / "tasks.tsv").is_file():
        print(f"collect.sh: {out}: no tasks.tsv; give the OUT of finetune_array.sbatch", file=sys.stderr)
        return 2
    with open(out / "tasks.tsv") as stream:
        tasks = [read_task(out, row) for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)]
    with open(out / "results.csv", "w", newline="") as stream:
        names = ["number", "dataset", "trial", "seed", "options", "state", "metric", "unit", "valid", "test"]
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([getattr(task, name) for name in names] for task in tasks)
    rows = table(tasks)
    if len(rows) > 1:
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        print("\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows))
    missing = [task for task in tasks if task.state != "finished"]
    print(f"\n{len(tasks) - len(missing)} of {len(tasks)} tasks finished; written: {out / 'results.csv'}")
    for task in missing:
        print(f"task {task.number} ({task.dataset}, trial {task.trial}, seed {task.seed}): {task.state}")
        for line in end_of_log(out / "tasks" / f"{task.number}.out"):
            print(f"    {line}")
    if missing:
        numbers = ",".join(str(task.number) for task in missing)
        print(f"once the reasons are removed: ARRAY={numbers} ./scripts/slurm/finetune_array.sbatch, other settings as before")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
