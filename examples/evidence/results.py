"""The rows as one table, and what should be known of them: runs.csv and about.json, from which the pages are made."""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from methods import DATA_SETS, METHODS
from plan import HERE, Cell, Plan, digest_of

from moleblend_fs.comparison.analysis import Choices, Comparison, compare
from moleblend_fs.comparison.score_files import lines_of_file
from moleblend_fs.comparison.tables import tables
from moleblend_fs.data.typed_json import READING, read_json
from moleblend_fs.errors import UserError
from moleblend_fs.files import as_json, whole_file, write_atomically
from moleblend_fs.wording import counted

HEADER = (
    *("method", "dataset", "split", "seed", "metric", "value", "unit", "valid", "n_train", "n_valid", "n_test", "trial", "trials"),
    *("settings", "seconds", "cpu_seconds", "others_busy", "molecules_per_second", "memory_mb", "install_mb", "software", "commit"),
    *("split_hash", "data_hash", "weights_hash", "protocol", "data", "version", "key", "weights"),
)
"""Of runs.csv, which `moleblend compare` reads. `key` is the method as scales.toml has it."""
RESULTS = HERE / "results"
"""The committed table."""
SHAPES = ("molecules", "trials", "ours", "network_trials", "members", "chemprop", "folds", "repeats")
"""Of a scale, what rows of one table must have in common."""
TOLD = ("trials", "network_trials", "members", "ours", "chemprop")
"""What about.json says of these; molecules and splits have hashes in each row."""
Row = dict[str, str]


def agree(plan: Plan, out: Path) -> None:
    """Note what the rows in the folder are made with; UserError where earlier ones were made with something else."""
    path = out / "asked.json"
    asked = {name: json.loads(json.dumps(getattr(plan.scale, name))) for name in SHAPES}
    asked |= {f"weights {name}": digest_of(place) for name, place in plan.weights.items()}
    try:
        there = read_json(path) if path.is_file() else {}
    except READING as error:
        raise UserError(f"{path}: damaged ({error}); take another OUT") from error
    if other := next((name for name in asked if name in there and there[name] != asked[name]), None):
        raise UserError(f"{out}: its rows are of {other} {there[other]}, now it is {asked[other]}; take another OUT, or another name")
    write_atomically(path, json.dumps(there | asked, indent=1) + "\n")


def collect(plan: Plan, out: Path, failed: dict[str, str]) -> int:
    """Write runs.csv and about.json of all rows that are there; how many runs of the plan are not.

    Args:
        failed: program -> why it could not be installed.
    """
    whole = replace(plan, protocols=(), methods=(), data=())
    order = {cell.row(out): number for number, cell in enumerate(whole.cells)}
    found = sorted((out / "rows").rglob("*.json"), key=lambda path: (order.get(path, len(order)), str(path)))
    rows = [json.loads(path.read_text()) for path in found]
    with whole_file(out / "runs.csv") as stream:
        table = csv.DictWriter(stream, HEADER, lineterminator="\n", extrasaction="ignore")
        table.writeheader()
        table.writerows(row | {"key": row["method"], "method": row["title"]} for row in rows)
    undone = [cell for cell in whole.cells if not cell.row(out).is_file() and METHODS[cell.method].program not in failed]
    about = {
        "scale": plan.scale_name,
        **{name: getattr(plan.scale, name) for name in TOLD},
        "expected": expected(whole, rows),
        "cleaning": {name: read_json(path) for name in plan.scale.data if (path := out / "data" / f"{name}-cleaning.json").is_file()},
        "weights": {name: card_of(path) | {"sha256": digest_of(path)} for name, path in plan.weights.items()},
        "left_out": left_out(plan, failed),
        "undone": undone_told(undone),
    }
    write_atomically(out / "about.json", as_json(about, indent=1) + "\n")
    own = {cell.row(out) for cell in plan.cells}
    return sum(cell.row(out) in own for cell in undone)


def expected(plan: Plan, rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Set, version and protocol of the rows -> runs that a method has there when it is complete."""
    of = {row["dataset"]: row for row in rows}
    return {
        name: len(plan.splits(row["data"], row["protocol"])) * (len(plan.scale.seeds) if row["protocol"] == "A" else 1)
        for name, row in of.items()
    }


def left_out(plan: Plan, failed: dict[str, str]) -> dict[str, str]:
    """Method -> why none of its runs could be done."""
    found = {METHODS[name].title: "WEIGHTS names no weights" for name in plan.missing}
    return found | {METHODS[name].title: failed[program] for name in plan.scale.methods if (program := METHODS[name].program) in failed}


def undone_told(undone: Sequence[Cell]) -> list[str]:
    """Runs that are not done, a line for each method and protocol."""
    count = Counter((cell.title, cell.protocol) for cell in undone)
    return [f"{title}, protocol {protocol}: {counted(number, 'run')} not done" for (title, protocol), number in count.items()]


def card_of(weights: Path) -> dict[str, Any]:
    """What published weights say of themselves: objectives, updates, and the stores with what was left out; empty for others."""
    path = weights / "config.json"
    if not path.is_file():
        return {}
    card = read_json(path).get("card") or {}
    stores = [
        {
            "source": store["source"],
            "inputs": list(store["inputs"]),
            "molecules": store["molecules"],
            "left_out": store["left_out"],
            "exclude": (store["options"].get("exclude") or {}).get("sets", []),
        }
        for store in card.get("stores", ())
    ]
    return {
        "objectives": [each.get("name", "") for each in card.get("objectives", ())],
        "updates": card.get("updates"),
        "stages": bool(card.get("settings", {}).get("start")),
        "notes": list(card.get("notes", ())),
        "stores": stores,
    }


def rows_of(folder: Path) -> list[Row]:
    """All of runs.csv."""
    with (folder / "runs.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def comparisons(folder: Path, rows: Sequence[Row], about: dict[str, Any]) -> tuple[list[Comparison], list[str]]:
    """(what each set and protocol comes to, notes): of the methods that have all of its runs, but the mean or majority.

    That is no competitor: its ROC-AUC is the same on all splits, and its errors would be most of what a pooled variance holds.
    """
    done = Counter((row["method"], row["dataset"]) for row in rows)
    complete = [
        replace(line, costs={})
        for line in lines_of_file(folder / "runs.csv")
        if done[line.method, line.dataset] == about["expected"][line.dataset] and line.method != METHODS["constant"].title
    ]
    if not complete:
        return [], ["no method has all runs of any set and protocol"]
    found, notes = tables(complete)
    return [compare(each, Choices()) for each in found], notes


def dataset_name(data: str, version: str, protocol: str) -> str:
    """As the rows' column `dataset` has it."""
    return f"{DATA_SETS[data].title}, {version}, protocol {protocol}"
