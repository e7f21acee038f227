"""The rows as one table, compared by the functions of `moleblend compare`: runs.csv, evidence.html, evidence.md."""

import csv
import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plan import METHODS, Cell, Plan

from moleblend_fs.comparison.analysis import Choices, Comparison, compare, overall
from moleblend_fs.comparison.output import number, ranks_over_sets, to_reference, told_of, told_overall, write_pairs
from moleblend_fs.comparison.page import build
from moleblend_fs.comparison.score_files import lines_of_file
from moleblend_fs.comparison.tables import tables
from moleblend_fs.files import whole_file, write_atomically
from moleblend_fs.wording import counted

HEADER = (
    *(
        "method",
        "dataset",
        "split",
        "seed",
        "metric",
        "value",
        "unit",
        "valid",
        "n_train",
        "n_valid",
        "n_test",
        "trial",
        "trials",
        "settings",
    ),
    *("seconds", "predict_seconds", "memory_mb", "commit", "split_hash", "data_hash", "protocol", "data", "version"),
)
"""Of runs.csv, which `moleblend compare` reads."""
FOREST, OURS = METHODS["ecfp_forest"], "ours"


def write(plan: Plan, out: Path) -> bool:
    """All files of what there is; whether all runs of the grid are."""
    rows, undone = [], []
    for cell in plan.cells:
        if cell.row(out).is_file():
            row = json.loads(cell.row(out).read_text())
            rows.append(row | {"method": METHODS[cell.method]})
        else:
            undone.append(cell)
    with whole_file(out / "runs.csv") as stream:
        table = csv.DictWriter(stream, HEADER, lineterminator="\n", extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
    found, notes = tables(whole_methods(rows, out / "runs.csv", plan))
    compared = [compare(each, Choices()) for each in found]
    of_b = [each for each in compared if each.table.dataset.endswith("protocol B") and ", cleaned," in each.table.dataset]
    ranks = overall(of_b)
    notes += [f"without a result: {counted(len(undone), 'run')}, the first: {_named(undone[0])}"] if undone else []
    notes += [f"left out, since there are no weights: {METHODS[name]}" for name in plan.missing]
    write_pairs(out / "pairs.csv", compared)
    page = build(compared, ranks, "", notes, f"When pretraining helps: the evidence, scale {plan.scale_name}")
    write_atomically(out / "evidence.html", page)
    text = markdown(plan, compared, of_b, rows, notes, out)
    write_atomically(out / "evidence.md", text)
    print(f"written: {', '.join(str(out / name) for name in ('runs.csv', 'pairs.csv', 'evidence.html', 'evidence.md'))}")
    return not undone


def whole_methods(rows: Sequence[dict[str, Any]], path: Path, plan: Plan) -> list[Any]:
    """Score lines of the methods that have all runs of a data set and protocol; others are told, not compared."""
    done: dict[tuple[str, str], int] = defaultdict(int)
    wanted: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        done[row["method"], row["dataset"]] += 1
    for cell in plan.cells:
        wanted[METHODS[cell.method], cell.dataset] += 1
    return [line for line in lines_of_file(path) if done[line.method, line.dataset] == wanted[line.method, line.dataset]]


def _named(cell: Cell) -> str:
    return f"{METHODS[cell.method]} on {cell.dataset}, {cell.split}, seed {cell.seed}"


def markdown(
    plan: Plan, compared: Sequence[Comparison], of_b: Sequence[Comparison], rows: Sequence[dict[str, Any]], notes: Sequence[str], out: Path
) -> str:
    """The page for docs/evidence.md."""
    parts = [f"# Evidence, scale {plan.scale_name}", first_paragraph(of_b)]
    if (ranks := overall(of_b)) is not None:
        parts += ["## Over all data sets (protocol B, cleaned)", told_overall(ranks) + ".", _table(*ranks_over_sets(of_b, ranks))]
    for each in compared:
        header, lines, _ = to_reference(each, "")
        parts += [f"## {each.table.dataset}", " ".join(told_of(each)), _table(header, lines)]
    parts += ["## What it costs", costs(rows), "## Data", cleaned(plan, out)]
    if notes:
        parts += ["## Left out", "\n".join(f"* {note}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def first_paragraph(compared: Sequence[Comparison]) -> str:
    """In plain words, of protocol B: on how many data sets ours, ECFP with a forest, or neither is better."""
    ahead: dict[str, list[str]] = {"ours": [], "forest": [], "neither": []}
    for each in compared:
        names = each.table.methods
        mine = [column for column in each.best_first() if names[column].startswith(OURS)]
        if FOREST not in names or not mine:
            continue
        forest = names.index(FOREST)
        pair = each.pair(mine[0], forest)
        decided = pair.winner if pair.verdict == "better" else None
        ahead["neither" if decided is None else "forest" if decided == forest else "ours"].append(each.table.dataset.partition(",")[0])
    if not any(ahead.values()):
        return "No data set has both ours and ECFP + random forest: this says nothing about when to take which."
    told = [
        f"{what} on {len(sets)} ({', '.join(sets) or 'none'})"
        for what, sets in zip(("ours is better", "the forest is better", "neither is told to be better"), ahead.values(), strict=True)
    ]
    return (
        f"Of {counted(sum(map(len, ahead.values())), 'data set')}, the best of ours against ECFP + random forest: {'; '.join(told)}. "
        "Where neither is told to be better, take the forest: it costs seconds. The best of several of ours is chosen by its test scores "
        "here, which favours it."
    )


def costs(rows: Sequence[dict[str, Any]]) -> str:
    """Seconds of training with tuning, and memory, of each method: medians over runs."""
    of_method: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        of_method[row["method"]].append(row)
    lines = []
    for method, here in of_method.items():
        speeds = [row["n_test"] / row["predict_seconds"] for row in here if row["predict_seconds"]]
        lines.append(
            [
                method,
                str(len(here)),
                number(statistics.median(row["seconds"] for row in here), 3),
                number(statistics.median(speeds) if speeds else None, 3),
                number(statistics.median(row["memory_mb"] for row in here), 3),
            ]
        )
    return _table(["method", "runs", "seconds of a run with its trials", "molecules/s, features not counted", "peak memory, MB"], lines)


def cleaned(plan: Plan, out: Path) -> str:
    """What became of each file's rows."""
    names = ("rows", "sampled", "unlabelled", "merged", "conflicting", "kept")
    lines = []
    for name in plan.scale.data:
        path = out / "data" / f"{name}-cleaning.json"
        if path.is_file():
            found = json.loads(path.read_text())
            lines.append(
                [name, *(str(found[each]) for each in names[:2]), str(len(found["invalid"])), *(str(found[each]) for each in names[2:])]
            )
    header = ["set", "rows", "not sampled", "invalid", "without labels", "merged duplicates", "of conflicting duplicates", "kept"]
    return _table(header, lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
